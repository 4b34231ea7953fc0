"""Folds: every row is held out once, classes are spread evenly, and no group is parted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.config import Config, apply_changes
from distributed.shards.batches import MemorySource, open_batches
from distributed.shards.folds import assign_folds, read_groups, select_fold
from distributed.shards.index import read_index
from distributed.shards.layout import POOL
from distributed.shards.manifest import read_manifest
from distributed.shards.memory import load_splits
from distributed.training.requirements import check_training
from distributed.training.run import run_training
from distributed.training.spec import RunSpec
from tests.training import small_run

FOLDS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_run.write_shards(tmp_path_factory.mktemp("folds") / "shards"))


def settings(fold: int, **changes: object) -> Config:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return apply_changes(Config(), {"data.folds": FOLDS, "data.fold": fold, **named})


def test_every_row_is_held_out_once_and_trains_the_other_folds(shards: str) -> None:
    manifest = read_manifest(shards)
    cuts = [select_fold(shards, manifest, settings(fold)) for fold in range(FOLDS)]
    held = np.concatenate([cut.val.rows_R for cut in cuts])
    assert sorted(held) == list(range(manifest.rows["train"] + manifest.rows["val"]))
    for cut in cuts:
        assert sorted({*cut.val.rows_R, *cut.train.rows_R}) == sorted(held)
        assert not {*cut.val.rows_R} & {*cut.train.rows_R}
        for label, count in enumerate(cut.train.counts_C):
            ranks = cut.train.ranks_R[cut.train.labels_R == label]
            assert sorted(ranks) == list(range(count))
    by_class = np.array([cut.val.counts_C for cut in cuts])
    assert np.ptp(by_class, axis=0).max() <= 1


def test_the_rows_in_use_are_those_that_the_settings_leave(shards: str) -> None:
    manifest = read_manifest(shards)
    cut = select_fold(shards, manifest, settings(1, data__max_rows=60))
    assert len(cut.rows_R) == 60 + manifest.rows["val"]
    assert len(cut.train) + len(cut.val) == len(cut.rows_R)


def test_groups_stay_together_and_classes_are_spread() -> None:
    rng = np.random.default_rng(0)
    groups_R = rng.integers(0, 150, 600)
    labels_R = np.searchsorted([0.7, 0.95], rng.random(600))
    fold_R = assign_folds(labels_R, groups_R, 5)
    assert all(len(set(fold_R[groups_R == group])) == 1 for group in set(groups_R))
    for label in range(3):
        counts = np.bincount(fold_R[labels_R == label], minlength=5)
        assert counts.max() <= 1.35 * counts.mean() + 1, (label, counts)
    alone = assign_folds(labels_R, None, 5)
    assert all(np.ptp(np.bincount(alone[labels_R == label])) <= 1 for label in range(3))


def test_the_groups_of_the_data_are_read(tmp_path: Path) -> None:
    folder = small_run.write_shards(tmp_path / "shards")
    assert read_groups(read_index(str(folder), POOL)) is None
    rows = 0
    for part in [*sorted(folder.glob("train/*")), *sorted(folder.glob("val/*"))]:
        table = pq.read_table(part)
        numbers = range(rows, rows + len(table))
        names = [None if i % 5 == 4 else f"g{i // 3}" for i in numbers]
        rows += len(table)
        pq.write_table(table.append_column("group", pa.array(names, pa.string())), part)
    manifest = folder / "schema.json"
    plain = json.loads(manifest.read_text())
    del plain["parts"], plain["checksum"]
    manifest.write_text(json.dumps(plain))
    index = read_index(str(folder), POOL)
    groups_R = read_groups(index)
    assert groups_R is not None and len(groups_R) == index.rows
    assert groups_R[0] == groups_R[1] == groups_R[2] != groups_R[3]
    assert np.count_nonzero(groups_R == groups_R[4]) == 1
    cut = select_fold(str(folder), read_manifest(str(folder)), settings(0))
    assert not {*groups_R[cut.val.rows_R]} & {*groups_R[cut.train.rows_R]}


@pytest.mark.parametrize("split", ["train", "val"])
def test_memory_stream_and_shared_rows_give_the_same_batches(shards: str, split: str) -> None:
    config = settings(2, data__flip="none", data__batch_size=16)
    shared = load_splits(shards, config, ("train", "val"))
    assert shared is not None and list(shared) == [POOL]
    whole, given, streamed = (
        open_batches(shards, split, changed, train=False, arrays=arrays)
        for changed, arrays in (
            (settings(2, data__cache="memory"), None),
            (config, shared[POOL]),
            (settings(2, data__cache="stream"), None),
        )
    )
    assert isinstance(whole, MemorySource)
    assert whole.rows == given.rows == streamed.rows > 0
    for batches in zip(whole.batches(0), given.batches(0), streamed.batches(0), strict=True):
        for other in batches[1:]:
            torch.testing.assert_close(other.images["photo"], batches[0].images["photo"])
            torch.testing.assert_close(other.labels_B, batches[0].labels_B)
            torch.testing.assert_close(other.ranks_B, batches[0].ranks_B)
    assert sum(whole.schema.counts) == len(select_fold(shards, read_manifest(shards), config).train)


def test_a_fold_trains_and_the_test_split_stays_as_it_is(shards: str) -> None:
    changes = {**small_run.SETTINGS, "optim.epochs": 4, "data.folds": 3, "data.fold": 1}
    result = run_training(RunSpec(shards=shards, settings=changes))
    rows = sum(small_run.SPLITS["train"]) + sum(small_run.SPLITS["val"])
    assert result.validation is not None
    assert abs(len(result.validation.labels_V) - rows / 3) < 2
    assert len(result.scores["test"].labels_N) == sum(small_run.SPLITS["test"])


def test_a_fold_that_does_not_exist_is_refused(shards: str) -> None:
    schema = read_manifest(shards).schema
    with pytest.raises(ValueError, match=r"data\.fold must be below data\.folds=4; got 4"):
        check_training(settings(4), schema, 1)
