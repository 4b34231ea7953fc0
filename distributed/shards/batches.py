"""Batches of a split for one worker, from memory or streamed: the same rows either way, in an order that depends on seed and epoch only.

Global batch k is the slice [k * G, (k + 1) * G) of the epoch's order, and rank r has a contiguous share of it. In a training stream each
worker takes its own stretch of the epoch's row groups instead, so that no row group is decoded twice: the same rows an epoch, each once,
the same number of steps everywhere, but batch k holds other rows than with another number of workers.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from distributed.config import Config, split_list
from distributed.shards import sampling
from distributed.shards.corruption import apply_corruption, parse_corruption
from distributed.shards.decode import (
    Arrays,
    decode_columns,
    decoded_row_bytes,
    empty_arrays,
    take_rows,
)
from distributed.shards.manifest import read_manifest
from distributed.shards.reader import ShardReader, Window, read_batches, read_index
from distributed.shards.sampling import IntArray, Selection
from model.schema import Schema

if TYPE_CHECKING:
    from model.batch import Batch

WINDOW_BYTES = 128 << 20  # most encoded bytes of one shuffle window


class BatchSource(Protocol):
    """Where batches come from. `schema` has the kept modalities and the class counts of the training rows in use."""

    schema: Schema
    rows: int  # drawn in one epoch, all workers together
    steps: int  # global batches of an epoch

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This worker's share of each global batch of the epoch, from global batch `start` on."""
        ...


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """How an epoch's rows are drawn and shared out."""

    selection: Selection
    size: int  # rows of a global batch
    train: bool
    sampler: str = "instance"
    epochs: int = 1
    seed: int = 0
    buffer: int = 4096
    rank: int = 0
    world: int = 1
    paired: bool = False  # rows 2i and 2i + 1 of a global batch on the same worker: they are mixed

    @property
    def rows(self) -> int:
        return len(self.selection)

    @property
    def steps(self) -> int:
        """Training drops the ragged tail; evaluation sees every row once."""
        return max(1, self.rows // self.size) if self.train else -(-self.rows // self.size)

    def share(self, k: int) -> tuple[int, int, int]:
        """This worker's slice of global batch k, and that batch's rows."""
        total = min(self.size, self.rows - k * self.size)
        return *sampling.rank_slice(total, self.rank, self.world, self.paired), total

    def draws(self, epoch: int) -> IntArray:
        return sampling.draw_epoch(
            self.selection, self.sampler, seed=self.seed, epoch=epoch, epochs=self.epochs
        )

    def order(self, epoch: int) -> IntArray:
        """The epoch's order in the memory regime, as indices into the selection."""
        return (
            sampling.shuffle_draws(self.draws(epoch), seed=self.seed, epoch=epoch)
            if self.train
            else np.arange(self.rows)
        )

    def windows(
        self, epoch: int, start: int, units: IntArray, buffer: int
    ) -> Iterator[tuple[IntArray, tuple[int, ...]]]:
        """This worker's epoch in a stream from batch `start` on: stretches of the order that are read together, and their batches' ends."""
        shares = [self.share(k) for k in range(self.steps)]
        if self.train:
            low, high, _ = shares[0]
            order = sampling.order_by_unit(self.draws(epoch), units, seed=self.seed, epoch=epoch)
            own = order[self.steps * low : self.steps * high]
        else:
            own = np.concatenate(
                [
                    np.arange(k * self.size + low, k * self.size + high)
                    for k, (low, high, _) in enumerate(shares)
                ]
            )
        ends = np.cumsum([high - low for low, high, _ in shares])
        batches = max(1, buffer // max(int(ends[0]), 1))
        for first in range(start // batches * batches, self.steps, batches):
            origin = int(ends[first - 1]) if first else 0
            window = own[origin : int(ends[min(first + batches, self.steps) - 1])]
            if self.train:
                window = window[
                    sampling.random_generator(
                        self.seed, sampling.WINDOW, epoch, self.rank, first
                    ).permutation(len(window))
                ]
            skip = max(start, first)
            begin = (int(ends[skip - 1]) if skip else 0) - origin
            yield (
                window[begin:],
                tuple(int(e) - origin - begin for e in ends[skip : first + batches]),
            )


@dataclass
class MemorySource:
    """A whole split in memory; a batch is one gather for each array."""

    schema: Schema
    plan: EpochPlan
    arrays: Arrays

    def __post_init__(self) -> None:
        self.rows, self.steps = self.plan.rows, self.plan.steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order, selection = self.plan.order(epoch), self.plan.selection
        for k in range(start, self.steps):
            low, high, total = self.plan.share(k)
            chosen = order[k * self.plan.size + low : k * self.plan.size + high]
            arrays = take_rows(self.arrays, selection.rows_R[chosen])
            arrays["ranks"] = selection.ranks_R[chosen]
            yield arrays_to_batch(arrays, self.schema, low, total)


@dataclass
class StreamSource:
    """A split that is read and decoded anew each epoch, in memory that does not grow with it (but for 48 bytes a row)."""

    schema: Schema
    plan: EpochPlan
    reader: ShardReader
    engine: str = "auto"

    def __post_init__(self) -> None:
        self.rows, self.steps = self.plan.rows, self.plan.steps
        index, selection = self.reader.index, self.plan.selection
        self._units = index.units(selection.rows_R)
        self._buffer = int(
            min(self.plan.buffer, WINDOW_BYTES * index.rows // max(int(index.bytes_U.sum()), 1))
        )

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        selection, plan = self.plan.selection, self.plan
        stretches = list(plan.windows(epoch, start, self._units, self._buffer))
        order = np.concatenate([chosen for chosen, _ in stretches]) if stretches else np.arange(0)
        windows = [Window(selection.rows_R[chosen], ends) for chosen, ends in stretches]
        decoded = read_batches(self.reader, windows, plan.world, self.engine)
        taken = 0
        for k in range(start, self.steps):
            low, high, total = plan.share(k)
            arrays = next(decoded) if high > low else empty_arrays(self.schema, 0)
            assert len(arrays["labels"]) == high - low
            arrays["ranks"] = selection.ranks_R[order[taken : taken + high - low]]
            taken += high - low
            yield arrays_to_batch(arrays, self.schema, low, total)


def open_batches(
    shards: str,
    split: str,
    config: Config,
    *,
    train: bool,
    rank: int = 0,
    world: int = 1,
    arrays: Arrays | None = None,
) -> BatchSource:
    """The batches of a split for one worker; `arrays`, from load_arrays, saves decoding it again."""
    data, seed = config.data, config.optim.seed
    manifest = read_manifest(shards)
    schema = manifest.schema.keep(split_list(data.modalities))
    parse_corruption(data.corrupt, schema)
    counts_C = sampling.training_counts(manifest.schema.counts, data.imbalance_ratio, data.max_rows)
    schema = dataclasses.replace(schema, counts=tuple(int(n) for n in counts_C))
    if arrays is None and decide_cache(schema, manifest.rows[split], config) == "memory":
        arrays = load_arrays(shards, split, schema)
    index = read_index(shards, split) if arrays is None else None
    labels_R, ranks_R = (
        (arrays["labels"], arrays["ranks"]) if index is None else (index.labels_R, index.ranks_R)
    )
    if train or split == "train":
        whole_C = np.bincount(labels_R[labels_R >= 0], minlength=len(schema.classes))
        selection = sampling.select_training_rows(
            labels_R, ranks_R, whole_C, ratio=data.imbalance_ratio, most=data.max_rows, seed=seed
        )
    else:
        selection = sampling.select_all(labels_R, ranks_R, len(schema.classes))
    if not len(selection):
        raise ValueError(f"a split must have rows to be used; {shards} has none in {split}/")
    size = data.batch_size if train else config.inference.batch_size
    plan = EpochPlan(
        selection=selection,
        size=min(size, len(selection)),
        train=train,
        sampler=data.sampler,
        epochs=config.optim.epochs,
        seed=seed,
        buffer=data.shuffle_buffer,
        rank=rank,
        world=world,
        paired=train and config.loss.mix != "none",
    )
    if index is not None:
        return StreamSource(
            schema, plan, ShardReader(index, schema, data.corrupt, seed), data.engine
        )
    return MemorySource(
        schema,
        plan,
        apply_corruption(
            keep_modalities(arrays, manifest.schema, schema),
            data.corrupt,
            schema,
            seed=seed,
            split=split,
        ),
    )


def in_storage_order(train: BatchSource, size: int, most: int = 0) -> BatchSource:
    """The rows of a training source one after the other, without another copy of them; of more than `most`, the first of every class."""
    selection = (
        sampling.limit_selection(train.plan.selection, most) if most else train.plan.selection
    )
    plan = dataclasses.replace(
        train.plan, selection=selection, size=min(size, len(selection)), train=False, paired=False
    )
    return dataclasses.replace(train, plan=plan)


def keep_modalities(arrays: Arrays, whole: Schema, kept: Schema) -> Arrays:
    """The kept modalities of arrays that were loaded with at least these."""
    loaded = [
        name
        for name in whole.modalities
        if f"images/{name}" in arrays or f"numbers/{name}" in arrays
    ]
    names = empty_arrays(kept, 0)
    chosen = {name: values for name, values in arrays.items() if name in names}
    assert set(names) == set(chosen), (
        f"loaded: {', '.join(loaded)}; wanted: {', '.join(kept.modalities)}"
    )
    if tuple(loaded) == kept.modalities:
        return chosen
    return chosen | {
        "present": arrays["present"][:, [loaded.index(name) for name in kept.modalities]]
    }


def decide_cache(schema: Schema, rows: int, config: Config) -> str:
    """memory or stream: data.cache, or for auto whether the decoded rows fit data.memory_share of a node's object store."""
    if config.data.cache != "auto":
        return config.data.cache
    return (
        "memory"
        if rows * decoded_row_bytes(schema) <= config.data.memory_share * object_store_bytes()
        else "stream"
    )


def object_store_bytes() -> float:
    """The smallest object store of the cluster's nodes; without Ray, the share of this machine's memory that Ray would give one."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        stores = [
            node["Resources"].get("object_store_memory", 0.0)
            for node in ray.nodes()
            if node["Alive"]
        ]
        return min((size for size in stores if size), default=0.0)
    return 0.3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_arrays(shards: str, split: str, schema: Schema) -> Arrays:
    """A whole split decoded once, in storage order: contiguous arrays for ray.put, which every process of a node then reads in place."""
    index = read_index(shards, split)
    arrays = empty_arrays(schema, index.rows)
    rows, step = np.arange(index.rows), 256
    windows = [
        Window(w, (*range(step, len(w), step), len(w)))
        for w in np.split(rows, range(4096, index.rows, 4096))
    ]
    taken = 0
    for part in read_batches(ShardReader(index, schema), windows):
        for name, values in part.items():
            arrays[name][taken : taken + len(values)] = values
        taken += len(part["labels"])
    assert taken == index.rows
    return arrays


def load_splits(shards: str, config: Config, splits: Sequence[str]) -> dict[str, Arrays] | None:
    """These splits (those with rows) as arrays, for every trial and worker to share; None where they are to be streamed."""
    manifest = read_manifest(shards)
    schema = manifest.schema.keep(split_list(config.data.modalities))
    rows = {split: manifest.rows[split] for split in splits if manifest.rows[split]}
    if decide_cache(schema, sum(rows.values()), config) != "memory":
        return None
    return {split: load_arrays(shards, split, schema) for split in rows}


def arrays_to_batch(arrays: Arrays, schema: Schema, start: int = 0, total: int = 0) -> Batch:
    """Writable arrays as a batch, without a copy but for the small integers."""
    import torch  # here, so that a process that only decodes need not wait for it

    from model.batch import Batch

    return Batch(
        images={m.name: torch.from_numpy(arrays[f"images/{m.name}"]) for m in schema.images},
        numbers={m.name: torch.from_numpy(arrays[f"numbers/{m.name}"]) for m in schema.tables},
        categories={
            m.name: torch.from_numpy(arrays[f"categories/{m.name}"]).long() for m in schema.tables
        },
        present_BM=torch.from_numpy(arrays["present"]),
        labels_B=torch.from_numpy(arrays["labels"]).long(),
        ranks_B=torch.from_numpy(arrays["ranks"]).long(),
        start=start,
        total=total,
    )


def columns_to_batch(columns: Mapping[str, np.ndarray[Any, Any]], schema: Schema) -> Batch:
    """Raw shard columns as a batch."""
    return arrays_to_batch(decode_columns(columns, schema), schema)
