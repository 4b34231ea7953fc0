"""The few-shot classes of a search are those that the metric is of, with their rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from distributed.searches.class_rows import count_rows, few_shot_classes, few_shot_note
from distributed.searches.options import SearchOptions
from distributed.searches.recorded import merge_options
from distributed.searches.setup import check_search, prepare
from model.metrics.scoring import shot_groups


@pytest.mark.parametrize(
    "counts",
    [
        [500, 90, 19, 3],
        [500, 101, 100, 20],
        [900, 500, 400, 300, 200],
        [7, 7, 7],
        [5, 300],
        [300, 300],
        [50],
        [9, 8, 7, 6, 5, 4, 3],
    ],
)
def test_they_are_those_of_the_metric(counts: list[int]) -> None:
    names = [f"class {i}" for i in range(len(counts))]
    groups = shot_groups(torch.tensor(counts)).tolist()
    expected = {name for name, group in zip(names, groups) if group == 2}
    assert set(few_shot_classes(dict(zip(names, counts)))) == expected


def test_the_note_counts_the_classes_that_have_rows() -> None:
    rows = {"often": 1900, "rare": 41, "rarer": 16, "absent": 0}
    assert few_shot_note(rows, ("rare", "rarer", "absent")) == "57 rows of 2 classes"
    assert few_shot_note(rows, ("rare",)) == "41 rows of 1 class"
    assert few_shot_note({}, ("rare",)) == ""


def test_a_search_counts_the_rows_of_its_splits(wafer_shards: str) -> None:
    options = merge_options(SearchOptions(data=wafer_shards, space="experts"), None)
    search = count_rows(check_search(prepare(options)))
    for split, rows in (("val", search.val_rows), ("test", search.test_rows)):
        labels = pd.read_parquet(Path(wafer_shards) / split)["label"].value_counts()
        assert sorted(filter(None, rows.values())) == sorted(labels.tolist())
    assert 0 < len(search.few_shot) < len(search.val_rows)
