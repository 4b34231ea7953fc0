"""The searcher under Ray Tune, on a cheap objective: what Optuna is told, failures, restarts,
extensions, shared studies.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from benchmarks import analytic
from distributed import config
from distributed.runtime.command import one_line
from distributed.runtime.errors import UnreadableData
from distributed.runtime.signals import Interrupted, StopRequest
from distributed.searches.choosing.samplers import Surroundings, open_study
from distributed.searches.choosing.spaces import ask
from distributed.searches.choosing.stoppers import STOPPERS, EarlierTrial, recall
from distributed.searches.jobs import tuner
from distributed.searches.jobs.planner import Done, Planner, Run, Wait
from distributed.searches.jobs.searcher import DiskFull, Searcher
from distributed.searches.pages.board import SearchBoard
from distributed.searches.state.mirror import Mirror
from distributed.searches.state.records import SearchJob, SearchLog, SearchRecord
from distributed.searches.state.standings import Standings
from distributed.searches.state.study_storage import open_storage

DEFAULTS = {"optim.lr": 0.5, "fusion.kind": "confidence", "fusion.temperature": 0.25}
NAMED = {"defaults": DEFAULTS, "concatenation": {"optim.lr": 0.5, "fusion.kind": "uniform"}}

pytestmark = pytest.mark.usefixtures("ray_local")


def make(
    folder: Path,
    *,
    metrics: tuple[str, ...] = ("balanced_accuracy",),
    sampler: str = "tpe",
    url: str = "",
    **options: Any,
) -> Searcher:
    standings = Standings(
        SearchLog(folder), list(metrics), replicates=options.pop("replicates", 0), best=2
    )
    storage = open_storage(url or str(folder / "study.journal"))
    trials = options.setdefault("trials", 8)
    study = open_study(
        storage,
        "test",
        ["max"] * len(metrics),
        sampler,
        0,
        trials,
        Surroundings(ask=lambda trial: ask(analytic.space, trial), start=DEFAULTS),
    )
    owner = options.pop("owner", "me")
    return Searcher(
        study,
        analytic.space,
        Planner(standings),
        slots=lambda: 2,
        owner=owner,
        named=options.pop("named", NAMED),
        **options,
    )


def run(
    searcher: Searcher,
    stopper_name: str = "none",
    on_step: Callable[[], None] | None = None,
    **trouble: Any,
) -> Standings:
    trainable = functools.partial(analytic.trainable, **trouble)
    request = StopRequest()
    searcher.request = request  # type: ignore[attr-defined]
    stopper = STOPPERS[stopper_name]("max", analytic.EPOCHS)
    tuner.run(
        searcher,
        trainable,
        stopper,
        tuner.TrialProcess({"CPU": 1}),
        on_step=on_step,
        request=request,
    )
    return searcher.standings


def states(searcher: Searcher) -> list[TrialState]:
    return [t.state for t in searcher.study.trials]


def test_defaults_come_first_and_optuna_is_told_of_early_stops(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=16, replicates=2)
    standings = run(searcher, "asha")
    trials = searcher.study.trials
    assert trials[0].params == DEFAULTS
    assert trials[1].params["fusion.kind"] == "uniform"
    assert len(trials) == 16
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        record = standings.log.records[f"{trial.number:04d}"]
        last = max(trial.intermediate_values)
        whole = trial.state == TrialState.COMPLETE
        assert record.state == ("complete" if whole else "stopped")
        assert last == record.epoch
        assert whole == (last == analytic.EPOCHS)
        assert trial.intermediate_values[last] == pytest.approx(
            analytic.score(trial.params) * last / analytic.EPOCHS
        )


def test_named_configurations_are_never_stopped_and_the_best_are_run_again(tmp_path: Path) -> None:
    standings = run(make(tmp_path, trials=12, replicates=2), "asha")
    assert [r.state for r in standings.named()] == ["complete"] * 2
    again = standings.log.of_kind("replicate")
    candidates = standings.candidates()
    assert {c.name for c in standings.named()} < {c.name for c in candidates}
    repeated = standings.repeated()
    assert [r.job.label for r in repeated] == ["", "", "defaults"]
    assert {(r.job.of, r.job.seed) for r in again} == {
        (c.name, seed) for c in repeated for seed in (1, 2)
    }
    assert [s.title for s in standings.ran_once()] == ["concatenation"]
    assert standings.ordered()[-1].title == "concatenation"
    assert all(r.state == "complete" for r in again)
    winner = standings.winner()
    assert winner is not None
    assert winner.record.metrics["balanced_accuracy"] == max(
        r.metrics["balanced_accuracy"] for r in candidates
    )
    assert [r.job.state for r in standings.tests()] == [
        f"{winner.record.name}-seed{s}" for s in (1, 2)
    ]


def test_failures_keep_their_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=8)
    standings = run(searcher, trouble=True)
    assert states(searcher)[2:5] == [TrialState.FAIL] * 3
    assert states(searcher).count(TrialState.COMPLETE) == 5
    assert standings.log.records["0002"].reason == "a bad combination"
    assert "died" in standings.log.records["0003"].reason
    assert standings.log.records["0004"].reason == "balanced_accuracy is not a number"
    read = SearchLog(tmp_path)
    assert {r.name: r.reason for r in read.records.values()} == {
        r.name: r.reason for r in standings.log.records.values()
    }


# tpe with asha is the first test's
@pytest.mark.parametrize(
    ("sampler", "stopper"),
    [("random", "median"), ("cmaes", "hyperband"), ("gp", "none"), ("prior", "asha")],
)
def test_samplers_and_stoppers_by_name(tmp_path: Path, sampler: str, stopper: str) -> None:
    searcher = make(tmp_path, sampler=sampler, trials=14)
    run(searcher, stopper)
    assert len(searcher.study.trials) == 14
    assert set(states(searcher)) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert (TrialState.PRUNED in states(searcher)) == (stopper != "none")
    assert len({str(t.params) for t in searcher.study.trials}) >= 13


def test_several_metrics_give_a_front(tmp_path: Path) -> None:
    searcher = make(
        tmp_path, metrics=("balanced_accuracy", "worst_recall"), sampler="nsga2", trials=10
    )
    standings = run(searcher)
    assert all(t.state == TrialState.COMPLETE and len(t.values) == 2 for t in searcher.study.trials)
    assert (
        len(standings.front()) == len(searcher.study.best_trials) == 10
    )  # one is the other's negative: nothing is beaten


def test_interrupted_trials_continue_from_their_state_and_lose_nothing(tmp_path: Path) -> None:
    first = make(tmp_path, trials=8)

    def stop() -> None:
        under_way = any(
            t.state == TrialState.RUNNING and t.intermediate_values for t in first.study.trials
        )
        if under_way and states(first).count(TrialState.COMPLETE) >= 3:
            first.request.received = 15  # type: ignore[attr-defined]

    with pytest.raises(Interrupted, match="SIGTERM"):
        run(first, on_step=stop, pause=0.15, folder=str(tmp_path))
    running = [t.number for t in first.study.trials if t.state == TrialState.RUNNING]
    done = {t.number: t.params for t in first.study.trials if t.state == TrialState.COMPLETE}
    assert running
    second = make(tmp_path, trials=8)
    standings = run(second, pause=0.15, folder=str(tmp_path))
    assert states(second) == [TrialState.COMPLETE] * 8
    assert {n: second.study.trials[n].params for n in done} == done
    assert any(standings.log.records[f"{n:04d}"].metrics["started_at"] > 0 for n in running)
    assert [t.user_attrs.get("label") for t in second.study.trials[:2]] == [
        "defaults",
        "concatenation",
    ]


def drive(searcher: Searcher, jobs: int, *, leave_running: bool = False) -> None:
    """Runs that many jobs one after another, without Ray Tune; perhaps starts one more."""
    for number in range(jobs + leave_running):
        job = searcher.suggest(f"t{number}")
        assert isinstance(job, dict)
        if number < jobs:
            value = analytic.score(job["settings"])
            metrics = {"balanced_accuracy": value, "balanced_nll": -value}
            flat = {f"metrics/{name}": number for name, number in metrics.items()}
            searcher.on_trial_complete(f"t{number}", {"final": 1, "epoch": 6, **flat})


def test_with_the_prior_sampler_a_search_that_was_killed_twice_equals_an_unbroken_one(
    tmp_path: Path,
) -> None:
    whole = make(tmp_path / "whole", sampler="prior", trials=14)
    drive(whole, 14)
    for jobs in (4, 5):
        drive(make(tmp_path / "broken", sampler="prior", trials=14), jobs, leave_running=True)
    last = make(tmp_path / "broken", sampler="prior", trials=14)
    drive(last, 5)
    assert [t.params for t in last.study.trials] == [t.params for t in whole.study.trials]
    assert [t.user_attrs["balanced_nll"] for t in last.study.trials] == [
        -t.value for t in whole.study.trials
    ]
    records = [searcher.log.configurations() for searcher in (whole, last)]
    assert [r.job.settings for r in records[0]] == [r.job.settings for r in records[1]]


def fills_its_disk(job: dict[str, Any], folder: str) -> None:
    """The cheap objective, which keeps a file of 32 KiB for every trial."""
    Path(folder, f"{job['name']}.state").write_bytes(bytes(32 << 10))
    analytic.trainable(job)


@pytest.mark.slow
def test_a_full_disk_stops_the_search_and_fails_no_trial(small_disk: Path) -> None:
    first = make(small_disk, trials=12)
    trainable = functools.partial(fills_its_disk, folder=str(small_disk))
    stopper, process = STOPPERS["none"]("max", 1), tuner.TrialProcess({"CPU": 1})
    with pytest.raises(DiskFull, match="no space left"):
        tuner.run(first, trainable, stopper, process)
    assert TrialState.FAIL not in states(first)
    assert TrialState.RUNNING in states(first)
    for file in small_disk.glob("*.state"):
        file.unlink()
    second = make(small_disk, trials=12)
    run(second)
    assert states(second) == [TrialState.COMPLETE] * 12
    assert {record.state for record in second.log.records.values()} == {"complete"}


def test_damaged_data_stop_the_search_and_fail_no_trial(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=4)
    for name in ("a", "b"):
        assert isinstance(searcher.suggest(name), dict)
    searcher.on_trial_complete("a", {"final": 1, "unreadable_data": "'/x' is damaged"})
    searcher.on_trial_complete("b", {"final": 1, "full_disk": "no space left"})
    searcher.on_trial_complete("b", error=True)
    assert type(searcher.stop_error) is UnreadableData
    assert str(searcher.stop_error) == "'/x' is damaged", "the first that was met"
    assert searcher.suggest("d") is None
    assert states(searcher) == [TrialState.RUNNING] * 2
    assert {record.state for record in searcher.log.records.values()} == {"running"}


def test_a_finished_search_is_extended(tmp_path: Path) -> None:
    run(make(tmp_path, trials=5, replicates=1))
    searcher = make(tmp_path, trials=9, replicates=1)
    standings = run(searcher)
    assert len(searcher.study.trials) == len(standings.log.of_kind("search")) == 9
    values = [t.value for t in searcher.study.trials]
    assert len(set(values)) == 9  # the sampler did not start its draws again


def test_searches_share_a_study_without_taking_each_others_trials(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    left = make(tmp_path / "left", owner="left", url=url, trials=4)
    orphan = left.study.ask()
    orphan.set_user_attr("owner", "left")
    right = make(tmp_path / "right", owner="right", url=url, trials=6, named={})
    standings = run(right)
    assert len(standings.log.of_kind("search")) == 6
    assert right.study.trials[orphan.number].state == TrialState.RUNNING
    run(make(tmp_path / "left", owner="left", url=url, trials=4))
    assert [t.state for t in right.study.trials] == [TrialState.COMPLETE] * 10


def test_a_trial_with_a_record_is_ended_in_the_study_after_a_kill(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=3)
    trial = searcher.study.ask()
    trial.set_user_attr("owner", "me")
    job = SearchJob(name=f"{trial.number:04d}", kind="search", number=trial.number)
    searcher.log.start(job)
    searcher.log.finish(job.name, "complete", {"balanced_accuracy": 0.5})
    again = make(tmp_path, trials=3)
    optuna_trial = again.study.trials[trial.number]
    assert (optuna_trial.state, optuna_trial.value) == (TrialState.COMPLETE, 0.5)


def test_a_named_configuration_that_was_given_to_optuna_and_not_run_is_run_once(
    tmp_path: Path,
) -> None:
    searcher = make(tmp_path, trials=4)
    searcher.study.enqueue_trial(
        NAMED["defaults"], user_attrs={"owner": "me", "label": "defaults"}
    )  # killed here
    standings = run(make(tmp_path, trials=4))
    assert sorted(r.job.label for r in standings.log.of_kind("search")) == [
        "",
        "",
        "concatenation",
        "defaults",
    ]
    assert len(searcher.study.trials) == 4


def test_a_finished_trial_without_a_record_gets_one(tmp_path: Path) -> None:
    whole = run(make(tmp_path, trials=8), "asha")
    lines = whole.log.path.read_text().splitlines(keepends=True)
    whole.log.path.write_text(
        "".join(
            line for line in lines if '"name": "0000"' not in line and '"name": "0004"' not in line
        )
    )
    again = make(tmp_path, trials=8)
    for name in ("0000", "0004"):
        lost, rebuilt = whole.log.records[name], again.log.records[name]
        assert (rebuilt.job, rebuilt.state, rebuilt.epoch) == (lost.job, lost.state, lost.epoch)
        assert rebuilt.metrics["balanced_accuracy"] == lost.metrics["balanced_accuracy"]
        assert [(e["epoch"], e["balanced_accuracy"]) for e in rebuilt.history] == [
            (e["epoch"], e["balanced_accuracy"]) for e in lost.history
        ]
    assert SearchLog(tmp_path).records["0004"].state == whole.log.records["0004"].state


def test_a_mirror_sends_the_study_before_the_records_and_whole_lines_only(tmp_path: Path) -> None:
    mirror = Mirror(f"file://{tmp_path}/bucket")
    for name in ("experiment.json", "study.journal", "records.jsonl", "a.txt"):
        (mirror.folder / name).write_text("{}\nhalf")
    mirror.upload()
    sent = {path.name: path for path in (tmp_path / "bucket").iterdir()}
    assert sent["experiment.json"].read_text() == sent["a.txt"].read_text() == "{}\nhalf"
    assert sent["study.journal"].read_text() == sent["records.jsonl"].read_text() == "{}\n"
    times = [
        sent[name].stat().st_mtime_ns
        for name in ("experiment.json", "study.journal", "records.jsonl", "a.txt")
    ]
    assert times == sorted(times)
    with (mirror.folder / "records.jsonl").open("a") as file:
        file.write("\n")
    mirror.upload()
    assert (
        Mirror(f"file://{tmp_path}/bucket").folder / "records.jsonl"
    ).read_text() == "{}\nhalf\n"


def test_a_resumed_search_in_a_bucket_has_every_curve_once(tmp_path: Path) -> None:
    for start in range(3):
        mirror = Mirror(f"file://{tmp_path}/bucket")
        log = SearchLog(mirror.folder)
        name = f"000{start}"
        log.start(SearchJob(name=name, kind="search", settings={"optim.lr": 0.1}))
        log.add_epoch(name, {"epoch": 1, "metrics": {"balanced_accuracy": 0.5}})
        log.finish(name, "complete", {"balanced_accuracy": 0.5})
        standings = Standings(log, ["balanced_accuracy"])
        SearchBoard(standings, config.flatten(config.Config()), ["optim.lr"]).close()
        mirror.upload()
    files = sorted(path.parent.name for path in (tmp_path / "bucket").rglob("events.*"))
    # Of every trial a file with its curves and one with its rank, of the search one with columns.
    assert files == ["0000", "0000", "0001", "0001", "0002", "0002", "bucket"]


def test_until_the_trials_end_only_the_starting_point_is_run_again(tmp_path: Path) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"], replicates=1, best=1)
    planner = Planner(standings)
    complete(standings, "0000", 0.5, label="defaults")
    complete(standings, "0001", 0.6, label="concatenation")
    complete(standings, "0002", 0.9)
    step = planner.next_step(searching=True)
    assert isinstance(step, Run)
    assert step.job.of == "0000"
    complete(standings, step.job.name, 0.5, kind="replicate", of="0000", seed=1)
    assert planner.next_step(searching=True) == Wait()
    step = planner.next_step(searching=False)
    assert isinstance(step, Run)
    assert step.job.of == "0002"


def test_a_search_whose_time_was_too_short_still_has_a_winner(tmp_path: Path) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"], replicates=1, best=1)
    for name, label in (("0000", "defaults"), ("0001", "concatenation")):
        standings.log.start(SearchJob(name=name, kind="search", label=label))
        standings.log.finish(name, "stopped", {"balanced_accuracy": 0.5})
    assert [r.name for r in standings.repeated()] == ["0000"]
    assert standings.winner().record.name == "0000"


def test_baselines_run_once_and_a_single_run_never_wins(tmp_path: Path) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"], replicates=1, best=1)
    complete(standings, "0000", 0.5, label="defaults")
    complete(standings, "0001", 0.9, label="concatenation")
    complete(standings, "0002", 0.6)
    complete(standings, "one-expert", 0.95, kind="named", label="one expert")
    assert [r.name for r in standings.repeated()] == ["0002", "0000"]
    for name in ("0002", "0000"):
        complete(standings, f"{name}-seed1", 0.4, kind="replicate", of=name, seed=1)
    assert standings.winner().record.name in ("0002", "0000"), "the others may have been lucky"
    assert [s.title for s in standings.ran_once()] == ["one expert", "concatenation"]
    assert not isinstance(Planner(standings, test=False).next_step(searching=False), Run)
    complete(standings, "0001-seed1", 0.7, kind="replicate", of="0001", seed=1)
    assert standings.winner().record.name == "0001", "an earlier version ran it again"


def complete(standings: Standings, name: str, value: float, **job: Any) -> None:
    standings.log.start(SearchJob(**{"kind": "search", **job, "name": name}))
    standings.log.finish(name, "complete", {"balanced_accuracy": value})


def test_an_extension_keeps_a_winner_that_fresh_seeds_have_confirmed(tmp_path: Path) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"], replicates=2, best=1)
    complete(standings, "0000", 0.80)
    for seed in (1, 2):
        complete(standings, f"0000-seed{seed}", 0.80, kind="replicate", of="0000", seed=seed)
    complete(standings, "0000-seed1-test", 0.7, kind="test", of="0000")
    assert not standings.was_extended_after_test()
    complete(standings, "0001", 0.90)  # one lucky run of an extension
    complete(standings, "0001-seed1", 0.95, kind="replicate", of="0001", seed=1)
    assert standings.winner().record.name == "0000"  # the other has one of two
    complete(standings, "0001-seed2", 0.50, kind="replicate", of="0001", seed=2)
    assert [r.name for r in standings.candidates()] == ["0001", "0000"]
    assert standings.winner().record.name == "0000"
    assert standings.was_extended_after_test()


@pytest.mark.parametrize("replicates", [0, 2])
def test_a_test_job_repeats_the_seed_of_the_run_that_it_tests(
    tmp_path: Path, replicates: int
) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"], replicates=replicates)
    planner = Planner(standings, seed=5)
    complete(standings, "0000", 0.8)
    while isinstance(step := planner.next_step(searching=False), Run):
        complete(standings, value=0.8, **step.job.to_dict())
    assert step == Done()
    seeds = {"0000": 5, **{r.name: r.job.seed for r in standings.log.of_kind("replicate")}}
    assert seeds == {"0000": 5, **{f"0000-seed{s}": 5 + s for s in range(1, replicates + 1)}}
    assert [r.job.seed for r in standings.tests()] == [
        seeds[r.job.state] for r in standings.tests()
    ]
    assert len(standings.tests()) == max(replicates, 1)


@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
@pytest.mark.parametrize("undefined", [None, math.nan])
def test_an_epoch_whose_metric_is_undefined_decides_nothing(
    tmp_path: Path, name: str, undefined: float | None
) -> None:
    np.random.seed(0)  # Hyperband draws a bracket for every trial
    standings = Standings(SearchLog(tmp_path), ["precision/a"])
    for number, value in enumerate((0.9, 0.8, 0.7, 0.6)):
        standings.log.start(SearchJob(name=f"{number:04d}", kind="search"))
        for epoch in range(1, 10):
            metrics = {"loss": 1.0, "precision/a": undefined if epoch == 1 else value}
            standings.log.add_epoch(f"{number:04d}", {"epoch": epoch, "metrics": metrics})
        standings.log.finish(f"{number:04d}", "complete", {"precision/a": value})
    stopper = recall(STOPPERS[name]("max", 9), standings.log.configurations(), "precision/a")
    trial = EarlierTrial(SearchRecord(SearchJob(name="new", kind="search")))
    stopper.on_trial_add(None, trial)
    assert {
        stopper.on_trial_result(None, trial, {"epoch": e, "value": undefined}) for e in range(1, 10)
    } == {"CONTINUE"}
    assert stopper.on_trial_result(None, trial, {"epoch": 9, "value": 0.1}) == "STOP"
    stopper.on_trial_complete(None, trial, {"epoch": 9, "value": undefined})


@pytest.mark.parametrize(
    ("name", "epochs"), [("asha", 3), ("asha", 1), ("hyperband", 9), ("median", 4)]
)
def test_no_trial_is_stopped_after_its_last_epoch(name: str, epochs: int) -> None:
    np.random.seed(0)
    stopper = STOPPERS[name]("max", epochs)

    def trial(number: int) -> EarlierTrial:
        return EarlierTrial(SearchRecord(SearchJob(name=f"{number:04d}", kind="search")))

    for number in range(8):
        stopper.recall(trial(number), [{"epoch": e, "value": 0.9} for e in range(1, epochs + 1)])
    for last, decision in ((epochs, "CONTINUE"), (epochs + 1, "STOP")):
        weak = trial(10 + last)
        stopper.on_trial_add(None, weak)
        assert (
            stopper.on_trial_result(None, weak, {"epoch": epochs, "epochs": last, "value": 0.1})
            == decision
        )


def test_a_trial_whose_metric_is_undefined_at_times_goes_on_and_fails_only_at_its_end(
    tmp_path: Path,
) -> None:
    def trainable(config: dict[str, Any]) -> None:
        from ray import tune

        for epoch in range(1, 5):
            metrics = (
                {"loss": 1.0}
                if epoch < 3 or config["number"] == 1
                else {"loss": 1.0, "balanced_accuracy": 0.5}
            )
            last = {"final": 1} if epoch == 4 else {}
            tune.report(
                {
                    **last,
                    "epoch": epoch,
                    "epochs": 4,
                    "value": metrics.get("balanced_accuracy"),
                    "metrics": metrics,
                }
            )

    searcher = make(tmp_path, trials=3)
    tuner.run(searcher, trainable, STOPPERS["asha"]("max", 3), tuner.TrialProcess({"CPU": 1}))
    assert states(searcher) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert searcher.log.records["0001"].reason == "balanced_accuracy is not a number"


@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
def test_a_resumed_search_stops_weak_trials_as_if_never_interrupted(
    tmp_path: Path, name: str
) -> None:
    np.random.seed(0)  # Hyperband draws a bracket for every trial
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"])
    for number, value in enumerate((0.9, 0.8, 0.7, 0.6)):
        standings.log.start(SearchJob(name=f"{number:04d}", kind="search"))
        for epoch in range(1, 10):
            standings.log.add_epoch(
                f"{number:04d}", {"epoch": epoch, "metrics": {"balanced_accuracy": value}}
            )
        standings.log.finish(f"{number:04d}", "complete", {"balanced_accuracy": value})

    def stops(stopper: Any, label: str = "") -> bool:
        trial = EarlierTrial(standings.log.records["0000"])
        trial.trial_id, trial.config["label"] = f"new {label}", label
        stopper.on_trial_add(None, trial)
        return "STOP" in (
            stopper.on_trial_result(None, trial, {"epoch": epoch, "value": 0.1})
            for epoch in (1, 2, 3, 9)
        )

    stopper = STOPPERS[name]("max", 9)
    assert recall(stopper, standings.log.configurations(), "balanced_accuracy") is stopper
    assert stops(stopper)
    assert not stops(stopper, "one expert")
    none = STOPPERS["none"]("max", 9)
    assert recall(none, standings.log.configurations(), "balanced_accuracy") is none


def test_the_time_budget_ends_the_search_but_not_the_replicates(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=500, replicates=1, time_budget=4.0)
    standings = run(searcher, pause=0.05)
    assert 2 <= len(searcher.study.trials) < 500
    assert all(s.is_finished() for s in states(searcher))
    assert len(standings.log.of_kind("replicate")) == len(standings.repeated())
    assert standings.tests()


def test_when_everything_fails_the_search_gives_up(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=50, named={})
    with pytest.raises(tuner.EveryTrialFailed, match="all failed"):
        tuner.run(
            searcher,
            analytic.broken,
            STOPPERS["none"]("max", 1),
            tuner.TrialProcess({"CPU": 1}),
        )
    assert len(searcher.study.trials) < 15


def test_a_line_cut_short_by_a_kill_is_ignored(tmp_path: Path) -> None:
    log = SearchLog(tmp_path)
    for name in ("0000", "0001"):
        log.start(SearchJob(name=name, kind="search"))
        log.finish(name, "complete", {"balanced_accuracy": 0.1})
    log.path.write_text(log.path.read_text()[:-20])
    assert list(SearchLog(tmp_path).records) == ["0000"]
    again = SearchLog(tmp_path)
    again.start(SearchJob(name="0002", kind="search"))
    again.finish("0002", "complete", {"balanced_accuracy": math.nan})
    assert list(SearchLog(tmp_path).records) == ["0000", "0002"]


def test_a_study_keeps_its_objectives(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "s.journal"))
    open_study(storage, "x", ["max"], "tpe", 0, 5)
    with pytest.raises(ValueError, match="keeps its objectives"):
        open_study(storage, "x", ["max", "min"], "tpe", 0, 5)


def test_a_wrong_storage_is_one_clear_error() -> None:
    with pytest.raises(ValueError) as error:
        open_storage("nonsense://x")
    assert re.match(r"--storage must be .* got 'nonsense://x'", one_line(error.value))
