"""The passes of an ingest over the cluster: prepare every row once, count, then deal the rows out to the parts of their splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingestion.output import POSITION_COLUMN, WrittenFile, part_path, write_part
from distributed.raw import columns
from distributed.raw.cells import as_text
from distributed.raw.rows import (
    CELL,
    COLOUR,
    DEEP,
    DIGEST,
    GROUP,
    ID,
    IMAGE,
    LABEL,
    SUMS,
    RowPlan,
    image_columns,
    prepare_rows,
    table_columns,
)
from distributed.raw.table import RawTable, ray_dataset
from distributed.shards.layout import REFUSED_SPLIT, SPLITS, TRAIN
from model.schema import Schema

GROUP_BYTES = 64 << 20  # prepared bytes of one task of the later passes
MAX_TABLE_BYTES = 1 << 30  # in one table: Arrow counts the bytes of a column of images in 31 bits
LENGTH = "length."
WRITES_PER_CPU = 2  # so that none waits for the driver
WRITE_SECONDS = 60.0  # a part takes few


@dataclass
class PreparedBlocks:
    """The prepared rows in the object store (spilled to disk by Ray when it is full), in the order of the table."""

    refs: list[Any]
    rows: list[int]
    sizes: list[int]

    def __len__(self) -> int:
        return sum(self.rows)

    def grouped(self, at_least: int) -> list[tuple[int, int, list[Any]]]:
        """(first row, rows, blocks) of runs of neighbours; the results never depend on how they are grouped."""
        total = sum(self.sizes)
        limit = min(max(GROUP_BYTES, total // 128), total // max(1, at_least) + 1, MAX_TABLE_BYTES)
        found: list[tuple[int, int, list[Any]]] = []
        first = rows = size = 0
        refs: list[Any] = []
        for ref, n, weight in zip(self.refs, self.rows, self.sizes):
            refs, rows, size = [*refs, ref], rows + n, size + weight
            if size >= limit:
                found.append((first, rows, refs))
                first, rows, size, refs = first + rows, 0, 0, []
        return [*found, (first, rows, refs)] if refs else found


@dataclass(frozen=True, kw_only=True)
class RowAssignment:
    """For every row of the table: its split (-1 refused), class, rank and place."""

    split: np.ndarray
    labels: np.ndarray
    rank: np.ndarray
    position: np.ndarray

    def slice(self, first: int, rows: int) -> RowAssignment:
        part = slice(first, first + rows)
        return RowAssignment(
            split=self.split[part],
            labels=self.labels[part],
            rank=self.rank[part],
            position=self.position[part],
        )


def prepare_all(
    table: RawTable,
    plan: RowPlan,
    names: Sequence[str],
    pixels: Sequence[float],
    cpus: int,
    advance: Callable[[int], None],
) -> PreparedBlocks:
    """First pass, through Ray Data: read, decode, resize. pixels: of a row's source images."""
    dataset = ray_dataset(table, names, pixels, cpus)
    dataset = dataset.map_batches(
        prepare_rows,
        fn_args=(plan,),
        batch_format="pyarrow",
        batch_size=256,
        zero_copy_batch=True,
    )
    dataset.context.execution_options.preserve_order = True
    blocks = PreparedBlocks([], [], [])
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
    """What the driver must know of every row: never its images or its cells."""
    table = _joined(blocks)
    names = [n for n in table.column_names if not n.startswith((CELL, IMAGE, SUMS))]
    kept = table.select(names)
    for name in table.column_names:
        if name.startswith(IMAGE):
            kept = kept.append_column(LENGTH + name, pc.fill_null(pc.binary_length(table[name]), 0))
    return kept


def collect_identities(blocks: PreparedBlocks, cpus: int) -> pa.Table:
    import ray

    task = ray.remote(without_cells)
    return pa.concat_tables(
        ray.get([task.remote(*refs) for _, _, refs in blocks.grouped(cpus)])
    ).combine_chunks()


def block_statistics(
    rows: RowAssignment, sampled: int, *blocks: pa.Table
) -> tuple[dict[str, columns.ColumnStats], dict[str, tuple[int, list[int]]]]:
    """Counts of every column, and images with their pixel sums, over the training rows of some blocks."""
    table = _joined(blocks)
    train = rows.split == TRAIN
    table = table.filter(pa.array(train))
    labels, sample = rows.labels[train], rows.position[train] < sampled
    counts = {
        n[len(CELL) :]: columns.column_stats(table[n], labels, sample)
        for n in table.column_names
        if n.startswith(CELL)
    }
    sums = {}
    for name in table.column_names:
        if name.startswith(SUMS):
            there = table[name].drop_null().combine_chunks()
            width = len(there[0]) if len(there) else 0
            values = (
                there.flatten().to_numpy().reshape(len(there), width)
                if width
                else np.zeros((0, 0), dtype=np.int64)
            )
            sums[name[len(SUMS) :]] = (len(there), values.sum(axis=0).tolist())
    return counts, sums


def training_statistics(
    blocks: PreparedBlocks,
    rows: RowAssignment,
    sampled: int,
    cpus: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, columns.ColumnStats], dict[str, tuple[int, list[int]]]]:
    """Second pass: the training statistics of all blocks together."""
    import ray

    task = ray.remote(block_statistics)
    groups = blocks.grouped(cpus)
    refs = [task.remote(rows.slice(first, n), sampled, *refs) for first, n, refs in groups]
    parts = []
    for (_, n, _), ref in zip(groups, refs):
        parts.append(ray.get(ref))
        advance(n)
    counts = {name: columns.combine_stats([p[0][name] for p in parts]) for name in parts[0][0]}
    sums: dict[str, tuple[int, list[int]]] = {}
    for name in parts[0][1]:
        some = [p[1][name] for p in parts if p[1][name][0]]
        sums[name] = (
            sum(n for n, _ in some),
            [sum(column) for column in zip(*(s for _, s in some))],
        )
    return counts, sums


