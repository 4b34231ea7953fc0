"""What reaches the process that waits for a run of several workers, whatever is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.train import WorkerGroupError

from distributed.runtime.errors import UnreadableData
from distributed.training.optimisation.divergence import Diverged
from distributed.training.results import RunMetrics
from distributed.training.spec import RunSpec
from distributed.training.states import states_of
from distributed.training.workers import watched_run
from distributed.training.workers.ray_train import worker_mistake
from distributed.training.workers.watched_run import TrainingEnded, run_on_workers
from tests.training import small_run

METRICS = RunMetrics(
    val={"accuracy": 0.5},
    test=None,
    train_seconds=1.0,
    rows_per_second=2.0,
    data_share=0.0,
    epochs=4,
    best_epoch=3,
    calibration="",
)

Message = dict[str, float] | TrainingEnded | None


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "loss": 1 / number}


def run_with(
    messages: list[Message],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    past: int = 0,
) -> tuple[list[float], RunMetrics]:
    """The epochs that were passed on, and the metrics, of a run that sends these messages.

    past: epochs of the saved state that the run goes on from. Its history then grows to four.
    """

    class Scripted:
        def __init__(self, spec: RunSpec) -> None:
            (out / "history.json").write_text(json.dumps([epoch(n) for n in range(1, 5)]))

        def next(self, seconds: float) -> Message:
            return messages.pop(0)

    spec = RunSpec(shards=str(small_run.write_shards(out / "shards", parts=1)), out=str(out))
    if past:
        states = states_of(spec)
        assert states is not None
        states.save(past, {"epoch": past})
    (out / "metrics.json").write_text(json.dumps(METRICS.as_dict()))
    monkeypatch.setattr(watched_run, "RunMessages", Scripted)
    passed_on: list[float] = []
    metrics = run_on_workers(spec, lambda metrics: passed_on.append(metrics["epoch"]))
    return passed_on, metrics


def test_every_epoch_is_passed_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [epoch(1), None, epoch(2), epoch(2), epoch(3), epoch(4), TrainingEnded()]
    passed_on, metrics = run_with(messages, tmp_path, monkeypatch)
    assert passed_on == [1, 2, 3, 4]
    assert metrics == METRICS


def test_epochs_whose_report_was_lost_with_a_worker_come_from_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_on, _ = run_with([epoch(1), epoch(3), TrainingEnded()], tmp_path, monkeypatch)
    assert passed_on == [1, 2, 3, 4]


def test_a_resumed_run_passes_on_its_new_epochs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [epoch(2), epoch(3), epoch(4), TrainingEnded()]
    assert run_with(messages, tmp_path, monkeypatch, past=2)[0] == [3, 4]


def test_the_error_of_the_training_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Diverged, match="not finite"):
        run_with([TrainingEnded(Diverged("not finite"))], tmp_path, monkeypatch)


def test_what_a_worker_says_is_wrong_with_the_data_stays_apart_from_other_mistakes() -> None:
    def mistake(*failures: Exception) -> ValueError | None:
        return worker_mistake(WorkerGroupError("failed", dict(enumerate(failures))))

    damaged = mistake(RuntimeError("lost"), UnreadableData("'part' is damaged"))
    assert (type(damaged), str(damaged)) == (UnreadableData, "'part' is damaged")
    setting = mistake(ValueError("a setting is wrong"))
    assert (type(setting), str(setting)) == (ValueError, "a setting is wrong")
    assert mistake(RuntimeError("lost")) is None
