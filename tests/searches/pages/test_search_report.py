"""The report of a search says whose it is: data set, experiment, date, rows."""

from __future__ import annotations

import time
from pathlib import Path

from distributed.searches.options import SearchOptions
from distributed.searches.pages import tables
from distributed.searches.pages.notes import SearchNotes, data_name
from distributed.searches.pages.report import report_lead, report_title
from distributed.searches.recorded import merge_options
from distributed.searches.setup import Setup
from distributed.searches.state.records import SearchJob, SearchLog
from distributed.searches.state.standings import Standings


def test_the_title_names_the_data_set_and_the_experiment() -> None:
    notes = SearchNotes(data="ham10000")
    assert report_title(notes, "/home/ann/experiments/first/") == "Search on ham10000: first"
    assert report_title(notes, "s3://bucket/second") == "Search on ham10000: second"


def test_the_data_set_has_the_name_of_its_folder() -> None:
    def name(data: str) -> str:
        return data_name(Setup(merge_options(SearchOptions(data=data), None), data, {}, {}, "x"))

    assert name("/data/ham10000") == "ham10000"
    assert name("/data/ham10000/shards") == "ham10000/shards"
    assert name("s3://bucket/fashion/") == "fashion"
    assert name("") == "the built-in wafers"


def test_the_line_below_has_the_date_and_the_rows(tmp_path: Path) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"])
    notes = SearchNotes(rows="2,000 validation rows, 5,000 test rows")
    assert report_lead(standings, SearchNotes()) == (
        "0 configurations, decided by balanced accuracy on validation"
    )
    for name in ("0000", "0001"):
        standings.log.start(SearchJob(name=name, kind="search"))
    standings.log.records["0000"].started = time.mktime((2026, 3, 9, 23, 59, 0, 0, 0, -1))
    assert report_lead(standings, notes) == (
        "Begun on 9 March 2026; 2 configurations, decided by balanced accuracy on validation;"
        " 2,000 validation rows, 5,000 test rows"
    )


def test_few_shot_accuracy_says_on_how_few_rows_it_rests(tmp_path: Path) -> None:
    standings = Standings(SearchLog(tmp_path), ["few_shot_accuracy", "accuracy"])
    scores = {"few_shot_accuracy": 0.5, "accuracy": 0.6}
    standings.log.start(SearchJob(name="0000", kind="search"))
    standings.log.finish("0000", "complete", scores)
    standings.log.start(SearchJob(name="0000-test", kind="test", of="0000"))
    standings.log.finish("0000-test", "complete", scores)
    compared = tables.comparison_table(standings, "57 rows of 2 classes")
    assert compared.columns == (
        "configuration",
        "few-shot accuracy (57 rows of 2 classes) on validation",
        "accuracy",
        "runs",
    )
    titles = [row[0] for row in tables.test_table(standings, "205 rows of 3 classes").rows]
    assert titles == ["few-shot accuracy (205 rows of 3 classes)", "accuracy"]
    assert tables.test_table(standings, "").rows[0][0] == "few-shot accuracy"


def test_the_trials_have_the_rank_that_tensorboard_shows(tmp_path: Path) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"], replicates=1, best=1)
    for name, value, state in (
        ("0000", 0.5, "complete"),
        ("0001", 0.7, "complete"),
        ("0002", 0.9, "stopped"),
    ):
        standings.log.start(SearchJob(name=name, kind="search", settings={"optim.lr": 0.1}))
        standings.log.finish(name, state, {"balanced_accuracy": value})
    standings.log.start(SearchJob(name="0001-seed1", kind="replicate", of="0001", seed=1))
    standings.log.finish("0001-seed1", "complete", {"balanced_accuracy": 0.4})
    table = tables.configurations_table(standings, short=True)
    assert table.columns == (
        *("trial", "rank", "name", "state", "epochs", "seconds"),
        *("balanced accuracy", "mean of fresh seeds", "optim.lr"),
    )
    ranks = {row[0]: row[1] for row in table.rows}
    assert ranks == {"0001": 1, "0000": 2, "0002": None}, "fresh seeds count before one run"
    second = [cell.text for cell in table.cells()[1]]
    assert second[6:] == ["70.0 %", "40.0 %", "0.1"]
    whole = tables.configurations_table(standings)
    assert whole.columns[:2] == ("trial", "rank")
    assert whole.rows[1][whole.columns.index("balanced_accuracy")] == 0.7
