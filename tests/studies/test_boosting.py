"""The gradient boosting baseline, on small real data."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.shards.manifest import read_manifest
from distributed.studies import boosting
from distributed.training.exchange import Exchange
from distributed.training.run import open_split
from distributed.training.spec import RunSpec


def test_boosting_has_every_training_row_once(
    wafer_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_counts, columns = [], boosting.read_cells

    def counted(source: Any) -> Any:
        cells, labels = columns(source)
        row_counts.append(len(labels))
        return cells, labels

    monkeypatch.setattr(boosting, "read_cells", counted)
    boosting.run_boosting(
        wafer_shards,
        {"data.modalities": "table", "data.sampler": "balanced", "data.batch_size": 512},
    )
    assert row_counts[0] == read_manifest(wafer_shards).rows["train"]


def test_boosting_learns_though_columns_have_no_value_in_training(wafer_shards: str) -> None:
    (clean,) = boosting.run_boosting(
        wafer_shards,
        {"data.modalities": "table", "data.corrupt": "table=missing", "data.max_rows": 100},
    )
    assert clean.test["balanced_accuracy"] == pytest.approx(1 / 9)


def test_boosting_learns_from_the_table_of_the_same_rows(wafer_shards: str) -> None:
    clean, noisy = boosting.run_boosting(
        wafer_shards, {"data.modalities": "table"}, corruptions=("", "table=noise")
    )
    job = RunSpec(shards=wafer_shards, settings={"data.modalities": "table"})
    models = boosting.fit_boosted_trees(
        open_split(job, "train", Exchange(), None, train=False), seed=0
    )
    val = boosting.metrics_by_size(models, open_split(job, "val", Exchange(), None))
    assert clean.val["balanced_accuracy"] == max(m["balanced_accuracy"] for m in val.values()), (
        "its size is the best on validation"
    )
    assert clean.test["balanced_accuracy"] > 0.2  # nine classes
    (trained_on_noise,) = boosting.run_boosting(
        wafer_shards, {"data.modalities": "table", "data.corrupt": "table=noise"}
    )
    assert noisy.val == clean.val
    for worse in (noisy, trained_on_noise):
        assert worse.test["balanced_accuracy"] < clean.test["balanced_accuracy"]
