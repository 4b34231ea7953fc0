"""How a split is opened: what a source holds, what it refuses, and how much of it is read ahead."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from distributed.config import Config, apply_changes
from distributed.shards import batches, memory, parallel, prefetching, reader, sharing
from distributed.shards.batches import (
    FrozenViews,
    MemorySource,
    StreamSource,
    arrays_to_batch,
    in_storage_order,
    open_batches,
)
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest, write_manifest
from distributed.shards.memory import load_arrays, load_splits
from tests.shards.small_shards import ROWS

REGIMES = ("memory", "stream")


def opened(
    shards: str, cache: str, split: str = "train", *, train: bool = True, **changes: object
) -> MemorySource | StreamSource:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    config = apply_changes(Config(), {"data.cache": cache, "data.batch_size": 50, **dotted})
    source = open_batches(shards, split, config, train=train)
    assert isinstance(source, MemorySource | StreamSource)
    return source


@pytest.mark.parametrize("cache", REGIMES)
def test_an_epoch_begins_with_its_first_batch(shards: str, cache: str) -> None:
    source = opened(shards, cache)
    assert (source.rows, source.steps) == (600, 12)
    assert len(list(source.batches(0))) == 12


@pytest.mark.parametrize("cache", REGIMES)
def test_every_tensor_of_a_workers_batch_has_its_rows(shards: str, cache: str) -> None:
    config = apply_changes(
        Config(),
        {"data.cache": cache, "data.batch_size": 64, "data.least_batches": 0, "data.spoil": 0.0},
    )
    source = open_batches(shards, "train", config, train=True, rank=1, world=3)
    for batch in source.batches(0):
        assert len(batch.labels_B) == len(batch.ranks_B) == len(batch.present_BM) == 21
        assert (batch.start, batch.total) == (22, 64)


@pytest.mark.parametrize("cache", REGIMES)
def test_training_rows_that_are_evaluated_are_those_that_training_uses(
    shards: str, cache: str
) -> None:
    cut = {"data__imbalance_ratio": 20.0}
    trained = opened(shards, cache, **cut)
    evaluated = opened(shards, cache, train=False, **cut)
    assert trained.rows == evaluated.rows < 600
    np.testing.assert_array_equal(trained.plan.selection.rows_R, evaluated.plan.selection.rows_R)


def test_pairs_are_kept_together_where_training_mixes_them(shards: str) -> None:
    assert opened(shards, "memory", loss__mix="mixup", data__spoil=0.0).plan.paired
    assert opened(shards, "memory").plan.paired  # a spoilt record may get its partner's content
    assert not opened(shards, "memory", data__spoil=0.0).plan.paired
    assert not opened(shards, "memory", train=False, loss__mix="mixup").plan.paired


@pytest.mark.parametrize("cache", REGIMES)
def test_a_mistake_in_a_corruption_is_found_before_anything_is_read(
    shards: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_reading(*_: object) -> None:
        raise AssertionError("nothing may be read")

    monkeypatch.setattr(batches, "read_index", no_reading)
    monkeypatch.setattr(batches, "load_arrays", no_reading)
    with pytest.raises(ValueError, match="a corruption must be"):
        opened(shards, cache, data__corrupt="photo=blur")


def test_a_split_without_rows_in_use_is_refused(shards: str) -> None:
    arrays = load_arrays(shards, "train", read_manifest(shards).schema)
    arrays["labels"][:] = -1
    with pytest.raises(ValueError) as caught:
        open_batches(shards, "train", Config(), train=True, arrays=arrays)
    message = f"a split must have rows to be used; {shards} has none in train/"
    assert str(caught.value) == message


@pytest.mark.parametrize("cache", REGIMES)
def test_a_training_source_gives_its_rows_in_storage_order_too(shards: str, cache: str) -> None:
    train = opened(shards, cache, data__imbalance_ratio=20.0, loss__mix="mixup")
    ordered = in_storage_order(train, 7)
    labels_R = torch.cat([batch.labels_B for batch in ordered.batches(0)])
    assert labels_R.tolist() == train.plan.selection.labels_R.tolist()
    assert [len(batch) for batch in ordered.batches(0)][:-1] == [7] * (ordered.steps - 1)
    assert not ordered.plan.paired
    few = in_storage_order(train, 10_000, max_rows=20)
    assert (few.rows, few.steps, few.plan.size) == (20, 1, 20)
    assert few.plan.selection.ranks_R.max() < 20


def test_a_shuffle_window_is_bounded_in_rows_and_in_bytes(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert opened(shards, "stream", data__shuffle_buffer=300)._buffer == 300
    stored = int(read_index(shards, "train").bytes_U.sum())
    monkeypatch.setattr(batches, "WINDOW_BYTES", stored // 4)
    assert opened(shards, "stream", data__shuffle_buffer=300)._buffer in (149, 150)


def test_a_batch_alone_is_the_first_of_its_own(shards: str) -> None:
    schema = read_manifest(shards).schema
    batch = arrays_to_batch(load_arrays(shards, "test", schema), schema)
    assert (batch.start, batch.total) == (0, 0)


def test_shards_without_labels_have_unknown_ones(shards: str, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_manifest(read_manifest(shards), str(tmp_path))
    pq.write_table(pa.table({"id": ["a", "b"]}), tmp_path / "train" / "part-00000.parquet")
    index = read_index(str(tmp_path), "train")
    assert index.labels_R.tolist() == index.ranks_R.tolist() == [-1, -1]
    assert (index.rows, index.files) == (2, (str(tmp_path / "train" / "part-00000.parquet"),))


def test_a_row_group_is_read_once_for_two_windows(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = read_index(shards, "train")
    assert index.file_U.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert index.group_U.tolist() == [0, 1, 2, 3, 4] * 3
    assert index.row_groups(np.array([0, 39, 40, 599])).tolist() == [0, 0, 1, 14]
    reads: list[tuple[int, bool]] = []
    read_row_group = pq.ParquetFile.read_row_group

    def noted(self: pq.ParquetFile, number: int, **options: object) -> pa.Table:
        reads.append((number, bool(options["use_threads"])))
        return read_row_group(self, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    rows = reader.ShardReader(index, read_manifest(shards).schema)
    first = rows.columns(np.array([41, 3, 250]))
    assert reads == [(0, False), (1, False), (1, False)]
    second = rows.columns(np.array([250, 42]))
    assert len(reads) == 3
    assert first["table.site"][2] == second["table.site"][0]
    assert [first["label"][2], first["rank"][2]] == [second["label"][0], second["rank"][0]]
    assert set(rows.recent) == {1, 6}
    assert rows.__getstate__()["recent"] == {}


def test_only_arrays_without_columns_are_left_to_be_made_again(shards: str) -> None:
    schema = read_manifest(shards).schema.keep(("table",))
    rows = reader.ShardReader(read_index(shards, "test"), schema)
    assert rows.arrays_without_columns(3) == {}
    assert {*rows.arrays_without_columns(0)} >= {"labels", "numbers/table"}


def test_the_regime_follows_the_settings_for_several_splits(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = memory.decoded_row_bytes(read_manifest(shards).schema)
    config = apply_changes(Config(), {"data.memory_share": 0.5})
    monkeypatch.setattr(memory, "object_store_bytes", lambda: 2 * row * (ROWS["val"] + 10))
    both = load_splits(shards, config, ("val", "test"))
    assert both is not None
    assert {name: len(arrays["labels"]) for name, arrays in both.items()} == {
        "val": ROWS["val"],
        "test": 10,
    }
    assert load_splits(shards, config, ("train", "val")) is None
    table = sharing.decode_splits(shards, {"data.modalities": "table"}, ("test",))
    assert table is not None
    assert table["test"]["present"].shape == (10, 1)


def test_without_ray_the_store_is_a_share_of_this_machines_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 50}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert memory.object_store_bytes() == pytest.approx(15_000)
    assert reader.idle_cpus() == 0


def test_with_ray_the_smallest_store_and_the_idle_cpus_of_the_cluster_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What Ray answers of a cluster whose nodes differ, which one machine cannot have."""

    def node(alive: bool = True, **resources: float) -> dict[str, object]:
        return {"Alive": alive, "Resources": resources}

    nodes = [
        node(object_store_memory=700.0),
        node(object_store_memory=500.0),
        node(object_store_memory=100.0, alive=False),
        node(CPU=2.0),
    ]
    for name, answer in (
        ("is_initialized", True),
        ("nodes", nodes),
        ("available_resources", {"CPU": 7.5}),
    ):
        monkeypatch.setattr(ray, name, lambda answer=answer: answer)
    assert memory.object_store_bytes() == 500.0
    assert (reader.idle_cpus(), reader.idle_cpus(2)) == (7, 3)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray, "available_resources", dict)
    assert memory.object_store_bytes() == 0.0
    assert reader.idle_cpus() == 0


