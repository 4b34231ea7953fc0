"""The few-shot classes of a search are those that the metric is of, with their rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from distributed.runtime.errors import OptionError
from distributed.searches.class_rows import (
    FOLDS,
    automatic_folds,
    count_rows,
    few_shot_classes,
    few_shot_note,
)
from distributed.searches.options import SearchOptions
from distributed.searches.recorded import merge_options
from distributed.searches.setup import CheckedSearch, check_search, prepare
from distributed.shards.manifest import read_manifest
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
    options = merge_options(SearchOptions(data=wafer_shards, space="experts", folds=1), None)
    search = count_rows(check_search(prepare(options)))
    for split, rows in (("val", search.val_rows), ("test", search.test_rows)):
        labels = pd.read_parquet(Path(wafer_shards) / split)["label"].value_counts()
        assert sorted(filter(None, rows.values())) == sorted(labels.tolist())
    assert 0 < len(search.few_shot) < len(search.val_rows)


def test_few_validation_rows_of_a_class_are_a_reason_for_folds(wafer_shards: str) -> None:
    def counted(**options: int) -> CheckedSearch:
        given = SearchOptions(data=wafer_shards, space="experts", **options)  # type: ignore[arg-type]
        return count_rows(check_search(prepare(merge_options(given, None))))

    alone, folded = counted(folds=1), counted()
    assert (alone.setup.folds, folded.setup.folds) == (1, FOLDS)
    assert folded.setup.options["folds"] == FOLDS
    assert folded.setup.trained["data.folds"] == FOLDS
    assert "data.folds" not in folded.setup.lasting
    rows = read_manifest(wafer_shards).rows
    assert sum(folded.val_rows.values()) == rows["train"] + rows["val"]
    assert counted(replicates=2).setup.folds == 1
    assert automatic_folds({"often": 500, "rare": 20}) == 1
    assert automatic_folds({"often": 500, "rare": 19}) == FOLDS


def test_folds_and_fresh_seeds_do_not_go_together() -> None:
    with pytest.raises(OptionError, match="not both; got replicates 2 and folds 3"):
        merge_options(SearchOptions(replicates=2, folds=3), None)
    with pytest.raises(OptionError, match="set may not name data.folds"):
        merge_options(SearchOptions(set=("data.folds=3",)), None)
