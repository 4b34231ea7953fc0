"""Optuna's journal after a kill, a full disk or damage: lines are whole, and nothing is glued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import analytic
from distributed.runtime.storage import append_lines
from distributed.searches.choosing.samplers import open_study
from distributed.searches.jobs.planner import Planner
from distributed.searches.jobs.searcher import Searcher
from distributed.searches.state.journal import open_journal
from distributed.searches.state.records import SearchLog
from distributed.searches.state.standings import Standings
from distributed.searches.state.study_storage import open_storage
from tests.conftest import fill
from tests.mistakes import mistake

TRIALS = 8
CUTS = 500  # bytes at the end of a journal
METRICS = {"balanced_accuracy": 0.5}  # of every epoch


def searcher(folder: Path, trials: int = TRIALS) -> Searcher:
    """The searcher that a search in this folder starts or goes on with."""
    standings = Standings(SearchLog(folder), ["balanced_accuracy"])
    study = open_study(
        open_storage(str(folder / "study.journal")), "test", ["max"], "random", 0, trials
    )
    named = {"defaults": {"optim.lr": 0.5, "fusion.kind": "uniform"}}
    return Searcher(
        study,
        analytic.space,
        Planner(standings, test=False),
        trials=trials,
        slots=lambda: 2,
        owner="me",
        named=named,
    )


def finish(search: Searcher, number: int) -> None:
    """Runs the jobs of a search one after another as Ray Tune would, at most this many."""
    for count in range(number):
        job = search.suggest(f"t{count}")
        if not isinstance(job, dict):
            return
        for epoch in (1, 2):
            search.log.add_epoch(job["name"], {"epoch": epoch, "epochs": 2, "metrics": METRICS})
            search.on_trial_result(f"t{count}", {"epoch": epoch, "value": 0.5})
        search.on_trial_complete(
            f"t{count}", {"final": 1, "metrics/balanced_accuracy": float(job["name"]) / 10}
        )


def outcome(search: Searcher) -> dict[str, tuple[str, float]]:
    """Label and score of every trial, as the records have them."""
    return {
        name: (record.job.label, record.value("balanced_accuracy"))
        for name, record in search.log.records.items()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    finish(searcher(folder), TRIALS)
    return folder


def test_a_journal_cut_at_each_of_its_last_bytes_resumes(finished: Path, tmp_path: Path) -> None:
    whole = (finished / "study.journal").read_bytes()
    before = outcome(searcher(finished))
    shutil.copy(finished / "records.jsonl", tmp_path)
    for cut in range(1, CUTS + 1):
        (tmp_path / "study.journal").write_bytes(whole[:-cut])
        resumed = searcher(tmp_path)
        assert outcome(resumed) == before
        trials = resumed.study.get_trials(deepcopy=False)
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS
        assert [trial.value for trial in trials] == [n / 10 for n in range(TRIALS)]
        assert resumed.suggest("next") == "FINISHED"


def test_a_search_whose_last_job_was_cut_from_journal_and_records_runs_it_again(
    finished: Path, tmp_path: Path
) -> None:
    lines = (finished / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:50])
    (tmp_path / "study.journal").write_bytes((finished / "study.journal").read_bytes()[:-300])
    finish(searcher(tmp_path), TRIALS)
    assert outcome(searcher(tmp_path)) == outcome(searcher(finished))


@pytest.mark.parametrize("left", [None, b"", b'{"op_code": 0'])
def test_a_lost_journal_is_restored_with_every_number_and_label(
    left: bytes | None, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (finished / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:3] + lines[5:]))
    if left is not None:
        (tmp_path / "study.journal").write_bytes(left)
    search = searcher(tmp_path)
    assert "had lost 6 trials of 6" in capsys.readouterr().err
    originals = searcher(finished).study.get_trials(deepcopy=False)
    trials = search.study.get_trials(deepcopy=False)
    for number in (0, 1, 2, 5, 6, 7):
        for name in ("params", "distributions", "value", "intermediate_values"):
            assert getattr(trials[number], name) == getattr(originals[number], name)
    assert trials[0].user_attrs["label"] == "defaults"
    finish(search, TRIALS)
    assert sorted(search.log.records) == [f"{n:04d}" for n in (0, 1, 2, 5, 6, 7, 8, 9)]
    assert [record.job.label for record in search.log.records.values()].count("defaults") == 1


def test_numbers_that_another_search_holds_are_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "records.jsonl", tmp_path)
    other = open_study(
        open_storage(str(tmp_path / "study.journal")), "test", ["max"], "random", 0, 1
    )
    other.ask().set_user_attr("owner", "another")
    with mistake("^--storage must hold the trials of this search; trial 0 of the study 'test'"):
        searcher(tmp_path)


def test_a_full_disk_leaves_whole_lines_and_no_failed_trial(small_disk: Path) -> None:
    search = searcher(small_disk, trials=40)
    finish(search, 3)
    fill(small_disk)
    finish(search, 40)
    assert str(search.stop_error).startswith(f"no space left: {small_disk}/")
    assert search.suggest("next") is None
    for name in ("study.journal", "records.jsonl"):
        assert all(map(json.loads, (small_disk / name).read_text().splitlines()))
    (small_disk / "filler").unlink()
    resumed = searcher(small_disk, trials=40)
    finish(resumed, 80)
    assert [trial.state.name for trial in resumed.study.trials] == ["COMPLETE"] * 40
    assert {record.state for record in resumed.log.records.values()} == {"complete"}
    assert len(SearchLog(small_disk).records) == 40


def test_a_damaged_line_inside_a_journal_is_named(finished: Path, tmp_path: Path) -> None:
    lines = (finished / "study.journal").read_bytes().splitlines(keepends=True)
    path = tmp_path / "study.journal"
    for damage, named in ((lines[3][:20] + lines[4], "line 4"), (b"\x00\xff\n", "line 4")):
        path.write_bytes(b"".join([*lines[:3], damage, *lines[5:]]))
        with mistake(f"^{path} is damaged: {named} is no entry of Optuna's journal"):
            open_journal(path)
    path.write_bytes(b"".join(lines[:3]) + b'{"op_code": 4}\n')
    with mistake(f"^{path} is damaged: "):
        open_journal(path)


def test_damaged_records_are_named_and_their_jobs_taken_from_the_study(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(finished / "study.journal", tmp_path)
    lines = (finished / "records.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"".join([lines[0], b"\x00junk\n", lines[2][:30] + b"\n", *lines[3:]]))
    search = searcher(tmp_path)
    assert f"warning: {path} is damaged: line 2, 3 is no record" in capsys.readouterr().err
    assert outcome(search) == outcome(searcher(finished))
    for content in (b"\x00\x01\x02", b"[]\n", b"junk\n" * 3):
        path.write_bytes(content)
        with mistake(f"^{path} is damaged: none of its lines is the record of a job$"):
            SearchLog(tmp_path)


def test_lines_are_appended_behind_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for before, kept in ((b"", b""), (b"a\nb", b"a\n"), (b"ab", b""), (b"a\n", b"a\n")):
        path.write_bytes(before)
        append_lines(str(path), b"c\n")
        assert path.read_bytes() == kept + b"c\n"
