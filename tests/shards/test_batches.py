"""Batches from memory and streamed: the same rows and tensors, in an order of seed and epoch only,
whatever the number of workers."""

from __future__ import annotations

import dataclasses
import io
import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as pillow
from pyarrow import fs

from distributed.config import Config, apply_changes
from distributed.runtime.storage import filesystem
from distributed.shards import parallel, ray_reader, reader, sampling
from distributed.shards.batches import (
    Arrays,
    BatchSource,
    MemorySource,
    StreamSource,
    arrays_to_batch,
    open_batches,
)
from distributed.shards.corruption import apply_corruption, parse_corruption
from distributed.shards.decode import ColumnArray, decode_columns, numpy_columns
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest, write_manifest
from distributed.shards.memory import decide_cache, load_arrays
from distributed.shards.ray_rows import RowFeed
from model.batch import Batch
from model.schema import Schema
from tests.model import samples
from tests.shards.small_shards import ROWS, encoded


def settings(cache: str = "memory", **changes: object) -> Config:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    fixed: dict[str, object] = {
        "data.cache": cache,
        "data.shuffle_buffer": 128,
        "data.least_batches": 0,
        "inference.batch_size": 50,
    }
    return apply_changes(Config(), {**fixed, **dotted})


def source(
    shards: str,
    cache: str = "memory",
    *,
    split: str = "train",
    train: bool = True,
    rank: int = 0,
    world: int = 1,
    **changes: object,
):
    return open_batches(
        shards, split, settings(cache, **changes), train=train, rank=rank, world=world
    )


def keys(batch: Batch) -> list[tuple[int, int]]:
    """What identifies a row of a split."""
    return list(zip(batch.labels_B.tolist(), batch.ranks_B.tolist()))


def epoch(where: BatchSource, number: int = 0, start: int = 0) -> list[Batch]:
    return list(where.batches(number, start))


