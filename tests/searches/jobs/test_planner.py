"""What a search runs beside its trials, from records alone: its planner and its standings."""

from __future__ import annotations

from pathlib import Path

from distributed.searches.jobs.planner import Done, Planner, Run, Wait
from distributed.searches.state.records import SearchJob, SearchLog, fold_name
from distributed.searches.state.standings import Standings


def standings(folder: Path, **options: int) -> Standings:
    return Standings(SearchLog(folder), ["balanced_accuracy"], **options)


def run(
    of: Standings, job: SearchJob, accuracy: float, loss: float | None, state: str = "complete"
) -> None:
    of.log.start(job)
    of.log.finish(job.name, state, {"balanced_accuracy": accuracy, "balanced_nll": loss})


def trial(number: int, label: str = "") -> SearchJob:
    return SearchJob(name=f"{number:04d}", kind="search", label=label, number=number)


def test_after_the_trials_come_the_model_the_winners_test_and_the_models(tmp_path: Path) -> None:
    found = standings(tmp_path, ensemble=2)
    planner = Planner(found)
    for number, (accuracy, loss) in enumerate([(0.6, 0.9), (0.7, 1.2), (0.5, 0.8)]):
        run(found, trial(number), accuracy, loss)
    assert planner.next_step(searching=True) == Wait()
    model = planner.next_step(searching=False)
    assert isinstance(model, Run)
    assert (model.job.kind, model.job.of, model.job.name) == ("ensemble", "0001", "model-of-3-runs")
    assert model.job.members == ["0002", "0000", "0001"]  # by loss, not by accuracy
    found.log.start(model.job)
    assert planner.next_step(searching=False) == Wait()
    found.log.finish(model.job.name, "complete", {"balanced_accuracy": 0.72})
    winner = planner.next_step(searching=False)
    assert isinstance(winner, Run)
    assert (winner.job.kind, winner.job.of, winner.job.members) == ("test", "0001", ())
    run(found, winner.job, 0.65, 1.0)
    last = planner.next_step(searching=False)
    assert isinstance(last, Run)
    assert (last.job.kind, last.job.of) == ("test", "model-of-3-runs")
    assert last.job.members == model.job.members
    run(found, last.job, 0.7, 0.7)
    assert planner.next_step(searching=False) == Done()
    assert [r.name for r in found.tests()] == [winner.job.name]
    test = found.model_test()
    assert test is not None
    assert test.value("balanced_nll") == 0.7
    run(found, trial(3), 0.4, 2.0)  # an extension
    step = planner.next_step(searching=False)
    assert isinstance(step, Run)
    assert step.job.name == "model-of-4-runs"


def test_a_model_of_which_nothing_came_stops_nothing(tmp_path: Path) -> None:
    found = standings(tmp_path, ensemble=5)
    planner = Planner(found, test=False)
    run(found, trial(0), 0.5, 1.0)
    step = planner.next_step(searching=False)
    assert isinstance(step, Run)
    run(found, step.job, 0.0, None, state="failed")
    assert planner.next_step(searching=False) == Done()
    assert found.model() is None
    assert found.model_test() is None


def test_no_model_is_built_where_none_is_wanted_or_nothing_has_finished(tmp_path: Path) -> None:
    nothing = standings(tmp_path / "a", ensemble=5)
    run(nothing, trial(0), 0.5, 1.0, state="stopped")
    step = Planner(nothing, test=False).next_step(searching=False)
    assert step == Done()
    unwanted = standings(tmp_path / "b", ensemble=0)
    run(unwanted, trial(0), 0.5, 1.0)
    assert Planner(unwanted, test=False).next_step(searching=False) == Done()


def test_the_best_runs_and_the_winner_are_candidates(tmp_path: Path) -> None:
    found = standings(tmp_path, ensemble=2)
    for number in range(8):
        run(found, trial(number), 0.1 * number, 1 + 0.1 * number)
    run(found, trial(8), 0.3, None)
    run(found, trial(9), 0.9, 0.1, state="failed")
    assert found.candidate_members() == ["0000", "0001", "0002", "0003", "0007"]
    replicate = SearchJob(name="0001-seed1", kind="replicate", of="0001", seed=1)
    run(found, replicate, 0.2, 0.5)  # now 0001 leads, the only one with a fresh seed
    assert found.candidate_members() == ["0001-seed1", "0000", "0001", "0002"]


def fold(configuration: str, number: int) -> SearchJob:
    return SearchJob(
        name=fold_name(configuration, number), kind="fold", of=configuration, fold=number
    )


