"""The prepared rows, the place where tasks work on them, and where each row goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from distributed.raw.column_stats import ColumnStats
from distributed.raw.rows import RowPlan
from distributed.raw.table import RawTable
from distributed.shards.layout import REFUSED_SPLIT, SPLITS
from distributed.shards.sampling import IntArray
from model.schema import Schema

GROUP_BYTES = 64 << 20  # prepared bytes of one task of the later passes, at least
MAX_GROUPS = 128
MAX_TABLE_BYTES = 1 << 30  # Arrow counts the bytes of a column of images in 31 bits


@dataclass(frozen=True)
class SourceRows:
    """The rows of a table, and how they are prepared.

    names: the columns to read. pixels: of each source image of a row.
    """

    table: RawTable
    plan: RowPlan
    names: Sequence[str]
    pixels: Sequence[float]


@dataclass(frozen=True)
class Block:
    """Some prepared rows. ref: what stands for their table at the place that prepared them."""

    ref: Any
    rows: int
    size: int  # bytes


class Place(Protocol):
    """Where the tasks of an ingest run: in Ray, or in this process.

    What stands for a result, as `start` returns it, can be an argument of another task.
    """

    cpus: int

    def prepare(self, source: SourceRows, batch_rows: int) -> Iterator[Block]:
        """Yields the prepared rows in order. batch_rows: how many are prepared together."""

    def start(self, task: Callable[..., Any], *arguments: Any, results: int = 1) -> list[Any]:
        """Starts a task; returns what stands for each of its results."""

    def wait(
        self, started: list[Any], *, results: int = 1, seconds: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        """Waits for so many results; returns those that are there, and the others."""

    def get(self, started: Sequence[Any]) -> list[Any]:
        """Returns the results themselves, once they are there."""


@dataclass(frozen=True)
class BlockGroup:
    """Neighbouring blocks that one task works on. first: the number of their first row."""

    first: int
    rows: int
    refs: list[Any]


@dataclass
class PreparedBlocks:
    """The prepared rows in the order of the table, at the place that prepared them.

    Ray keeps them in its object store, and spills them to disk when that is full.
    """

    place: Place
    blocks: list[Block] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(block.rows for block in self.blocks)

    def grouped(self) -> list[BlockGroup]:
        """Returns runs of neighbouring blocks, at least one for each CPU where there are so many.

        The results of a pass never depend on how the blocks are grouped.
        """
        total = sum(block.size for block in self.blocks)
        per_cpu = total // max(1, self.place.cpus) + 1
        limit = min(max(GROUP_BYTES, total // MAX_GROUPS), per_cpu, MAX_TABLE_BYTES)
        groups: list[BlockGroup] = []
        first = rows = size = 0
        refs: list[Any] = []
        for block in self.blocks:
            refs.append(block.ref)
            rows += block.rows
            size += block.size
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