def tensors(batch: Batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.apply(lambda t: found.append(t) or t)
    return found


def same(one: Batch, other: Batch) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(
        a.dtype == b.dtype and torch.equal(torch.nan_to_num(a, -9.5), torch.nan_to_num(b, -9.5))
        for a, b in pairs
    )


def by_key(batches: list[Batch]) -> dict[tuple[int, int], Batch]:
    whole = samples.concatenate(batches)
    return {key: whole.select(torch.tensor([i])) for i, key in enumerate(keys(whole))}


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_decoded_content_is_that_of_the_files(shards: str, cache: str) -> None:
    raw = pq.read_table(Path(shards) / "val")
    batch = samples.concatenate(epoch(source(shards, cache, split="val", train=False)))
    assert batch.labels_B.tolist() == raw["label"].to_pylist()
    for i in range(40):
        photo = raw["image.photo"][i].as_py()
        assert batch.present_BM[i, 0].item() == (photo is not None)
        if photo is not None:
            expected = np.asarray(pillow.open(io.BytesIO(photo)).convert("RGB")).transpose(2, 0, 1)
            np.testing.assert_array_equal(batch.images["photo"][i].numpy(), expected)
        expected = np.asarray(pillow.open(io.BytesIO(raw["image.xray"][i].as_py())))[None]
        np.testing.assert_array_equal(batch.images["xray"][i].numpy(), expected)
        age = raw["table.age"][i].as_py()
        assert (
            torch.isnan(batch.numbers["table"][i, 0])
            if age is None or age != age
            else batch.numbers["table"][i, 0] == age
        )
        assert batch.categories["table"][i, 0] == raw["table.site"][i].as_py()
        assert batch.present_BM[i, 2].item() == (
            not (age is None or age != age) or raw["table.site"][i].as_py() != -1
        )


def test_two_regimes_give_identical_tensors_for_the_same_row(shards: str) -> None:
    memory, streamed = (
        by_key(epoch(source(shards, cache, data__batch_size=1))) for cache in ("memory", "stream")
    )
    assert set(memory) == set(streamed)
    assert all(same(memory[key], streamed[key]) for key in memory)


def decoded_batch(columns: Mapping[str, ColumnArray], schema: Schema) -> Batch:
    """Returns raw shard columns, as a Parquet part holds them, as a batch."""
    return arrays_to_batch(decode_columns(columns, schema), schema)


def test_a_missing_image_changes_its_own_presence_and_pixels_only(shards: str) -> None:
    raw = numpy_columns(pq.read_table(Path(shards) / "val"))
    schema = read_manifest(shards).schema
    whole = decoded_batch(raw, schema)
    row = int(np.flatnonzero(whole.present_BM[:, 0].numpy())[3])
    photos = raw["image.photo"].copy()
    photos[row] = None
    lacking = decoded_batch({**raw, "image.photo": photos}, schema)
    assert not lacking.present_BM[row, 0]
    lacking.present_BM[row, 0] = True
    lacking.images["photo"][row] = whole.images["photo"][row]
    assert same(lacking, whole)


def test_no_label_columns_mean_unknown_labels(shards: str) -> None:
    table = pq.read_table(Path(shards) / "val").drop_columns(["label", "rank"])
    batch = decoded_batch(numpy_columns(table), read_manifest(shards).schema)
    assert set(keys(batch)) == {(-1, -1)}


def test_a_truncated_or_wrong_sized_image_is_one_clear_error(shards: str) -> None:
    schema = read_manifest(shards).schema.keep(("photo",))
    lot = np.random.default_rng(0)
    whole = encoded(lot, "JPEG", 3, 8, 12)
    for bad in (
        whole[:-40],
        encoded(lot, "JPEG", 3, 12, 8),
        encoded(lot, "PNG", 3, 8, 8),
        b"no image",
        b"",
    ):
        with pytest.raises(
            ValueError, match=r"an image of column photo must be a whole PNG or JPEG of 12x8"
        ):
            decoded_batch({"image.photo": np.array([whole, bad], dtype=object)}, schema)


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_order_differs_by_epoch_and_repeats_by_seed(shards: str, cache: str) -> None:
    one, again = source(shards, cache), source(shards, cache)
    first = [keys(b) for b in epoch(one, 0)]
    assert first == [keys(b) for b in epoch(again, 0)]
    assert first != [keys(b) for b in epoch(one, 1)]
    assert first != [keys(b) for b in epoch(source(shards, cache, optim__seed=1), 0)]
    assert first == [keys(b) for b in epoch(one, 0)]


@pytest.mark.parametrize("cache", ["memory", "stream"])
@pytest.mark.parametrize("sampler", ["instance", "balanced"])
def test_a_start_in_the_middle_gives_the_tail_of_the_epoch(
    shards: str, cache: str, sampler: str
) -> None:
    where = source(shards, cache, data__sampler=sampler)
    whole = epoch(where, 2)
    for start in (1, 2, 5, where.steps - 1, where.steps):
        tail = epoch(where, 2, start)
        assert len(tail) == where.steps - start
        assert all(same(a, b) for a, b in zip(tail, whole[start:]))


def test_in_memory_the_union_of_shares_is_the_global_batch(shards: str) -> None:
    for train in (True, False):
        alone = epoch(source(shards, train=train))
        shares = [epoch(source(shards, train=train, rank=r, world=3)) for r in range(3)]
        for k, batch in enumerate(alone):
            parts = [share[k] for share in shares]
            assert same(samples.concatenate(parts), batch)
            assert [p.start for p in parts] == np.cumsum(
                [0, *(len(p) for p in parts[:-1])]
            ).tolist()
            assert {p.total for p in parts} == {len(batch)}


@pytest.mark.parametrize("world", [2, 3, 5])
def test_a_stream_has_the_same_rows_once_each_whatever_the_number_of_workers(
    shards: str, world: int
) -> None:
    alone = source(shards, "stream")
    workers = [source(shards, "stream", rank=r, world=world) for r in range(world)]
    shares = [epoch(w, 1) for w in workers]
    assert {len(s) for s in shares} == {alone.steps} == {w.steps for w in workers}
    together = Counter(key for s in shares for b in s for key in keys(b))
    assert together == Counter(key for b in epoch(alone, 1) for key in keys(b))
    assert max(together.values()) == 1
    assert len(together) == alone.steps * 64
    for k in range(alone.steps):
        parts = [s[k] for s in shares]
        assert [p.start for p in parts] == np.cumsum([0, *(len(p) for p in parts[:-1])]).tolist()
        assert sum(len(p) for p in parts) == 64 == parts[0].total


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_evaluation_sees_every_row_once_and_in_order(shards: str, cache: str) -> None:
    raw = pq.read_table(Path(shards) / "val", columns=["label", "rank"])
    expected = list(zip(raw["label"].to_pylist(), raw["rank"].to_pylist()))
    shares = [
        epoch(source(shards, cache, split="val", train=False, rank=r, world=2)) for r in range(2)
    ]
    assert [key for parts in zip(*shares) for part in parts for key in keys(part)] == expected
    assert [part.total for part in shares[0]] == [50, 50, 31]


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_a_worker_without_rows_gets_an_empty_batch(shards: str, cache: str) -> None:
    shares = [
        epoch(
            source(
                shards, cache, split="val", train=False, rank=r, world=2, inference__batch_size=130
            )
        )
        for r in range(2)
    ]
    assert [[len(b) for b in share] for share in shares] == [[65, 1], [65, 0]]
    assert shares[1][1].images["photo"].shape == (0, 3, 8, 12)


def test_the_ragged_tail_is_dropped_in_training_and_a_small_set_is_one_batch(shards: str) -> None:
    assert (source(shards).steps, source(shards).rows) == (9, 600)
    for cache in ("memory", "stream"):
        small = source(shards, cache, data__max_rows=30)
        assert [len(b) for b in epoch(small)] == [30]


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 50),  # 600 rows in twelve batches
        ({"data.max_rows": 300}, 25),
        ({"data.max_rows": 60}, 16),
        ({"data.max_rows": 60, "data.batch_size": 8}, 8),
        ({"data.max_rows": 60, "scaling.workers": 20}, 20),
        ({"data.max_rows": 60, "scaling.workers": 2, "scaling.sync_batch_norm": False}, 32),
        ({"data.least_batches": 0}, 64),
    ],
)
def test_few_training_rows_get_smaller_batches(
    shards: str, changes: dict[str, object], rows: int
) -> None:
    config = apply_changes(Config(), changes)
    assert len(next(open_batches(shards, "train", config, train=True).batches(0))) == rows


