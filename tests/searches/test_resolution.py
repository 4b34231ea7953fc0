"""How small a difference the validation rows can show: by hand, by simulation, and in words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distributed.searches.class_rows import count_rows
from distributed.searches.options import SearchOptions
from distributed.searches.pages import report
from distributed.searches.pages.notes import search_notes
from distributed.searches.recorded import merge_options
from distributed.searches.resolution import (
    ONLY_ONE_IS_RIGHT,
    resolution_note,
    smallest_difference,
)
from distributed.searches.setup import check_search, prepare
from distributed.searches.state.records import SearchLog
from distributed.searches.state.standings import Standings

ROWS = {"often": 300, "seldom": 80, "rare": 20, "never": 0}


def test_the_difference_by_hand() -> None:
    variance = 0.1 * (1 / 300 + 1 / 80 + 1 / 20) / 9
    assert smallest_difference("balanced_accuracy", ROWS) == (
        "balanced_accuracy",
        pytest.approx(1.96 * math.sqrt(variance)),
    )
    assert smallest_difference("accuracy", ROWS) == (
        "accuracy",
        pytest.approx(1.96 * math.sqrt(0.1 / 400)),
    )
    assert smallest_difference("recall/rare", ROWS) == (
        "recall/rare",
        pytest.approx(1.96 * math.sqrt(0.1 / 20)),
    )
    by_balanced_accuracy = smallest_difference("balanced_accuracy", ROWS)
    for metric in ("macro_f1", "nll", "precision/rare", "recall/never"):
        assert smallest_difference(metric, ROWS) == by_balanced_accuracy
    assert smallest_difference("accuracy", {"a": 0}) is None


def test_equal_configurations_differ_by_more_in_five_of_a_hundred_cases() -> None:
    """Each row has one right and one wrong answer, by either, in a tenth of the cases."""
    rng = np.random.default_rng(0)
    counts = [count for count in ROWS.values() if count]
    differences = np.zeros(20_000)
    for count in counts:
        only_one = rng.binomial(count, ONLY_ONE_IS_RIGHT, len(differences))
        first = rng.binomial(only_one, 0.5)
        differences += (first - (only_one - first)) / count / len(counts)
    smallest = smallest_difference("balanced_accuracy", ROWS)
    assert smallest is not None
    assert (np.abs(differences) > smallest[1]).mean() == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    ("metric", "rows", "sentence"),
    [
        (
            "balanced_accuracy",
            ROWS,
            "400 validation rows, 20 of the rarest class: differences below about 5.3 points of"
            " balanced accuracy are noise (95 %, if two configurations differ in being right on one"
            " row in 10).",
        ),
        (
            "accuracy",
            {str(k): count for k, count in enumerate((900, 500, 300, 150, 90, 40, 9, 8, 3))},
            "2,000 validation rows, 3 to 9 of each of the 3 rarest classes: differences below about"
            " 1.4 points of accuracy are noise",
        ),
        ("nll", {"a": 50, "b": 50, "c": 50, "d": 50, "e": 50, "f": 50}, "50 of each of the 2"),
    ],
)
def test_the_sentence(metric: str, rows: dict[str, int], sentence: str) -> None:
    assert sentence in resolution_note(metric, rows)


def test_without_rows_there_is_nothing_to_say() -> None:
    assert resolution_note("accuracy", {"a": 0}) == ""


def test_the_rows_are_counted_and_the_report_begins_with_what_they_show(
    wafer_shards: str, tmp_path: Path
) -> None:
    options = merge_options(SearchOptions(data=wafer_shards, space="experts", folds=1), None)
    search = count_rows(check_search(prepare(options)))
    labels = pd.read_parquet(Path(wafer_shards) / "val")["label"].value_counts()
    assert sorted(search.val_rows.values()) == sorted(labels.tolist())
    notes = search_notes(search)
    assert notes.resolution.startswith(f"{labels.sum()} validation rows, ")
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"])
    first, second, *_ = report.best_settings(standings, {}, {}, "train.py", notes)
    assert isinstance(first, report.Text)
    assert isinstance(second, report.Text)
    assert second.text == notes.resolution