def find_blank_rows(names: Sequence[str], *blocks: pa.Table) -> np.ndarray:
    """Which rows of some blocks have nothing in these columns."""
    table = _joined(blocks)
    rest = np.arange(table.num_rows)
    for name in names:
        if not len(rest):
            break
        cells = table[name]
        there = (
            pc.is_valid(cells).take(rest)
            if name.startswith(IMAGE)
            else pc.is_valid(as_text(cells.take(rest)))
        )
        rest = rest[~there.to_numpy(zero_copy_only=False)]
    return np.isin(np.arange(table.num_rows), rest)


def prepared_columns(schema: Schema) -> list[str]:
    """Columns of the prepared rows that become those of the shards."""
    columns = [
        CELL + column.name
        for table in schema.tables
        for column in (*table.numeric, *table.categorical)
    ]
    return [*(IMAGE + image.name for image in schema.images), *columns]


def all_blank_rows(
    blocks: PreparedBlocks, rows: RowAssignment, names: Sequence[str], cpus: int
) -> np.ndarray:
    """Which rows that are not refused have nothing in these columns."""
    import ray

    task = ray.remote(find_blank_rows)
    found = ray.get([task.remote(names, *refs) for _, _, refs in blocks.grouped(cpus)])
    return np.concatenate(found) & (rows.split != REFUSED_SPLIT)


@dataclass(frozen=True, kw_only=True)
class PartLayout:
    """How many part files every split has: rows are dealt to them evenly, by position."""

    rows: tuple[int, ...]
    files: tuple[int, ...]

    def of(self, rows: RowAssignment) -> np.ndarray:
        """The number of every row's part, counted through all splits; -1 for refused rows."""
        starts = np.concatenate([[0], np.cumsum(self.files)])[:-1]
        split = np.maximum(rows.split, 0)
        per_file = (
            np.array(self.files)[split] * rows.position // np.maximum(1, np.array(self.rows)[split])
        )
        return np.where(rows.split == REFUSED_SPLIT, -1, starts[split] + per_file)

    def names(self) -> list[tuple[str, int]]:
        return [(split, i) for split, n in zip(SPLITS, self.files) for i in range(n)]


def deal_rows(
    first: int,
    rows: RowAssignment,
    parts: PartLayout,
    schema: Schema,
    readings: Mapping[str, str],
    *blocks: pa.Table,
) -> Any:
    """The shard rows of some blocks, one table for every part file."""
    table = _joined(blocks)
    ids = (
        table[ID]
        if ID in table.column_names
        else pa.array([str(first + i) for i in range(table.num_rows)], pa.string())
    )
    out: dict[str, Any] = {
        ID: ids,
        LABEL: pa.array(rows.labels, pa.int32()),
        "rank": pa.array(rows.rank, pa.int32()),
    }
    if GROUP in table.column_names:
        out[GROUP] = table[GROUP]
    out.update(image_columns(table, [i.name for i in schema.images]))
    cells = {n[len(CELL) :]: table[n] for n in table.column_names if n.startswith(CELL)}
    out.update(table_columns(cells, schema.tables, readings))
    out[POSITION_COLUMN] = pa.array(rows.position)
    shard = pa.table(out)
    numbers = parts.of(rows)
    pieces = [shard.take(np.flatnonzero(numbers == i)) for i in range(sum(parts.files))]
    return pieces if len(pieces) > 1 else pieces[0]


def write_all_parts(
    blocks: PreparedBlocks,
    rows: RowAssignment,
    parts: PartLayout,
    schema: Schema,
    readings: Mapping[str, str],
    folder: str,
    cpus: int,
    advance: Callable[[int], None],
) -> list[WrittenFile]:
    """Third pass: deal the rows out and write the parts. Gives the blocks up as it goes."""
    import ray

    n_parts = sum(parts.files)
    dealing = ray.remote(deal_rows).options(num_returns=n_parts)
    groups = blocks.grouped(cpus)
    blocks.refs.clear()
    dealt = []
    while groups:
        first, n, refs = groups.pop(0)
        pieces = dealing.remote(first, rows.slice(first, n), parts, schema, readings, *refs)
        dealt.append(pieces if n_parts > 1 else [pieces])
    left = [
        (part_path(folder, split, i), [d[k] for d in dealt])
        for k, (split, i) in enumerate(parts.names())
    ][::-1]
    del dealt
    task, running, written = ray.remote(write_part), [], []
    try:
        while left or running:
            while left and len(running) < WRITES_PER_CPU * cpus:
                uri, pieces = left.pop()
                running.append(task.remote(uri, *pieces))
            done, running = ray.wait(running)
            written += ray.get(done)
            advance(len(done))
    except BaseException:
        if running:  # none may write into a folder that is about to be removed; cancelling them can crash Ray 2.60
            ray.wait(running, num_returns=len(running), timeout=WRITE_SECONDS)
        raise
    return written


def colour_as_grey(table: pa.Table, name: str) -> int:
    return int(pc.sum(table[COLOUR + name]).as_py() or 0)


def without_window(table: pa.Table, name: str) -> int:
    return int(pc.sum(table[DEEP + name]).as_py() or 0)


def image_digests(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table[DIGEST + name]
