"""How the rows to predict are cut: into tasks of whole batches, whoever works on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from distributed.raw.table import UNREADABLE, RawTable, csv_options, explain_reading_error
from distributed.runtime.storage import filesystem

PART_ROWS = 16_384  # of one task, hence of one part file
CHUNK_BYTES = 64 << 20  # text of a CSV table that is held at a time


@dataclass(frozen=True)
class RowRange:
    """Neighbouring rows of one row group, in whole batches but for the group's end."""

    file: str
    group: int
    skip: int  # rows of the group before it
    rows: int
    first: int  # number of its first row in the whole input
    split: str = ""


@dataclass(frozen=True)
class Wave:
    """Tasks that are worked on together. Each is a list of pieces; those of a CSV table are ranges of `table`."""

    tasks: list[list[RowRange]]
    table: pa.Table | None = None

    @property
    def rows(self) -> int:
        return sum(piece.rows for task in self.tasks for piece in task)


def row_ranges(uri: str, files: Sequence[tuple[str, str]]) -> list[RowRange]:
    """Every row group of these Parquet files."""
    system, _ = filesystem(uri)
    found: list[RowRange] = []
    first = 0
    for path, split in files:
        with system.open_input_file(path) as source:
            metadata = pq.ParquetFile(source).metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if rows:
                found.append(RowRange(path, group, 0, rows, first, split))
            first += rows
    return found


def make_tasks(groups: Sequence[RowRange], batch_size: int, workers: int) -> list[list[RowRange]]:
    """The pieces dealt out in order: several tasks a worker, none above PART_ROWS unless a row group would be read too often.

    Where batches begin does not depend on `workers`, so neither does any prediction.
    """
    total = sum(piece.rows for piece in groups)
    size = PART_ROWS if workers == 1 else min(PART_ROWS, -(-total // (4 * workers)))
    size = max(1, size // batch_size) * batch_size
    found: list[list[RowRange]] = [[]]
    filled = 0
    for group in groups:
        # A worker that begins inside a row group of a file reads what lies before, too: two cuts a worker and no more.
        step = (
            max(size, -(-group.rows // (2 * workers) // batch_size) * batch_size)
            if group.file
            else size
        )
        for low in range(0, group.rows, step):
            rows = min(step, group.rows - low)
            if filled and filled + rows > size:
                found.append([])
                filled = 0
            found[-1].append(
                RowRange(
                    group.file, group.group, group.skip + low, rows, group.first + low, group.split
                )
            )
            filled += rows
    return [task for task in found if task]


def parquet_batches(
    uri: str, task: Sequence[RowRange], batch_size: int, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, RowRange, int]]:
    """Raw batches of a task with the number of their first row; one batch of a row group is in memory at a time."""
    system, _ = filesystem(uri)
    for piece in task:
        with system.open_input_file(piece.file) as source:
            parquet = pq.ParquetFile(source, pre_buffer=True)
            batches = parquet.iter_batches(
                batch_size, row_groups=[piece.group], columns=list(columns), use_threads=False
            )
            taken = itertools.islice(
                batches, piece.skip // batch_size, -(-(piece.skip + piece.rows) // batch_size)
            )
            for number, batch in enumerate(taken):
                yield pa.Table.from_batches([batch]), piece, piece.first + number * batch_size


def csv_chunks(table: RawTable, columns: Sequence[str], batch_size: int) -> Iterator[pa.Table]:
    """Stretches of a CSV table in whole batches, every cell as text; types are those of the checkpoint."""
    from pyarrow import csv as arrow_csv

    held: list[pa.RecordBatch] = []
    size = 0
    try:
        for path in table.files:
            with table.system.open_input_stream(path, compression="detect") as stream:
                for batch in arrow_csv.open_csv(stream, **csv_options(table)):
                    held.append(batch.select(list(columns)))
                    size += held[-1].nbytes
                    if size >= CHUNK_BYTES:
                        whole = pa.Table.from_batches(held)
                        cut = whole.num_rows // batch_size * batch_size
                        if cut:
                            yield whole.slice(0, cut).combine_chunks()
                        held, size = whole.slice(cut).to_batches(), 0
    except UNREADABLE as error:
        raise explain_reading_error(table, error) from None
    if held and (last := pa.Table.from_batches(held)).num_rows:
        yield last.combine_chunks()
