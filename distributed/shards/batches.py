"""Batches of a split for one worker, from memory or streamed: the same rows in the same order.

The order depends on the seed and the epoch only. Global batch k is the slice
[k * G, (k + 1) * G) of the epoch's order, and every worker has a contiguous share of it. In a
training stream each worker takes its own stretch of the epoch's row groups instead, so that no
row group is decoded twice: an epoch still holds every row once, and all workers take the same
number of steps, but batch k holds other rows than it does with another number of workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from distributed.config import Config, split_list
from distributed.shards import sampling
from distributed.shards.corruption import apply_corruption, parse_corruption
from distributed.shards.decode import Arrays, empty_arrays, take_rows
from distributed.shards.epoch_plan import EpochPlan, batch_rows
from distributed.shards.folds import count_stored_rows, select_fold, stored_rows
from distributed.shards.index import SplitIndex, read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.memory import decide_cache, load_arrays, select_arrays
from distributed.shards.parallel import read_batches
from distributed.shards.reader import ShardReader, Window
from distributed.shards.sampling import Selection
from model.batch import Batch
from model.schema import Schema

WINDOW_BYTES = 128 << 20  # encoded bytes of one shuffle window, at most


class BatchSource(Protocol):
    """What a training or evaluation loop takes its batches from.

    schema: the kept modalities, and the class counts of the training rows in use.
    rows: how many are drawn in one epoch, by all workers together.
    steps: the global batches of one epoch.
    """

    schema: Schema
    rows: int
    steps: int

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields this worker's share of the epoch's global batches, from batch `start` on."""
        ...


@dataclass(frozen=True)
class FrozenViews:
    """What the frozen part of an image encoder gives for some views of every image of a split.

    values_VRK: view 0 is of the images as they are, then come those of augmented ones, of degraded
        ones and of spoilt ones; V views, R rows, K numbers.
    degraded, spoilt: how many of the views are of such images.
    mirrored: how many of the views, the last ones, are of the mirror images that an evaluation sees
        together with the images as they are.
    rows_R: the rows of the split that they belong to, ascending.
    """

    values_VRK: NDArray[np.floating[Any]]
    rows_R: NDArray[np.int64]
    degraded: int = 0
    spoilt: int = 0
    mirrored: int = 0

    def take(self, rows_B: NDArray[np.int64], views_B: NDArray[np.int64]) -> torch.Tensor:
        """Returns a view of each of the rows and any mirror images of it, [B, V, K]."""
        places_B = np.searchsorted(self.rows_R, rows_B)
        views_BV = views_B[:, None] + np.arange(1 + self.mirrored)
        return torch.from_numpy(self.values_VRK[views_BV, places_B[:, None]])


@dataclass(frozen=True)
class DrawnViews:
    """Views of the images that an epoch draws, of each kind one for every draw."""

    intact: NDArray[np.int64]
    degraded: NDArray[np.int64]
    spoilt: NDArray[np.int64]


@dataclass
class MemorySource:
    """A whole split in memory; a batch takes its rows from every array once.

    frozen: image modalities of which the batches hold these views instead of the pixels.
    used_R: the rows that views are computed of, where other folds use others than this source.
    """

    schema: Schema
    plan: EpochPlan
    arrays: Arrays
    frozen: Mapping[str, FrozenViews] = field(default_factory=dict)
    used_R: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self.rows, self.steps = self.plan.rows, self.plan.steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order, selection = self.plan.order(epoch), self.plan.selection
        hidden = {f"images/{name}" for name in self.frozen}
        visible = {name: values for name, values in self.arrays.items() if name not in hidden}
        views = {name: self._views(name, epoch, len(order)) for name in self.frozen}
        for k in range(start, self.steps):
            low, high, total = self.plan.share(k)
            places = slice(k * self.plan.size + low, k * self.plan.size + high)
            chosen = order[places]
            rows = selection.rows_R[chosen]
            arrays = take_rows(visible, rows)
            arrays["ranks"] = selection.ranks_R[chosen]
            batch = arrays_to_batch(arrays, self.schema, low, total)
            for name, frozen in self.frozen.items():
                drawn = views[name]
                batch.frozen[name] = frozen.take(rows, drawn.intact[places])
                if frozen.degraded:
                    batch.frozen_degraded[name] = frozen.take(rows, drawn.degraded[places])
                if frozen.spoilt:
                    batch.frozen_spoilt[name] = frozen.take(rows, drawn.spoilt[places])
            yield batch

    def _views(self, name: str, epoch: int, draws: int) -> DrawnViews:
        """Returns which views each draw of the epoch takes.

        Images as they are have the first one; in training it is any of the augmented ones too.
        """
        frozen = self.frozen[name]
        place = self.schema.modalities.index(name)
        rng = sampling.random_generator(self.plan.seed, sampling.VIEW, epoch, place)
        first_spoilt = len(frozen.values_VRK) - frozen.mirrored - frozen.spoilt
        first_degraded = first_spoilt - frozen.degraded
        intact = rng.integers(first_degraded if self.plan.train else 1, size=draws)
        spoilt = intact
        if frozen.spoilt:
            spoilt = rng.integers(first_spoilt, first_spoilt + frozen.spoilt, size=draws)
        degraded = intact
        if frozen.degraded:
            degraded = rng.integers(first_degraded, first_spoilt, size=draws)
        return DrawnViews(intact, degraded, spoilt)


