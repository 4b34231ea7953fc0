"""The records of a search: what each event changes, and what a file of them says again."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from distributed.runtime.storage import DamagedFile
from distributed.searches.state import records
from distributed.searches.state.records import EpochResult, SearchJob, SearchLog, SearchRecord
from model.metrics.names import METRICS

JOB = SearchJob(name="0000", kind="search", label="defaults", settings={"optim.lr": 0.1}, number=0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds since 1970, as the only item of a list."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def result(epoch: int, **metrics: float | None) -> EpochResult:
    return {"epoch": epoch, "epochs": 9, "metrics": metrics}


def lines(log: SearchLog) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_a_job_and_a_record_are_plain_values() -> None:
    plain = {
        "name": "0000",
        "kind": "search",
        "label": "defaults",
        "settings": {"optim.lr": 0.1},
        "number": 0,
        "of": "",
        "seed": None,
        "state": "",
        "members": [],
        "plain": "",
        "method": "",
        "fold": 0,
        "start": "",
    }
    assert JOB.to_dict() == plain
    assert SearchJob(name="a", kind="test").to_dict() == {
        **plain,
        "name": "a",
        "kind": "test",
        "label": "",
        "settings": {},
        "number": None,
    }
    assert SearchRecord(JOB).to_dict() == {
        "job": plain,
        "state": "running",
        "reason": "",
        "epoch": 0,
        "epochs": 0,
        "metrics": {},
        "history": [],
        "started": 0.0,
        "seconds": 0.0,
    }
    assert SearchRecord(JOB).name == "0000"
    assert (*METRICS, "train_seconds") == records.SEARCH_METRICS


def test_an_undefined_metric_is_not_a_number() -> None:
    record = SearchRecord(JOB, metrics={"nll": 0.5, "mcc": None})
    assert record.value("nll") == 0.5
    assert math.isnan(record.value("mcc"))
    assert math.isnan(record.value("ece"))
    assert [records.is_finite(value) for value in (1, 0.5, math.inf, math.nan, None, "1")] == [
        *(True, True, False, False, False, False)
    ]


def test_a_job_is_followed_from_its_start_to_its_end(tmp_path: Path, clock: list[float]) -> None:
    log = SearchLog(tmp_path / "new" / "folder")
    assert log.path == tmp_path / "new" / "folder" / "records.jsonl"
    log.start(JOB)
    record = log.records["0000"]
    assert (record.state, record.started, log.ended()) == ("running", 1000.0, [])
    clock[0] = 1010.0
    log.restart_clock("0000")
    assert record.started == 1010.0
    log.add_epoch("0000", result(1, nll=0.5, mcc=None))
    log.add_epoch("0000", result(2, nll=0.4))
    clock[0] = 1020.0
    log.restart_clock("0000")
    assert record.started == 1010.0, "a job that has an epoch is not waiting"
    assert (record.epoch, record.epochs) == (2, 9)
    assert record.history == [{"epoch": 1, "nll": 0.5}, {"epoch": 2, "nll": 0.4}]
    assert record.metrics == {"nll": 0.4}
    assert not log.path.exists()
    log.finish("0000", "stopped")
    assert (record.state, record.reason, record.seconds) == ("stopped", "", 10.0)
    assert record.metrics == {"nll": 0.4}, "those of the last epoch"
    assert lines(log) == [record.to_dict()]
    clock[0] = 1030.0
    log.restart_clock("0000")
    assert record.started == 1010.0, "a job that has ended is not waiting"
    assert log.ended() == [record]
    assert SearchLog(log.folder).records == {"0000": record}


def test_an_epoch_that_is_repeated_replaces_itself_and_what_came_after(tmp_path: Path) -> None:
    log = SearchLog(tmp_path)
    log.start(JOB)
    for epoch, nll in ((1, 0.5), (2, 0.4), (3, 0.3), (2, 0.45)):
        log.add_epoch("0000", result(epoch, nll=nll))
    record = log.records["0000"]
    assert record.history == [{"epoch": 1, "nll": 0.5}, {"epoch": 2, "nll": 0.45}]
    assert record.epoch == 2
    log.add_epoch("0000", {"epoch": 4, "metrics": {}})  # type: ignore[typeddict-item]
    assert (record.epoch, record.epochs) == (4, 0)


def test_the_end_of_a_job_may_bring_its_metrics_or_its_reason(tmp_path: Path) -> None:
    log = SearchLog(tmp_path)
    for name in ("a", "b"):
        log.start(SearchJob(name=name, kind="test"))
        log.add_epoch(name, result(1, nll=0.5))
    log.finish("a", "complete", {"nll": 0.1})
    log.finish("b", "failed", reason="diverged")
    log.explain_failure("a", "no failure")
    log.explain_failure("b", "no memory")
    assert (log.records["a"].metrics, log.records["a"].reason) == ({"nll": 0.1}, "")
    assert (log.records["b"].state, log.records["b"].reason) == ("failed", "no memory")
    assert [line["reason"] for line in lines(log)] == ["", "diverged", "no memory"]
    assert SearchLog(tmp_path).records == log.records, "of several lines the last one counts"


def test_a_record_from_the_study_is_written_at_once(tmp_path: Path) -> None:
    log = SearchLog(tmp_path)
    record = SearchRecord(JOB, state="complete", metrics={"nll": 0.5})
    log.add(record)
    assert log.records == {"0000": record}
    assert SearchLog(tmp_path).records == {"0000": record}


def test_records_are_chosen_by_kind_and_come_in_the_order_of_their_start(tmp_path: Path) -> None:
    log = SearchLog(tmp_path)
    for name, kind, started in (
        *(("a", "search", 3.0), ("b", "named", 1.0), ("c", "replicate", 2.0), ("d", "test", 0.0)),
    ):
        log.add(SearchRecord(SearchJob(name=name, kind=kind), started=started))
    assert [record.name for record in log.configurations()] == ["b", "a"]
    assert [record.name for record in log.of_kind("replicate", "test")] == ["c", "d"]


def written(tmp_path: Path, count: int) -> list[bytes]:
    """The lines of so many finished jobs."""
    log = SearchLog(tmp_path)
    for number in range(count):
        log.add(SearchRecord(SearchJob(name=f"{number:04d}", kind="search"), state="complete"))
    return log.path.read_bytes().splitlines(keepends=True)


def test_a_line_that_a_kill_has_cut_is_left_out_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = written(tmp_path, 2)
    for end in (b"", whole[1][:3], whole[1][:9], whole[1][:20], whole[1][:-1]):
        (tmp_path / "records.jsonl").write_bytes(whole[0] + end)
        assert [*SearchLog(tmp_path).records] == ["0000"]
    (tmp_path / "records.jsonl").write_bytes(whole[0][:30])
    assert SearchLog(tmp_path).records == {}
    assert capsys.readouterr().err == ""


def test_damaged_lines_are_named_by_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = written(tmp_path, 3)
    path = tmp_path / "records.jsonl"
    for bad in (
        b"junk\n",
        b"[]\n",
        b"{}\n",
        b'{"job": {"name": "x"}}\n',
        b'{"job": 3}\n',
        b"\xff\n",
    ):
        path.write_bytes(b"".join((whole[0], bad, whole[1], bad, whole[2], b"trash")))
        assert [*SearchLog(tmp_path).records] == ["0000", "0001", "0002"]
        assert capsys.readouterr().err == (
            f"warning: {path} is damaged: line 2, 4, 6 is no record;"
            " its job is taken from Optuna's study or runs again\n"
        )
    path.write_bytes(b"junk\n")
    with pytest.raises(DamagedFile) as caught:
        SearchLog(tmp_path)
    assert str(caught.value) == f"{path} is damaged: none of its lines is the record of a job"