def test_every_configuration_starts_on_one_fold_and_contenders_go_on(tmp_path: Path) -> None:
    found = standings(tmp_path, folds=3, best=1, ensemble=2)
    planner = Planner(found, test=False, validation={"a": 300, "b": 300})
    run(found, trial(0, label="defaults"), 0.60, 0.9)
    start = planner.next_step(searching=True)
    assert isinstance(start, Run)
    assert (start.job.name, start.job.kind, start.job.fold) == ("0000-fold1", "fold", 1)
    assert planner.next_step(searching=True, racing=False) == Wait()
    run(found, start.job, 0.60, 0.9)
    run(found, fold("0000", 2), 0.60, 0.9)
    assert planner.next_step(searching=True) == Wait()
    for number, accuracy in [(1, 0.70), (2, 0.69), (3, 0.68), (4, 0.5)]:
        run(found, trial(number), accuracy, 1 - accuracy)
    # Twice as many as are to lead; the last one is behind by more than noise in any case.
    assert [r.name for r in planner.race.contenders(1)] == ["0001", "0002"]
    second = planner.next_step(searching=False)
    assert isinstance(second, Run)
    assert (second.job.name, second.job.start) == ("0001-fold1", "0000")
    run(found, second.job, 0.64, 0.36)
    third = planner.next_step(searching=False)
    assert isinstance(third, Run)
    assert third.job.name == "0002-fold1"
    run(found, third.job, 0.66, 0.34)
    last = planner.next_step(searching=False)
    assert isinstance(last, Run)
    assert last.job.name == "0002-fold2"
    assert found.winner() is not None and found.winner().title == "defaults"  # type: ignore[union-attr]
    run(found, last.job, 0.65, 0.35)
    winner = found.winner()
    assert winner is not None
    assert (winner.record.name, winner.score("balanced_accuracy")) == ("0002", 0.65)
    model = planner.next_step(searching=False)
    assert isinstance(model, Run)
    assert model.job.kind == "ensemble"
    assert model.job.of == "0002"
    assert {"0002", "0002-fold1", "0002-fold2", "0001-fold1"} <= set(model.job.members)
    assert {"0002-fold2", "0000-fold2"} <= found.kept_checkpoints()


def test_what_falls_behind_by_more_than_noise_gets_no_further_fold(tmp_path: Path) -> None:
    found = standings(tmp_path, folds=5, best=3)
    race = Planner(found, validation={"a": 5000, "b": 5000}).race
    for number, accuracy in enumerate([0.7, 0.695, 0.5]):
        run(found, trial(number), accuracy, 1.0)
    trees = SearchJob(name="trees", kind="named", label="gradient boosting", method="boosting")
    run(found, trees, 0.9, 1.0)
    assert race.noise(1) > race.noise(4) > 0
    assert [r.name for r in race.contenders(1)] == ["0000", "0001", "trees"]
    assert race.contenders(2) == []


def test_the_winner_is_tested_on_every_fold_by_its_checkpoints(tmp_path: Path) -> None:
    found = standings(tmp_path, folds=2, best=1)
    planner = Planner(found)
    run(found, trial(0, label="defaults"), 0.6, 1.0)
    run(found, fold("0000", 1), 0.6, 1.0)
    names = []
    while not isinstance(step := planner.next_step(searching=False), Done):
        assert isinstance(step, Run)
        names.append((step.job.name, step.job.state, step.job.fold))
        run(found, step.job, 0.5, 1.0)
    assert names == [("0000-test", "0000", 0), ("0000-fold1-test", "0000-fold1", 1)]
    assert planner.needed_states() == set()


def test_one_network_learns_from_the_model_and_is_tested_last(tmp_path: Path) -> None:
    found = standings(tmp_path, ensemble=3)
    planner = Planner(found, distil=True)
    run(found, trial(0, label="defaults"), 0.6, 1.0)
    jobs = []
    while not isinstance(step := planner.next_step(searching=False), Done):
        assert isinstance(step, Run)
        jobs.append((step.job.kind, step.job.method, step.job.of))
        run(found, step.job, 0.7, 1.0)
    learned = "model-of-1-runs-distilled"
    assert jobs == [
        ("ensemble", "", "0000"),
        ("distilled", "distilled", "model-of-1-runs"),
        ("test", "", "0000"),
        ("test", "", "model-of-1-runs"),
        ("test", "distilled", learned),
    ]
    test = found.distilled_test()
    assert test is not None
    assert test.job.of == learned
    assert [r.job.of for r in found.tests()] == ["0000"]
