"""A sampler that knows where good settings are: near the starting point, then near the best so far.

As in PriorBand (Mallik et al. 2023, "PriorBand: practical hyperparameter optimization in the age of
deep learning") a trial is drawn around the defaults, around one of the best trials, or at random.
Few settings change at a time.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from distributed.searches.choosing.priors import (
    DEFAULT_KEEP,
    PriorTrial,
    Question,
    at_random,
    contains,
)
from distributed.searches.state.records import SettingValue, SettingValues, is_finite

RANDOM_SHARES = (0.25, 0.05)  # of the trials that are drawn at random: at the beginning, at the end
BEST_SHARES = (0.5, 0.8)  # of the others, how many are drawn around one of the best trials
MIN_FINISHED = 3  # trials, before one of them counts as one of the best
MOST_CHANGES = (4, 8)  # settings of a trial that change at most: at the beginning, at the end
MOST_SHARES = (0.5, 1.0)  # of all its settings, in a small space
ATTEMPTS = 20  # at a configuration that no earlier trial has


class PriorSampler(BaseSampler):
    """Draws every trial from (seed, number of the trial, trials that had ended when it began).

    So a resumed search draws as one that was never interrupted, and each of several processes that
    share a study draws its own trials.

    trials: budget of the search; what changes during it changes with the trial's number in it.
    ask: asks the space for all settings of a trial.
    start: settings of the search's starting point, by dotted name.
    smooth_metric: a trial's attribute in the study by which the best are found (the smaller the
        better), if every trial has it, and there is one objective; "": the objective itself.
    """

    def __init__(
        self,
        seed: int,
        trials: int,
        ask: Callable[[PriorTrial], object],
        start: SettingValues,
        smooth_metric: str = "",
    ) -> None:
        self.seed, self.trials = seed, trials
        self.ask, self.start, self.smooth_metric = ask, start, smooth_metric
        self._drawn: dict[int, dict[str, SettingValue]] = {}  # by the trial's number

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> SettingValue:
        """The setting in the configuration that is drawn for the trial."""
        if trial.number not in self._drawn:
            self._drawn = {trial.number: self.draw(study, trial)}
        drawn = self._drawn[trial.number]
        if param_name in drawn and contains(param_distribution, drawn[param_name]):
            return drawn[param_name]
        # A space that asks other things when it is asked again.
        return at_random(param_distribution, self._rng(trial.number, param_name))

    def draw(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, SettingValue]:
        """The trial's settings: if possible, such as no earlier trial has."""
        earlier = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
        known = [t.params for t in earlier]
        ended = [t for t in earlier if _ended_before(t, trial)]
        best = best_trials(ended, study.directions, self.smooth_metric)
        settings: dict[str, SettingValue] = {}
        for attempt in range(ATTEMPTS):
            settings = self._draw_once(trial.number, attempt, best)
            if settings not in known:
                break
        return settings

    def _draw_once(
        self, number: int, attempt: int, best: list[FrozenTrial]
    ) -> dict[str, SettingValue]:
        rng = self._rng(number, "", attempt)
        progress = min(1.0, number / max(self.trials, 1))
        trial = PriorTrial(self.start, lambda name: self._rng(number, name, attempt))
        if rng.random() < _between(RANDOM_SHARES, progress):
            trial.changed = None
        else:
            if best and rng.random() < _between(BEST_SHARES, progress):
                # The better of two: of the first m it picks the best one most often.
                trial.around = best[int(rng.integers(len(best), size=2).min())].params
                trial.narrowing = 1 - 0.5 * progress
            unchanged = PriorTrial(self.start, trial.draw, trial.around)
            self.ask(unchanged)
            share = _between(MOST_SHARES, progress)
            most = min(_between(MOST_CHANGES, progress), share * len(unchanged.questions))
            count = int(rng.integers(1, max(1, round(most)) + 1))
            trial.changed = settings_to_change(unchanged.questions, count, rng)
        self.ask(trial)
        return trial.settings

    def _rng(self, number: int, name: str, attempt: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, zlib.crc32(name.encode()), attempt])


def _between(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * progress


def _ended_before(other: FrozenTrial, trial: FrozenTrial) -> bool:
    """Whether a trial had ended when another one began: what ends later must not matter to it."""
    if other.datetime_complete is None or trial.datetime_start is None:
        return False
    return other.datetime_complete <= trial.datetime_start


def settings_to_change(
    questions: dict[str, Question], count: int, rng: np.random.Generator
) -> frozenset[str]:
    """Picks up to `count` of the settings, at least one; a categorical one stays with `keep`."""
    names = [name for name, q in questions.items() if not q.distribution.single()]
    shuffled = [names[k] for k in rng.permutation(len(names))]
    changed: list[str] = []
    for name in shuffled:
        prior = questions[name].prior
        keep = DEFAULT_KEEP if prior.keep is None else prior.keep
        is_categorical = isinstance(questions[name].distribution, CategoricalDistribution)
        if len(changed) < count and not (is_categorical and rng.random() < keep):
            changed.append(name)
    return frozenset(changed or shuffled[:1])


def best_trials(
    ended: Sequence[FrozenTrial], directions: Sequence[StudyDirection], smooth_metric: str = ""
) -> list[FrozenTrial]:
    """The best third of the trials that ended, best first; of those stopped early, none.

    Of several objectives: by how many trials a trial is beaten in all of them.
    """
    complete = [t for t in ended if t.state == TrialState.COMPLETE]
    stopped = sum(t.state == TrialState.PRUNED for t in ended)
    if len(complete) + stopped < MIN_FINISHED:
        return []
    smooth = [t.user_attrs.get(smooth_metric) for t in complete]
    if len(directions) == 1 and all(map(is_finite, smooth)):
        ranks = [float(value) for value in smooth if is_finite(value)]
    else:
        signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]
        points = np.array([t.values for t in complete]).reshape(len(complete), -1) * signs
        ranks = points[:, 0].tolist() if len(signs) == 1 else times_beaten(points)
    order = sorted(range(len(complete)), key=lambda k: (ranks[k], complete[k].number))
    return [complete[k] for k in order[: math.ceil((len(complete) + stopped) / 3)]]


def times_beaten(points: NDArray[np.float64]) -> list[float]:
    """How many other points are as good or better in all objectives, and better in one.

    points: a row for each, with values of which the smaller ones are the better ones.
    """
    beaten = np.zeros(len(points))
    for other in points:
        beaten += (other <= points).all(1) & (other < points).any(1)
    return [float(count) for count in beaten]
