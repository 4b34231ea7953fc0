"""The prior sampler: how far and how often it draws from what it knows, and that it repeats."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from distributed.config import Config, flatten
from distributed.searches.choosing import priors, spaces
from distributed.searches.choosing.prior_sampler import (
    MOST_CHANGES,
    PriorSampler,
    best_trials,
    settings_to_change,
    times_beaten,
)
from distributed.searches.state.recovery import smooth_values
from distributed.searches.state.study_storage import open_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)
START = flatten(Config())
FULL = spaces.SPACES["full"]
KINDS = ["mixture", "confidence", "uniform", "gate", "late", "evidential"]
MAXIMISE = [optuna.study.StudyDirection.MAXIMIZE]


def sampler(
    space: spaces.Space = FULL, *, seed: int = 0, trials: int = 40, start: Any = START
) -> PriorSampler:
    return PriorSampler(seed, trials, lambda trial: spaces.ask(space, trial), start)


def study_of(given: PriorSampler, directions: tuple[str, ...] = ("maximize",)) -> optuna.Study:
    return optuna.create_study(sampler=given, directions=list(directions))


def changes(settings: dict[str, Any], start: dict[str, Any] = START) -> list[str]:
    """The settings that differ from the start; the focal exponent has a centre of its own."""
    own_centre = "loss.focal_gamma"
    return [k for k, v in settings.items() if k != own_centre and v != start[k]]


def value_of(settings: dict[str, Any]) -> float:
    return -float(abs(np.log(settings["optim.lr"] / 5e-3)))


def run(study: optuna.Study, count: int, space: spaces.Space = FULL) -> list[dict[str, Any]]:
    for _ in range(count):
        trial = study.ask()
        study.tell(trial, value_of(spaces.ask(space, trial)))
    return [trial.params for trial in study.trials]


def test_early_trials_change_one_to_four_settings_or_all() -> None:
    study = study_of(sampler(trials=10_000))
    counts = [len(changes(spaces.ask(FULL, study.ask()))) for _ in range(200)]
    few = [count for count in counts if count <= MOST_CHANGES[0]]
    assert min(counts) == 1
    assert set(few) == {1, 2, 3, 4}
    assert 0.15 < 1 - len(few) / len(counts) < 0.35, "the share of random trials"


def test_later_trials_change_more_and_fewer_are_random() -> None:
    given = sampler(trials=200)
    study = study_of(given)
    for _ in range(200):
        study.add_trial(create_trial(state=TrialState.FAIL))
    counts = [len(changes(spaces.ask(FULL, study.ask()))) for _ in range(200)]
    few = [count for count in counts if count <= MOST_CHANGES[1]]
    assert set(few) == set(range(1, MOST_CHANGES[1] + 1))
    assert 0.01 < 1 - len(few) / len(counts) < 0.12


def test_a_search_ends_near_the_best_and_not_at_random() -> None:
    def far(space: spaces.Space) -> list[float]:
        study = study_of(sampler(space))
        return [-value_of(settings) for settings in run(study, 40, space)]

    def steps(trial: Any) -> None:
        trial.suggest_float("optim.lr", 2e-4, 2e-2, log=True)
        trial.suggest_float("optim.weight_decay", 1e-4, 0.5, log=True)

    distances = far(steps)
    assert np.median(distances[30:]) < 0.7 * np.median(distances[:10])
    assert min(distances) < 0.05
    assert np.median(far(FULL)[30:]) < 0.8 * abs(np.log(2e-3 / 5e-3)), "nearer than the start is"


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_resumed_search_draws_what_an_unbroken_one_draws(tmp_path: Path, at_once: int) -> None:
    def search(name: str, restarts: tuple[int, ...]) -> list[dict[str, Any]]:
        path, number = str(tmp_path / name), 0
        for end in (*restarts, 24):
            study = optuna.create_study(
                storage=open_storage(path),
                study_name="s",
                sampler=sampler(),
                direction="maximize",
                load_if_exists=True,
            )
            while number < end:
                trials = [study.ask() for _ in range(at_once)]
                answers = [spaces.ask(FULL, trial) for trial in trials]
                for trial, settings in zip(trials, answers):
                    study.tell(trial, value_of(settings))
                number += at_once
        return [trial.params for trial in study.trials]

    assert search("whole", ()) == search("broken", (6, 12))


def test_a_trial_that_a_kill_left_half_asked_goes_on_as_it_began(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "journal"))
    study = optuna.create_study(storage=storage, study_name="s", sampler=sampler())
    whole = spaces.ask(FULL, study_of(sampler()).ask())
    half = study.ask()
    fusion_kind = half.suggest_categorical("fusion.kind", KINDS)
    again = optuna.load_study(storage=storage, study_name="s", sampler=sampler())
    later = again.ask()  # another one is asked and ends in the meantime
    spaces.ask(FULL, later)
    again.tell(later, 1.0)
    settings = spaces.ask(FULL, optuna.Trial(again, half._trial_id))
    assert settings["fusion.kind"] == fusion_kind
    assert settings == whole


def test_trials_at_the_same_time_differ_from_each_other() -> None:
    def two(trial: Any) -> None:
        trial.suggest_categorical("fusion.kind", ["mixture", "uniform"])
        trial.suggest_int("experts.count", 1, 4)

    study = study_of(sampler(two))
    asked = [str(spaces.ask(two, study.ask())) for _ in range(7)]
    assert len(set(asked)) == 7


def test_several_objectives_are_searched_around_what_none_beats() -> None:
    directions = ("maximize", "minimize")
    points = {0: (0.9, 9.0), 1: (0.5, 1.0), 2: (0.4, 2.0), 3: (0.3, 9.5), 4: (0.95, 9.4)}
    study = study_of(sampler(), directions)
    for values in points.values():
        trial = study.ask()
        spaces.ask(FULL, trial)
        study.tell(trial, values)
    best = best_trials(study.trials, study.directions)
    assert [t.number for t in best] == [0, 1]
    assert spaces.ask(FULL, study.ask())


def test_how_often_a_point_is_beaten() -> None:
    points = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 3.0], [3.0, 3.0]])
    assert times_beaten(points) == [0, 0, 2, 0, 4]


def finished(value: float, state: TrialState = TrialState.COMPLETE, **attrs: float) -> Any:
    values = {"value": value} if state == TrialState.COMPLETE else {}
    return create_trial(state=state, user_attrs=attrs, **values)


def test_the_best_are_a_third_by_the_smooth_metric_where_all_have_it() -> None:
    losses = [0.9, 0.2, 0.8, 0.3, 0.7, 0.6]
    ended = [finished(k / 10, balanced_nll=loss) for k, loss in enumerate(losses)]
    for number, trial in enumerate(ended):
        trial.number = number
    assert [t.number for t in best_trials(ended, MAXIMISE, "balanced_nll")] == [1, 3]
    assert [t.number for t in best_trials(ended, MAXIMISE)] == [5, 4]
    ended[1].set_user_attr("balanced_nll", None)
    assert [t.number for t in best_trials(ended, MAXIMISE, "balanced_nll")] == [5, 4]
    assert best_trials(ended[:2], MAXIMISE) == []


def test_trials_that_were_stopped_early_are_never_among_the_best() -> None:
    ended = [finished(0.5), finished(0.0, TrialState.PRUNED), finished(0.0, TrialState.PRUNED)]
    assert best_trials(ended, MAXIMISE) == ended[:1]
    assert best_trials(ended[1:] * 2, MAXIMISE) == []


def test_a_search_of_another_process_in_the_same_study_draws_other_trials() -> None:
    storage = optuna.storages.InMemoryStorage()
    left = optuna.create_study(storage=storage, study_name="s", sampler=sampler())
    right = optuna.load_study(storage=storage, study_name="s", sampler=sampler())
    drawn = [str(spaces.ask(FULL, study.ask())) for study in (left, right) * 4]
    assert len(set(drawn)) == 8


def test_numbers_are_as_far_from_their_centre_as_the_width_says() -> None:
    ranges = FloatDistribution(1e-4, 1.0, log=True)
    rng = np.random.default_rng(0)
    drawn = [priors.another(ranges, 1e-2, 0.1, rng) for _ in range(2000)]
    decades = np.log10(drawn) + 2
    assert decades.std() == pytest.approx(0.1 * 4, rel=0.05)
    assert decades.mean() == pytest.approx(0.0, abs=0.03)
    at_the_edge = [priors.another(ranges, 1.0, 0.1, rng) for _ in range(500)]
    assert 1e-4 <= min(at_the_edge) <= max(at_the_edge) < 1.0


@pytest.mark.parametrize(
    ("distribution", "centre"),
    [
        (IntDistribution(1, 8), 3),
        (IntDistribution(1, 2), 2),
        (FloatDistribution(0.0, 0.5, step=0.05), 0.0),
        (CategoricalDistribution([True, False]), True),
    ],
)
def test_a_setting_that_changes_has_another_value_of_its_range(
    distribution: Any, centre: Any
) -> None:
    rng = np.random.default_rng(0)
    drawn = {priors.another(distribution, centre, 0.02, rng) for _ in range(50)}
    assert centre not in drawn
    assert all(priors.contains(distribution, value) for value in drawn)


def test_choices_stay_with_the_probability_that_the_space_declares() -> None:
    def question(distribution: Any, keep: float | None = None) -> priors.Question:
        return priors.Question(distribution, priors.Prior(keep=keep), 1)

    choice, number = CategoricalDistribution([1, 2]), IntDistribution(1, 9)
    asked = {"often": question(choice, 0.2), "rarely": question(choice, 0.9)}
    asked |= {"never": question(choice, 1.0), "number": question(number)}
    rng = np.random.default_rng(0)
    counted = Counter(name for _ in range(4000) for name in settings_to_change(asked, 9, rng))
    assert counted["often"] / 4000 == pytest.approx(0.8, abs=0.03)
    assert counted["rarely"] / 4000 == pytest.approx(0.1, abs=0.02)
    assert (counted["never"], counted["number"]) == (0, 4000)
    fixed = {"rarely": question(choice, 1.0), "single": question(IntDistribution(1, 1))}
    assert settings_to_change(fixed, 3, rng) == {"rarely"}, "at least one changes"


def test_a_space_gives_width_keep_and_centre_and_optuna_sees_none_of_them() -> None:
    def mine(trial: Any) -> None:
        trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True, width=0.02, centre=3e-2)
        trial.suggest_categorical("fusion.kind", ["mixture", "uniform"], keep=1.0)
        trial.suggest_int("experts.count", 1, 8, width=0.05, centre=7)

    study = study_of(sampler(mine, trials=10_000))
    asked = [spaces.ask(mine, study.ask()) for _ in range(60)]
    assert study.trials[0].distributions["optim.lr"] == FloatDistribution(1e-4, 1e-1, log=True)
    near = [s for s in asked if 2e-2 < s["optim.lr"] < 4.5e-2 and s["experts.count"] >= 5]
    assert len(near) >= 40
    assert {s["fusion.kind"] for s in near} == {"mixture"}
    random_search = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert spaces.ask(mine, random_search.ask())


@pytest.mark.parametrize(
    ("words", "message"),
    [({"width": 0.0}, "width must be above 0; got 0.0"), ({"width": -1}, "got -1")],
)
def test_a_wrong_width_is_one_clear_error(words: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"space must answer .*{message}"):
        spaces.setting_names(lambda trial: trial.suggest_float("optim.lr", 0.1, 1.0, **words))


def test_a_wrong_probability_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="keep must be in 0 to 1; got 2"):
        spaces.setting_names(
            lambda trial: trial.suggest_categorical("loss.name", ["prior", "focal"], keep=2)
        )


def test_a_space_without_the_starting_point_is_searched_from_its_nearest_point() -> None:
    def far(trial: Any) -> None:
        trial.suggest_float("optim.lr", 0.1, 0.5)
        trial.suggest_float("optim.weight_decay", 0.2, 0.5)
        trial.suggest_categorical("fusion.kind", ["gate", "late"])

    study = study_of(sampler(far, trials=10_000))
    asked = [spaces.ask(far, study.ask()) for _ in range(60)]
    edge = Counter((s["optim.lr"] == 0.1) + (s["optim.weight_decay"] == 0.2) for s in asked)
    assert edge[1] > 20, "a random draw has no value at an edge"
    assert all(0.1 <= s["optim.lr"] <= 0.5 for s in asked)


def test_a_space_that_asks_other_things_each_time_still_gets_answers() -> None:
    calls = iter(range(1000))

    def moody(trial: Any) -> None:
        trial.suggest_float("optim.lr", 0.1, 0.2 + 0.1 * (next(calls) % 3))

    study = study_of(sampler(moody))
    assert all(0.1 <= spaces.ask(moody, study.ask())["optim.lr"] <= 0.4 for _ in range(20))


def test_what_the_study_keeps_beside_the_objective() -> None:
    metrics = {"balanced_accuracy": 0.5, "balanced_nll": 0.7, "nll": 0.3}
    assert smooth_values("balanced_accuracy", metrics) == {"balanced_nll": 0.7}
    assert smooth_values("accuracy", metrics) == {"nll": 0.3}
    assert smooth_values("nll", metrics) == {}
    assert smooth_values("balanced_accuracy", {"balanced_nll": float("nan")}) == {}
