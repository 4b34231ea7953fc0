"""What a search runs beside its trials, from records alone: its planner and its standings."""

from __future__ import annotations

from pathlib import Path

from distributed.searches.jobs.planner import Done, Planner, Run, Wait
from distributed.searches.state.records import SearchJob, SearchLog
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