@dataclass
class StreamSource:
    """A split that is read and decoded anew in every epoch.

    Its memory does not grow with the split, except for 48 bytes per row.
    """

    schema: Schema
    plan: EpochPlan
    reader: ShardReader
    engine: str = "auto"

    def __post_init__(self) -> None:
        self.rows, self.steps = self.plan.rows, self.plan.steps
        index, selection = self.reader.index, self.plan.selection
        self._row_groups = index.row_groups(selection.rows_R)
        rows_in_bytes = WINDOW_BYTES * index.rows // max(int(index.bytes_U.sum()), 1)
        self._buffer = int(min(self.plan.buffer, rows_in_bytes))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        selection, plan = self.plan.selection, self.plan
        stretches = list(plan.windows(epoch, start, self._row_groups, self._buffer))
        order = np.concatenate([chosen for chosen, _ in stretches]) if stretches else np.arange(0)
        windows = [Window(selection.rows_R[chosen], ends) for chosen, ends in stretches]
        decoded = read_batches(self.reader, windows, plan.world, self.engine)
        done = 0
        for k in range(start, self.steps):
            low, high, total = plan.share(k)
            arrays = next(decoded) if high > low else empty_arrays(self.schema, 0)
            assert len(arrays["labels"]) == high - low
            arrays["ranks"] = selection.ranks_R[order[done : done + high - low]]
            done += high - low
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
    """Returns the batches of a split for one worker.

    train: draw, shuffle and pair the rows for training; else every row comes once, in order.
    arrays: the decoded rows from load_arrays, under the name that stored_rows gives, which saves
        decoding them again.
    """
    data, seed = config.data, config.optim.seed
    manifest = read_manifest(shards)
    schema = manifest.schema.keep(split_list(data.modalities))
    parse_corruption(data.corrupt, schema)  # a mistake is reported before anything is read
    stored = stored_rows(split, config)
    counts_C = sampling.training_counts(manifest.schema.counts, data.imbalance_ratio, data.max_rows)
    folded = select_fold(shards, manifest, config) if data.folds > 1 else None
    if folded is not None:
        counts_C = folded.train.counts_C
    schema = dataclasses.replace(schema, counts=tuple(int(n) for n in counts_C))
    stored_count = count_stored_rows(manifest, stored)
    if arrays is None and decide_cache(schema, stored_count, config) == "memory":
        arrays = load_arrays(shards, stored, schema)
    rows: Arrays | SplitIndex = read_index(shards, stored) if arrays is None else arrays
    if folded is not None and split != "test":
        selection = folded.train if split == "train" else folded.val
    else:
        selection = _select_rows(rows, config, len(schema.classes), train or split == "train")
    if not len(selection):
        raise ValueError(f"a split must have rows to be used; {shards} has none in {split}/")
    plan = EpochPlan(
        selection=selection,
        size=batch_rows(config, len(selection), train),
        train=train,
        sampler=data.sampler,
        epochs=config.optim.epochs,
        seed=seed,
        buffer=data.shuffle_buffer,
        rank=rank,
        world=world,
        paired=train and (config.loss.mix != "none" or data.spoil > 0),
    )
    if isinstance(rows, SplitIndex):
        return StreamSource(
            schema, plan, ShardReader(rows, schema, data.corrupt, seed), data.engine
        )
    kept = select_arrays(rows, manifest.schema, schema)
    kept = apply_corruption(kept, data.corrupt, schema, seed=seed, split=stored)
    used_R = None if folded is None or split == "test" else folded.rows_R
    return MemorySource(schema, plan, kept, used_R=used_R)


def _select_rows(
    rows: Arrays | SplitIndex, config: Config, classes: int, is_training_split: bool
) -> Selection:
    """Returns the rows in use: of the training split what the settings leave, else all."""
    if isinstance(rows, SplitIndex):
        labels, ranks = rows.labels_R, rows.ranks_R
    else:
        labels, ranks = rows["labels"], rows["ranks"]
    labels_R, ranks_R = labels.astype(np.int64), ranks.astype(np.int64)
    if not is_training_split:
        return sampling.select_all(labels_R, ranks_R, classes)
    return sampling.select_training_rows(
        labels_R,
        ranks_R,
        np.bincount(labels_R[labels_R >= 0], minlength=classes),
        ratio=config.data.imbalance_ratio,
        max_rows=config.data.max_rows,
        seed=config.optim.seed,
    )


def in_storage_order(
    train: BatchSource, size: int, max_rows: int = 0
) -> MemorySource | StreamSource:
    """Returns the rows of a training source, each once and in storage order, without a copy.

    size: rows of a batch. max_rows: of more rows than this, the first of every class; 0: all.
    """
    assert isinstance(train, (MemorySource, StreamSource))
    selection = train.plan.selection
    if max_rows:
        selection = sampling.limit_selection(selection, max_rows)
    plan = dataclasses.replace(
        train.plan, selection=selection, size=min(size, len(selection)), train=False, paired=False
    )
    return dataclasses.replace(train, plan=plan)


def arrays_to_batch(arrays: Arrays, schema: Schema, start: int = 0, total: int = 0) -> Batch:
    """Returns writable arrays as a batch; only the small integers are copied.

    start: the first row's place in the global batch. total: the global batch's rows.
    """
    return Batch(
        images={
            m.name: torch.from_numpy(arrays[f"images/{m.name}"])
            for m in schema.images
            if f"images/{m.name}" in arrays
        },
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