def test_samplers_draw_the_same_rows_in_both_regimes(shards: str) -> None:
    draws = [
        Counter(
            k
            for b in epoch(source(shards, c, data__sampler="balanced", data__batch_size=1))
            for k in keys(b)
        )
        for c in ("memory", "stream")
    ]
    assert draws[0] == draws[1]
    per_class = Counter(label for label, _ in draws[0].elements())
    assert all(abs(n - 200) <= 1 for n in per_class.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"data__imbalance_ratio": 20.0},
        {"data__max_rows": 100},
        {"data__imbalance_ratio": 8.0, "data__max_rows": 90},
    ],
)
def test_cuts_keep_the_same_rows_in_both_regimes(shards: str, changes: dict[str, object]) -> None:
    memory, streamed = (
        source(shards, cache, data__batch_size=1, **changes) for cache in ("memory", "stream")
    )
    whole = read_manifest(shards).schema.counts
    target = sampling.training_counts(
        whole, float(changes.get("data__imbalance_ratio", 0)), int(changes.get("data__max_rows", 0))
    )
    assert memory.schema.counts == streamed.schema.counts == tuple(target.tolist())
    rows = [by_key(epoch(where)) for where in (memory, streamed)]
    assert (
        set(rows[0])
        == {(c, rank) for c, n in enumerate(target) for rank in range(n)}
        == set(rows[1])
    )
    assert all(same(rows[0][key], rows[1][key]) for key in rows[0])


def test_validation_is_never_cut_but_knows_the_training_counts(shards: str) -> None:
    val = source(shards, split="val", train=False, data__imbalance_ratio=20.0)
    assert val.rows == ROWS["val"]
    assert val.schema.counts == source(shards, data__imbalance_ratio=20.0).schema.counts


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_only_the_kept_modalities_are_read(shards: str, cache: str) -> None:
    where = source(shards, cache, data__modalities="table, xray")
    batch = next(where.batches(0))
    assert where.schema.modalities == ("xray", "table")
    assert (list(batch.images), list(batch.numbers), batch.present_BM.shape[1]) == (
        ["xray"],
        ["table"],
        2,
    )
    with pytest.raises(ValueError, match="photo, xray, table; got sound"):
        source(shards, cache, data__modalities="sound")


