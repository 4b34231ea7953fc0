"""Divides the rows to predict into tasks of whole batches, and reads the raw batches of a task.

Where a batch begins never depends on the number of workers, so neither does any prediction.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as arrow_csv

from distributed.raw.reading import UNREADABLE, csv_options, explain_reading_error
from distributed.raw.table import RawTable
from distributed.runtime.storage import filesystem
from distributed.shards.checksums import PartRecord, open_part

PART_ROWS = 16_384  # most rows of one task, hence of one part file
CHUNK_BYTES = 64 << 20  # text of a CSV table that is in memory at a time


@dataclass(frozen=True)
class RowRange:
    """Neighbouring rows of one Parquet row group, or of a table in memory, in whole batches.

    Only at the end of a row group may the last batch be smaller.
    """

    file: str  # empty for a table in memory
    group: int  # number of the row group in the file
    skip: int  # rows of the group before this range
    rows: int
    first: int  # number of its first row in the whole input
    split: str = ""  # of shards


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that can be worked on at the same time; each task is a list of row ranges."""

    tasks: list[list[RowRange]]
    table: pa.Table | None = None  # the rows themselves, where they do not come from Parquet files

    @property
    def rows(self) -> int:
        """Rows of all tasks."""
        return sum(row_range.rows for task in self.tasks for row_range in task)


@dataclass(frozen=True)
class RawBatch:
    """Rows of one batch as they were read, not yet prepared."""

    table: pa.Table
    first: int  # number of its first row in the whole input
    split: str = ""


# What schema.json says of each part of shards, by path; the files of a table have none.
Records = Mapping[str, PartRecord | None]


def row_ranges(uri: str, files: Mapping[str, str], records: Records) -> list[RowRange]:
    """Returns every row group of these Parquet files as one range.

    uri: any location in the files' file system. files: the split of every path.
    """
    system, _ = filesystem(uri)
    ranges: list[RowRange] = []
    first = 0
    for path, split in files.items():
        with open_part(system, path, records.get(path)) as file:
            metadata = file.metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if rows:
                ranges.append(RowRange(path, group, 0, rows, first, split))
            first += rows
    return ranges


def make_tasks(groups: Sequence[RowRange], batch_size: int, workers: int) -> list[list[RowRange]]:
    """Divides row groups, in order, into about four tasks for each worker.

    A task has at most PART_ROWS rows, unless smaller tasks would read a row group too often.
    """
    total = sum(group.rows for group in groups)
    size = PART_ROWS if workers == 1 else min(PART_ROWS, -(-total // (4 * workers)))
    size = max(1, size // batch_size) * batch_size
    tasks: list[list[RowRange]] = [[]]
    filled = 0
    for group in groups:
        step = size
        if group.file:
            # A worker that begins inside a row group also reads the rows before its own.
            # So a group is cut into no more than two parts for each worker.
            step = max(size, -(-group.rows // (2 * workers) // batch_size) * batch_size)
        for low in range(0, group.rows, step):
            rows = min(step, group.rows - low)
            if filled and filled + rows > size:
                tasks.append([])
                filled = 0
            tasks[-1].append(
                RowRange(
                    group.file, group.group, group.skip + low, rows, group.first + low, group.split
                )
            )
            filled += rows
    return [task for task in tasks if task]


def parquet_batches(
    uri: str,
    task: Sequence[RowRange],
    batch_size: int,
    columns: Sequence[str],
    records: Records,
) -> Iterator[RawBatch]:
    """Yields the raw batches of a task; one batch of a row group is in memory at a time."""
    system, _ = filesystem(uri)
    for row_range in task:
        first_batch = row_range.skip // batch_size
        last_batch = -(-(row_range.skip + row_range.rows) // batch_size)
        with open_part(system, row_range.file, records.get(row_range.file)) as parquet:
            batches = parquet.iter_batches(
                batch_size, row_groups=[row_range.group], columns=list(columns), use_threads=False
            )
            for number, batch in enumerate(itertools.islice(batches, first_batch, last_batch)):
                first = row_range.first + number * batch_size
                yield RawBatch(pa.Table.from_batches([batch]), first, row_range.split)


def memory_batches(
    table: pa.Table, task: Sequence[RowRange], batch_size: int
) -> Iterator[RawBatch]:
    """Yields the raw batches of a task whose row ranges are parts of a table in memory."""
    for row_range in task:
        for low in range(0, row_range.rows, batch_size):
            rows = min(batch_size, row_range.rows - low)
            yield RawBatch(table.slice(row_range.skip + low, rows), row_range.first + low)


def csv_chunks(table: RawTable, columns: Sequence[str], batch_size: int) -> Iterator[pa.Table]:
    """Yields a CSV table in chunks of whole batches; only the last may end within a batch.

    Every cell is text: the checkpoint says what the columns are.
    """
    pending: list[pa.RecordBatch] = []
    size = 0
    try:
        for path in table.files:
            with table.system.open_input_stream(path, compression="detect") as stream:
                for batch in arrow_csv.open_csv(stream, **csv_options(table)):
                    pending.append(batch.select(list(columns)))
                    size += pending[-1].nbytes
                    if size < CHUNK_BYTES:
                        continue
                    chunk = pa.Table.from_batches(pending)
                    end = chunk.num_rows // batch_size * batch_size
                    if end:
                        yield chunk.slice(0, end).combine_chunks()
                    pending, size = chunk.slice(end).to_batches(), 0
    except UNREADABLE as error:
        raise explain_reading_error(table, error) from None
    if pending:
        rest = pa.Table.from_batches(pending)
        if rest.num_rows:
            yield rest.combine_chunks()
