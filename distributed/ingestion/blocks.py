"""The prepared rows in Ray's object store, and where each of them goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import ray

from distributed.raw.column_stats import ColumnStats
from distributed.shards.layout import REFUSED_SPLIT, SPLITS
from distributed.shards.sampling import IntArray
from model.schema import Schema

GROUP_BYTES = 64 << 20  # prepared bytes of one task of the later passes, at least
MAX_GROUPS = 128
MAX_TABLE_BYTES = 1 << 30  # Arrow counts the bytes of a column of images in 31 bits


@dataclass(frozen=True)
class BlockGroup:
    """Neighbouring blocks that one task works on. first: the number of their first row."""

    first: int
    rows: int
    refs: list[ray.ObjectRef[pa.Table]]


@dataclass
class PreparedBlocks:
    """The prepared rows in the order of the table, in the object store.

    Ray spills them to disk when the store is full. cpus: of the cluster.
    """

    cpus: int
    refs: list[ray.ObjectRef[pa.Table]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(self.rows)

    def grouped(self) -> list[BlockGroup]:
        """Returns runs of neighbouring blocks, at least one for each CPU where there are so many.

        The results of a pass never depend on how the blocks are grouped.
        """
        total = sum(self.sizes)
        per_cpu = total // max(1, self.cpus) + 1
        limit = min(max(GROUP_BYTES, total // MAX_GROUPS), per_cpu, MAX_TABLE_BYTES)
        groups: list[BlockGroup] = []
        first = rows = size = 0
        refs: list[ray.ObjectRef[pa.Table]] = []
        for ref, block_rows, block_size in zip(self.refs, self.rows, self.sizes):
            refs.append(ref)
            rows += block_rows
            size += block_size
            if size >= limit:
                groups.append(BlockGroup(first, rows, refs))
                first += rows
                rows = 0
                size = 0
                refs = []
        return [*groups, BlockGroup(first, rows, refs)] if refs else groups


@dataclass(frozen=True, kw_only=True)
class RowAssignment:
    """Where every row of the table goes.

    split: an index into SPLITS; REFUSED_SPLIT for a refused row.
    rank: within its class and split. position: in its split.
    """

    split: IntArray
    labels: IntArray
    rank: IntArray
    position: IntArray

    def slice(self, first: int, rows: int) -> RowAssignment:
        part = slice(first, first + rows)
        return RowAssignment(
            split=self.split[part],
            labels=self.labels[part],
            rank=self.rank[part],
            position=self.position[part],
        )


@dataclass(frozen=True)
class PixelSums:
    """The images of a modality, and per channel the sums of their pixels, then of the squares."""

    images: int
    sums: list[int]


@dataclass(frozen=True)
class TrainingStatistics:
    """What is counted over the training rows, by column and by image modality."""

    columns: dict[str, ColumnStats]
    pixels: dict[str, PixelSums]


@dataclass(frozen=True, kw_only=True)
class PartLayout:
    """The rows and part files of every split; rows are divided evenly among them, by position."""

    rows: tuple[int, ...]
    files: tuple[int, ...]

    def part_of(self, rows: RowAssignment) -> IntArray:
        """Returns the number of every row's part, counted through all splits; -1 if refused."""
        first_part = np.concatenate([[0], np.cumsum(self.files)])[:-1]
        split = np.maximum(rows.split, 0)
        split_rows = np.maximum(1, np.array(self.rows)[split])
        in_split = np.array(self.files)[split] * rows.position // split_rows
        return np.where(rows.split == REFUSED_SPLIT, -1, first_part[split] + in_split)

    def names(self) -> list[tuple[str, int]]:
        """Returns the split of every part, and the part's number in it."""
        return [(split, i) for split, n in zip(SPLITS, self.files) for i in range(n)]


@dataclass(frozen=True)
class ShardLayout:
    """How prepared rows become shard rows.

    readings: how the text of some numeric columns becomes numbers.
    """

    parts: PartLayout
    schema: Schema
    readings: Mapping[str, str]