def test_arrays_of_all_modalities_serve_a_run_with_some_and_are_not_written_to(shards: str) -> None:
    arrays = load_arrays(shards, "train", read_manifest(shards).schema)
    for values in arrays.values():
        values.flags.writeable = False
    assert arrays["images/photo"].flags.c_contiguous
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = settings(data__modalities="table", data__corrupt="table=noise:0.5")
        given = epoch(open_batches(shards, "train", config, train=True, arrays=arrays))
    opened = epoch(source(shards, data__modalities="table", data__corrupt="table=noise:0.5"))
    assert all(same(a, b) for a, b in zip(given, opened, strict=True))


def test_ray_and_threads_give_the_same_batches(shards: str, ray_local: None) -> None:
    whole = read_manifest(shards).schema
    sites_only = dataclasses.replace(
        whole.keep(("table",)), tables=(dataclasses.replace(whole.tables[0], numeric=()),)
    )
    index = read_index(shards, "train")
    order = np.random.default_rng(0).permutation(index.rows)
    windows = [
        reader.Window(w, (*range(32, len(w), 32), len(w)))
        for w in np.split(order, range(128, len(order), 128))
    ]
    for schema in (whole.keep(("photo", "table")), sites_only):
        reads = reader.ShardReader(index, schema, f"{schema.modalities[0]}=shuffle")
        in_tasks = dataclasses.replace(reads, tasks_decode=True)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", UserWarning
            )  # torch warns of memory that it must not write to
            ways = [
                [arrays_to_batch(arrays, schema) for arrays in batches]
                for batches in (
                    parallel.read_in_threads(reads, windows),
                    ray_reader.read_in_ray(reads, windows),
                    ray_reader.read_in_ray(in_tasks, windows),
                )
            ]
        assert [len(batches) for batches in ways] == [19, 19, 19]
        assert all(same(a, b) and same(a, c) for a, b, c in zip(*ways))


class GivenBlocks:
    """Blocks for a RowFeed that are not Ray Data's."""

    def stop(self) -> None:
        pass


def test_rows_of_ray_data_are_those_that_this_process_reads(shards: str, ray_local: None) -> None:
    index = read_index(shards, "train")
    reads = reader.ShardReader(index, read_manifest(shards).schema)
    order = np.random.default_rng(1).permutation(index.rows)
    windows = [reader.Window(w, (50, len(w))) for w in np.split(order, range(100, len(order), 100))]
    blocks = list(ray_reader.encoded_rows(reads, windows[1:], 1))
    # Ray Data has begun only when this process has read four windows itself.
    begin = threading.Event()

    class Late(GivenBlocks):
        def __iter__(self) -> Iterator[pa.Table]:
            begin.wait()
            yield from blocks

    feed = RowFeed(reads, windows, Late)
    for number, window in enumerate(windows):
        if number == 4:
            begin.set()
            while feed.waiting_blocks() == 0:
                time.sleep(0.01)
        expected = list(window.batches(reads.columns(window.rows)))
        read = list(feed.read_window(number))
        assert [len(columns["label"]) for columns in read] == [50, len(window.rows) - 50]
        for given, wanted in zip(read, expected, strict=True):
            assert {*given} == {*wanted}
            for name, values in wanted.items():
                np.testing.assert_array_equal(given[name], values, err_msg=name)


def test_ray_data_reads_where_workers_hold_every_cpu(shards: str, ray_local: None) -> None:
    import ray

    class Holder:
        def ready(self) -> bool:
            return True

    cpus = ray.available_resources()["CPU"]
    holder = ray.remote(num_cpus=cpus)(Holder).remote()
    assert ray.get(holder.ready.remote(), timeout=60)
    index = read_index(shards, "train")
    reads = reader.ShardReader(index, read_manifest(shards).schema)
    windows = [
        reader.Window(w, (len(w),)) for w in np.split(np.arange(index.rows), [100, 200, 300])
    ]
    read = sum(block.num_rows for block in ray_reader.encoded_rows(reads, windows, 1))
    ray.kill(holder)
    assert read == index.rows


