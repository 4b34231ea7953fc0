"""The passes of an ingest over the cluster: prepare every row, count, write the rows to parts.

The prepared rows stay in Ray's object store between the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from distributed.ingestion.dataset import ray_dataset
from distributed.ingestion.output import POSITION_COLUMN, WrittenFile, part_path, write_part
from distributed.raw.cells import as_text
from distributed.raw.column_stats import ColumnStats, column_stats, combine_stats
from distributed.raw.rows import (
    CELL,
    GROUP,
    ID,
    IMAGE,
    LABEL,
    RANK,
    SUMS,
    RowPlan,
    image_columns,
    prepare_rows,
    table_columns,
)
from distributed.raw.table import RawTable
from distributed.shards.layout import REFUSED_SPLIT, SPLITS, TRAIN
from distributed.shards.sampling import IntArray
from model.schema import Schema

GROUP_BYTES = 64 << 20  # prepared bytes of one task of the later passes, at least
MAX_GROUPS = 128
MAX_TABLE_BYTES = 1 << 30  # Arrow counts the bytes of a column of images in 31 bits
BATCH_ROWS = 256  # rows that are prepared together
LENGTH = "length."  # prefix of the columns with the bytes of each image
WRITES_PER_CPU = 2  # so that no write waits for the driver
WRITE_SECONDS = 60.0  # a part takes a few seconds

Advance = Callable[[int], None]  # reports progress


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
            refs, rows, size = [*refs, ref], rows + block_rows, size + block_size
            if size >= limit:
                groups.append(BlockGroup(first, rows, refs))
                first, rows, size, refs = first + rows, 0, 0, []
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


def prepare_all(
    table: RawTable,
    plan: RowPlan,
    names: Sequence[str],
    pixels: Sequence[float],
    cpus: int,
    advance: Advance,
) -> PreparedBlocks:
    """The first pass, through Ray Data: reads the rows, decodes and resizes the images.

    names: the columns to read. pixels: of each source image of a row.
    """
    dataset = ray_dataset(table, names, pixels, cpus).map_batches(
        prepare_rows,  # type: ignore[arg-type]  # Ray's type omits fn_args
        fn_args=(plan,),
        batch_format="pyarrow",
        batch_size=BATCH_ROWS,
        zero_copy_batch=True,
    )
    dataset.context.execution_options.preserve_order = True
    blocks = PreparedBlocks(cpus)
    for bundle in dataset.iter_internal_ref_bundles():
        for ref, metadata in zip(bundle.block_refs, bundle.metadata):
            if metadata.num_rows:
                blocks.refs.append(ref)
                blocks.rows.append(metadata.num_rows)
                blocks.sizes.append(metadata.size_bytes or 1)
                advance(metadata.num_rows)
    return blocks


def _joined(blocks: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(blocks, promote_options="permissive")


def without_cells(*blocks: pa.Table) -> pa.Table:
    """Returns what the driver must know of every row: never its images or its cells.

    It runs as a Ray task. Instead of each image there is its length in bytes.
    """
    table = _joined(blocks)
    names = [name for name in table.column_names if not name.startswith((CELL, IMAGE, SUMS))]
    kept = table.select(names)
    for name in table.column_names:
        if name.startswith(IMAGE):
            lengths = pc.fill_null(pc.binary_length(table[name]), 0)
            kept = kept.append_column(LENGTH + name, lengths)
    return kept


def collect_identities(blocks: PreparedBlocks) -> pa.Table:
    """Returns the ids, labels, groups, splits and reasons of all rows."""
    task = ray.remote(without_cells)
    parts = ray.get([task.remote(*group.refs) for group in blocks.grouped()])
    return pa.concat_tables(parts).combine_chunks()


def block_statistics(rows: RowAssignment, sampled: int, *blocks: pa.Table) -> TrainingStatistics:
    """Counts over the training rows of some blocks, as a Ray task.

    sampled: as many training rows, the first by position, give the quantiles.
    """
    train = rows.split == TRAIN
    table = _joined(blocks).filter(pa.array(train))
    labels, in_sample = rows.labels[train], rows.position[train] < sampled
    stats: dict[str, ColumnStats] = {}
    pixels: dict[str, PixelSums] = {}
    for name in table.column_names:
        if name.startswith(CELL):
            stats[name.removeprefix(CELL)] = column_stats(table[name], labels, in_sample)
        elif name.startswith(SUMS):
            pixels[name.removeprefix(SUMS)] = _pixel_sums(table[name])
    return TrainingStatistics(stats, pixels)


def _pixel_sums(cells: pa.ChunkedArray) -> PixelSums:
    images = cells.drop_null().combine_chunks()
    if not len(images):
        return PixelSums(0, [])
    values = images.flatten().to_numpy().reshape(len(images), len(images[0]))
    return PixelSums(len(images), values.sum(axis=0).tolist())


def training_statistics(
    blocks: PreparedBlocks, rows: RowAssignment, sampled: int, advance: Advance
) -> TrainingStatistics:
    """The second pass: the training statistics of all blocks together. sampled: see there."""
    task = ray.remote(block_statistics)
    groups = blocks.grouped()
    refs = [task.remote(rows.slice(g.first, g.rows), sampled, *g.refs) for g in groups]
    parts: list[TrainingStatistics] = []
    for group, ref in zip(groups, refs):
        parts.append(ray.get(ref))
        advance(group.rows)
    return TrainingStatistics(
        {name: combine_stats([part.columns[name] for part in parts]) for name in parts[0].columns},
        {name: _added([part.pixels[name] for part in parts]) for name in parts[0].pixels},
    )


def _added(parts: Sequence[PixelSums]) -> PixelSums:
    with_images = [part for part in parts if part.images]
    sums = [sum(of_channel) for of_channel in zip(*(part.sums for part in with_images))]
    return PixelSums(sum(part.images for part in with_images), sums)


def prepared_columns(schema: Schema) -> list[str]:
    """Returns the columns of the prepared rows that become those of the shards."""
    cells = [CELL + column.name for table in schema.tables for column in table.columns]
    return [*(IMAGE + image.name for image in schema.images), *cells]


def find_blank_rows(names: Sequence[str], *blocks: pa.Table) -> NDArray[np.bool_]:
    """Returns which rows of some blocks have nothing in these columns, as a Ray task."""
    table = _joined(blocks)
    blank = np.arange(table.num_rows)
    for name in names:
        if not len(blank):
            break
        if name.startswith(IMAGE):
            valid = pc.is_valid(table[name]).take(blank)  # without a copy of the images
        else:
            valid = pc.is_valid(as_text(table[name].take(blank)))
        blank = blank[~valid.to_numpy(zero_copy_only=False)]
    return np.isin(np.arange(table.num_rows), blank)


def all_blank_rows(
    blocks: PreparedBlocks, rows: RowAssignment, names: Sequence[str]
) -> NDArray[np.bool_]:
    """Returns which rows that are not refused have nothing in these columns."""
    task = ray.remote(find_blank_rows)
    parts = ray.get([task.remote(names, *group.refs) for group in blocks.grouped()])
    blank: NDArray[np.bool_] = np.concatenate(parts) & (rows.split != REFUSED_SPLIT)
    return blank


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


def deal_rows(
    first: int, rows: RowAssignment, layout: ShardLayout, *blocks: pa.Table
) -> list[pa.Table] | pa.Table:
    """Returns the shard rows of some blocks, one table for every part file, as a Ray task.

    first: the number of the first row. Of a single part file it is the table itself, as Ray
    wants it of a task with one result.
    """
    table = _joined(blocks)
    if ID in table.column_names:
        ids = table[ID]
    else:
        ids = pa.array([str(first + i) for i in range(table.num_rows)], pa.string())
    shard = {
        ID: ids,
        LABEL: pa.array(rows.labels, pa.int32()),
        RANK: pa.array(rows.rank, pa.int32()),
    }
    if GROUP in table.column_names:
        shard[GROUP] = table[GROUP]
    shard |= image_columns(table, [image.name for image in layout.schema.images])
    cells = {
        name.removeprefix(CELL): table[name] for name in table.column_names if name.startswith(CELL)
    }
    shard |= table_columns(cells, layout.schema.tables, layout.readings)
    shard[POSITION_COLUMN] = pa.array(rows.position)
    shard_table = pa.table(shard)
    part = layout.parts.part_of(rows)
    pieces = [shard_table.take(np.flatnonzero(part == i)) for i in range(sum(layout.parts.files))]
    return pieces if len(pieces) > 1 else pieces[0]


def write_all_parts(
    blocks: PreparedBlocks,
    rows: RowAssignment,
    layout: ShardLayout,
    folder: str,
    advance: Advance,
) -> list[WrittenFile]:
    """The third pass: divides the rows among the parts and writes them.

    The blocks are given up on the way, and cannot be used afterwards.
    """
    n_parts = sum(layout.parts.files)
    deal = ray.remote(deal_rows).options(num_returns=n_parts)
    groups = blocks.grouped()
    blocks.refs.clear()
    pieces_of_group = []
    while groups:
        group = groups.pop(0)
        own_rows = rows.slice(group.first, group.rows)
        pieces = deal.remote(group.first, own_rows, layout, *group.refs)
        pieces_of_group.append(pieces if n_parts > 1 else [pieces])
    to_write = [
        (part_path(folder, split, i), [pieces[k] for pieces in pieces_of_group])
        for k, (split, i) in enumerate(layout.parts.names())
    ]
    del pieces_of_group, pieces, group
    write = ray.remote(write_part)
    running: list[ray.ObjectRef[WrittenFile]] = []
    written: list[WrittenFile] = []
    to_write.reverse()
    try:
        while to_write or running:
            while to_write and len(running) < WRITES_PER_CPU * blocks.cpus:
                uri, part_pieces = to_write.pop()
                running.append(write.remote(uri, *part_pieces))
            done, running = ray.wait(running)
            written += ray.get(done)
            advance(len(done))
    except BaseException:
        # No task may write into a folder that is about to be removed; cancelling tasks can crash
        # Ray 2.60.
        if running:
            ray.wait(running, num_returns=len(running), timeout=WRITE_SECONDS)
        raise
    return written