@pytest.mark.parametrize(
    ("cores", "world", "threads"), [(1, 1, 2), (3, 1, 3), (8, 1, 4), (8, 2, 4), (8, 3, 2)]
)
def test_few_threads_decode(
    cores: int, world: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert prefetching.decoding_threads(world) == threads
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert prefetching.decoding_threads(world) == threads
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert prefetching.decoding_threads() == 2


def test_work_is_ahead_by_the_depth_and_comes_in_order() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            begun.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = prefetching.prefetch(pool, lambda number: number * 10, items(), 2)
        assert next(results) == 0
        assert begun == [0, 1, 2]
        assert next(results) == 10
        assert begun == [0, 1, 2, 3]
        assert list(results) == [20, 30, 40, 50]


def test_work_that_nobody_waits_for_is_cancelled() -> None:
    ran: list[int] = []
    started, release = threading.Event(), threading.Event()

    def work(number: int) -> int:
        if number:
            started.set()
            release.wait(10)
        ran.append(number)
        return number

    with ThreadPoolExecutor(1) as pool:
        results = prefetching.prefetch(pool, work, range(5), 3)
        assert next(results) == 0
        assert started.wait(10)
        results.close()  # type: ignore[attr-defined]  # a generator
        release.set()
    assert ran == [0, 1]


def test_empty_windows_are_passed_over_and_the_engine_can_be_chosen(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = reader.ShardReader(read_index(shards, "test"), read_manifest(shards).schema)
    nothing, some = reader.Window(np.arange(0), (0,)), reader.Window(np.arange(4), (1, 4))
    decoded = list(parallel.read_batches(rows, [nothing, some], 1, "threads"))
    assert [len(arrays["labels"]) for arrays in decoded] == [1, 3]
    monkeypatch.setattr("distributed.shards.ray_reader.read_in_ray", lambda *given: given)
    assert parallel.read_batches(rows, [nothing, some], 3, "ray") == (rows, [some], 3)


@pytest.mark.parametrize(("degraded", "spoilt"), [([], []), ([], [3]), ([2, 3], []), ([1, 2], [3])])
def test_frozen_views_take_the_place_of_pixels(
    shards: str, degraded: list[int], spoilt: list[int]
) -> None:
    config = apply_changes(Config(), {"data.cache": "memory", "data.batch_size": 600})
    train, in_order = (
        open_batches(shards, "train", config, train=is_training) for is_training in (True, False)
    )
    rows_R = np.arange(0, 1200, 2)
    values_VRK = np.arange(4)[:, None, None] * 1000 + np.arange(600)[:, None] * np.ones((4, 600, 1))
    for source, is_training in ((train, True), (in_order, False)):
        assert isinstance(source, MemorySource)
        source.plan = dataclasses.replace(
            source.plan,
            selection=dataclasses.replace(source.plan.selection, rows_R=np.arange(600)),
        )
        source.frozen = {
            "photo": FrozenViews(values_VRK, np.arange(600), len(degraded), len(spoilt))
        }
        (batch, *_) = source.batches(3)
        assert list(batch.images) == ["xray"]
        views_B = batch.frozen["photo"][:, 0, 0].numpy() // 1000
        rows_B = batch.frozen["photo"][:, 0, 0].numpy() % 1000
        order = source.plan.order(3)[: len(rows_B)]
        assert rows_B.tolist() == order.tolist()
        intact = {0, 1, 2, 3} - {*degraded, *spoilt}
        assert {*views_B} == (intact if is_training else {0})
        for views, of_batch in (
            (degraded, batch.frozen_degraded),
            (spoilt, batch.frozen_spoilt),
        ):
            assert ("photo" in of_batch) == bool(views)
            if views:
                assert {*(of_batch["photo"][:, 0, 0].numpy() // 1000)} == {*views}
    assert isinstance(train, MemorySource)
    again = [
        [batch.frozen["photo"][:, 0].tolist() for batch in train.batches(epoch)]
        for epoch in (3, 3, 4)
    ]
    assert again[0] == again[1] != again[2]
    views = FrozenViews(values_VRK, rows_R).take(np.array([4, 2]), np.array([1, 3]))
    assert views.tolist() == [[[1002.0]], [[3001.0]]]