def test_an_error_of_ray_data_is_raised_where_its_rows_are_needed(shards: str) -> None:
    class Broken(GivenBlocks):
        def __iter__(self) -> Iterator[pa.Table]:
            raise ValueError("cannot read")

    reads = reader.ShardReader(read_index(shards, "train"), read_manifest(shards).schema)
    windows = [reader.Window(np.arange(n, n + 8), (8,)) for n in range(0, 24, 8)]
    feed = RowFeed(reads, windows, Broken)
    while feed.waiting_blocks() == 0:
        time.sleep(0.01)
    assert [len(columns["label"]) for columns in feed.read_window(0)] == [8]
    with pytest.raises(ValueError, match="cannot read"):
        feed.read_window(1)


@pytest.mark.parametrize(
    ("waited", "idle", "tasks"), [(0.9, 9, True), (0.9, 2, False), (0.1, 9, False)]
)
def test_tasks_decode_where_the_first_batches_came_late_and_cpus_are_idle(
    waited: float, idle: int, tasks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_reader, "idle_cpus", lambda world: idle)
    monkeypatch.setattr(ray_reader, "decoding_threads", lambda world: 2)
    pace = ray_reader.Pace(world=1)
    for batch in range(ray_reader.MEASURED_BATCHES):
        assert not pace.asks_for_tasks()
        # The first batches wait for the start of everything.
        pace.add(5.0 if batch < reader.READY_BATCHES else waited, 5.0 if batch < 2 else 1.0)
    assert pace.asks_for_tasks() == tasks
    assert not pace.asks_for_tasks()  # it is decided once


