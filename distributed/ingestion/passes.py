"""The passes of an ingest: prepare every row, count, write the rows to parts.

Their tasks run in Ray or in this process, where the prepared rows stay between the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distributed.ingestion.blocks import (
    PixelSums,
    Place,
    PreparedBlocks,
    RowAssignment,
    ShardLayout,
    SourceRows,
    TrainingStatistics,
)
from distributed.ingestion.output import POSITION_COLUMN, WrittenFile, part_path, write_part
from distributed.raw.cells import as_text
from distributed.raw.column_stats import ColumnStats, column_stats, combine_stats
from distributed.raw.encoding import encode_table_columns
from distributed.raw.rows import (
    CELL,
    FILE,
    GROUP,
    ID,
    IMAGE,
    LABEL,
    RANK,
    SUMS,
    image_columns,
)
from distributed.shards.layout import REFUSED_SPLIT, TRAIN
from model.schema import Schema

BATCH_ROWS = 256  # rows that are prepared together
LENGTH = "length."  # prefix of the columns with the bytes of each image
WRITES_PER_CPU = 2  # so that no write waits for the driver
WRITE_SECONDS = 60.0  # a part takes a few seconds

Advance = Callable[[int], None]  # reports progress


def prepare_all(place: Place, source: SourceRows, advance: Advance) -> PreparedBlocks:
    """The first pass: reads the rows, decodes and resizes the images."""
    blocks = PreparedBlocks(place)
    for block in place.prepare(source, BATCH_ROWS):
        if block.rows:
            blocks.blocks.append(block)
            advance(block.rows)
    return blocks


def _joined(blocks: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(blocks, promote_options="permissive")


def without_cells(*blocks: pa.Table) -> pa.Table:
    """Returns what the driver must know of every row: never its images or its cells.

    It runs as a task. Instead of each image there is its length in bytes.
    """
    table = _joined(blocks)
    names = [name for name in table.column_names if not name.startswith((CELL, IMAGE, SUMS, FILE))]
    kept = table.select(names)
    for name in table.column_names:
        if name.startswith(IMAGE):
            lengths = pc.fill_null(pc.binary_length(table[name]), 0)
            kept = kept.append_column(LENGTH + name, lengths)
    return kept


def collect_identities(blocks: PreparedBlocks) -> pa.Table:
    """Returns the ids, labels, groups, splits and reasons of all rows."""
    place = blocks.place
    started = [place.start(without_cells, *group.refs)[0] for group in blocks.grouped()]
    parts = place.get(started)
    return pa.concat_tables(parts).combine_chunks()


def block_statistics(rows: RowAssignment, sampled: int, *blocks: pa.Table) -> TrainingStatistics:
    """Counts over the training rows of some blocks, as a task.

    The quantiles are computed from the first `sampled` training rows by position.
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
    place, groups = blocks.place, blocks.grouped()
    started = [
        place.start(block_statistics, rows.slice(g.first, g.rows), sampled, *g.refs) for g in groups
    ]
    parts: list[TrainingStatistics] = []
    for group, results in zip(groups, started):
        parts += place.get(results)
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
    """Returns which rows of some blocks have nothing in these columns, as a task."""
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
    place = blocks.place
    started = [place.start(find_blank_rows, names, *group.refs)[0] for group in blocks.grouped()]
    blank: NDArray[np.bool_] = np.concatenate(place.get(started)) & (rows.split != REFUSED_SPLIT)
    return blank


def deal_rows(
    first: int, rows: RowAssignment, layout: ShardLayout, *blocks: pa.Table
) -> list[pa.Table] | pa.Table:
    """Returns the shard rows of some blocks, one table for every part file, as a task.

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
    images = [image.name for image in layout.schema.images]
    shard |= image_columns(table, images)
    names = [FILE + image for image in images]
    shard |= {name: table[name] for name in names if name in table.column_names}
    cells = {
        name.removeprefix(CELL): table[name] for name in table.column_names if name.startswith(CELL)
    }
    shard |= encode_table_columns(cells, layout.schema.tables, layout.readings)
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
    place, n_parts = blocks.place, sum(layout.parts.files)
    groups = blocks.grouped()
    blocks.blocks.clear()
    pieces_of_group = []
    while groups:
        group = groups.pop(0)
        own_rows = rows.slice(group.first, group.rows)
        pieces_of_group.append(
            place.start(deal_rows, group.first, own_rows, layout, *group.refs, results=n_parts)
        )
    to_write = [
        (part_path(folder, split, i), [pieces[k] for pieces in pieces_of_group])
        for k, (split, i) in enumerate(layout.parts.names())
    ]
    del pieces_of_group, group
    running: list[Any] = []
    written: list[WrittenFile] = []
    to_write.reverse()
    try:
        while to_write or running:
            while to_write and len(running) < WRITES_PER_CPU * place.cpus:
                uri, part_pieces = to_write.pop()
                running += place.start(write_part, uri, *part_pieces)
            done, running = place.wait(running)
            written += place.get(done)
            advance(len(done))
    except BaseException:
        # No task may write into a folder that is about to be removed; cancelling tasks can crash
        # Ray 2.60.
        if running:
            place.wait(running, results=len(running), seconds=WRITE_SECONDS)
        raise
    return written