def test_ray_data_reads_where_ray_runs_and_there_are_several_windows(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = reader.ShardReader(read_index(shards, "train"), read_manifest(shards).schema)
    window = reader.Window(np.arange(64), (64,))
    monkeypatch.setattr(ray_reader, "read_in_ray", lambda *_: "ray")
    monkeypatch.setattr(parallel, "read_in_threads", lambda *_: "threads")
    for running, windows, engine in ((True, 3, "ray"), (True, 2, "threads"), (False, 9, "threads")):
        monkeypatch.setattr(parallel.ray_session, "is_running", lambda running=running: running)
        assert parallel.read_batches(reads, [window] * windows) == engine
    assert list(parallel.read_batches(reads, [])) == []


def test_a_stream_left_in_the_middle_of_an_epoch_stops_its_threads(shards: str) -> None:
    import threading

    batches = source(shards, "stream").batches(0)
    next(batches)
    assert any(t.name.startswith("decode") for t in threading.enumerate())
    batches.close()
    assert not any(t.name.startswith("decode") for t in threading.enumerate())


def test_the_regime_is_chosen_by_size(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = read_manifest(shards).schema
    row = 8 * 12 * 3 + 6 * 6 + 4 * 2 + 3 + 8
    monkeypatch.setattr("distributed.shards.memory.object_store_bytes", lambda: 1000 * row)
    assert [decide_cache(schema, rows, settings("auto")) for rows in (300, 301)] == [
        "memory",
        "stream",
    ]
    assert decide_cache(schema, 10**9, settings("memory")) == "memory"
    assert isinstance(source(shards, "auto"), StreamSource)
    assert isinstance(source(shards, "auto", split="val", train=False), MemorySource)


def test_corruption_is_the_same_in_both_regimes_and_every_epoch(shards: str) -> None:
    spec = "photo=noise:0.3,table=missing:0.3,xray=noise:0.3"
    sources = [
        source(shards, cache, data__corrupt=spec, data__batch_size=1)
        for cache in ("memory", "stream")
    ]
    rows = [by_key(epoch(where, number)) for where in sources for number in (0, 1)]
    clean = by_key(epoch(source(shards, data__batch_size=1)))
    assert all(same(rows[0][key], other[key]) for other in rows[1:] for key in rows[0])
    touched = Counter()
    for key, row in rows[0].items():
        before = clean[key]
        changed = [not torch.equal(row.images[m], before.images[m]) for m in ("photo", "xray")]
        changed.append(bool(before.present_BM[0, 2] & ~row.present_BM[0, 2]))
        assert sum(changed) <= 1
        touched.update(i for i, c in enumerate(changed) if c)
        assert torch.equal(row.present_BM[:, :2], before.present_BM[:, :2])
    share = [touched[i] / len(clean) for i in range(3)]
    np.testing.assert_allclose(share, [0.3 * 6 / 7, 0.3, 0.3 * 0.9], atol=0.07)


def test_noise_differs_between_splits_and_follows_the_training_marginals(shards: str) -> None:
    schema = read_manifest(shards).schema
    arrays = load_arrays(shards, "train", schema)
    noisy = [
        apply_corruption(arrays, "photo=noise,table=noise", schema, seed=0, split=split)
        for split in ("train", "val")
    ]
    rows = arrays["present"][:, 0] & arrays["present"][:, 2]
    assert not any(
        (a == b).all()
        for a, b in zip(noisy[0]["images/photo"][rows], noisy[1]["images/photo"][rows])
    )
    assert noisy[0]["images/photo"][rows].mean() == pytest.approx(127.5, abs=1)
    ages, sites = noisy[0]["numbers/table"][rows, 0], noisy[0]["categories/table"][rows, 0]
    assert (ages.mean(), ages.std()) == (pytest.approx(40, abs=2), pytest.approx(10, abs=1.5))
    assert set(sites) == {0, 1, 2, 3}
    np.testing.assert_array_equal(noisy[0]["present"], arrays["present"])


def test_shuffle_permutes_content_and_presence_together(shards: str) -> None:
    schema = read_manifest(shards).schema
    arrays = load_arrays(shards, "train", schema)
    mixed = apply_corruption(arrays, "photo=shuffle", schema, seed=0, split="train")

    def content(a: Arrays) -> Counter[tuple[bytes, bool]]:
        return Counter(
            (a["images/photo"][i].tobytes(), bool(a["present"][i, 0]))
            for i in range(len(a["labels"]))
        )

    assert content(mixed) == content(arrays)
    assert (mixed["images/photo"] != arrays["images/photo"]).any(axis=(1, 2, 3)).mean() > 0.9
    assert all(
        mixed[name] is arrays[name] for name in arrays if name not in ("images/photo", "present")
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("photo", "a corruption must be MODALITY=KIND"),
        ("sound=noise", "valid: photo, xray, table"),
        ("photo=blur", "valid: noise, shuffle, missing"),
        ("photo=noise:2", "a fraction above 0 and at most 1; got 'photo=noise:2'"),
        ("photo=noise:x", "got 'photo=noise:x'"),
    ],
)
def test_a_wrong_corruption_is_one_clear_error(shards: str, spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        source(shards, data__corrupt=spec)
    assert "\n" not in str(caught.value)


def test_terms_of_a_corruption_take_disjoint_stretches(shards: str) -> None:
    schema = read_manifest(shards).schema
    terms = parse_corruption("photo=missing:0.33,table=missing:0.33", schema)
    assert [(t.low, t.share) for t in terms] == [(0.0, 0.33), (0.33, 0.33)]
    assert parse_corruption("", schema) == ()


def test_missing_or_empty_shards_are_one_clear_error(shards: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a SHARDS folder must exist"):
        source(str(tmp_path / "nowhere"))
    write_manifest(read_manifest(shards), str(tmp_path))
    with pytest.raises(ValueError, match="a split must have Parquet parts"):
        source(str(tmp_path))


@pytest.mark.slow
def test_two_workers_stream_through_ray_data_at_once(shards: str, ray_local: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    def worker(rank: int) -> list[list[tuple[int, int]]]:
        return [keys(b) for b in epoch(source(shards, "stream", rank=rank, world=2))]

    shares = ray.get([worker.remote(r) for r in range(2)], timeout=200)
    expected = [
        [keys(b) for b in epoch(source(shards, "stream", rank=r, world=2))] for r in range(2)
    ]
    assert shares == expected


@pytest.mark.slow
def test_shards_in_an_object_store_read_as_those_on_a_disk(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        system, path = filesystem("s3://bucket/wafers")
        boto3.client(
            "s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1"
        ).create_bucket(Bucket="bucket")
        fs.copy_files(shards, path, destination_filesystem=system)
        for cache in ("memory", "stream"):
            there, here = (epoch(source(where, cache)) for where in ("s3://bucket/wafers", shards))
            assert all(same(a, b) for a, b in zip(there, here, strict=True))
    finally:
        server.stop()
