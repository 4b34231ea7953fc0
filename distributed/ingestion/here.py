"""The tasks of an ingest in this process, one after the other: small tables need no Ray.

The shards are the same, byte for byte, as those that Ray's tasks write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import csv, dataset

from distributed.ingestion.blocks import Block, SourceRows
from distributed.raw.reading import csv_options
from distributed.raw.rows import prepare_rows
from distributed.raw.table import RawTable


class InThisProcess:
    """Runs tasks at once. What stands for a result is the result itself."""

    cpus = 1

    def prepare(self, source: SourceRows, batch_rows: int) -> Iterator[Block]:
        for rows in read_table(source.table, source.names):
            for first in range(0, rows.num_rows, batch_rows):
                block = prepare_rows(rows.slice(first, batch_rows), source.plan)
                yield Block(block, block.num_rows, block.nbytes or 1)

    def start(self, task: Callable[..., Any], *arguments: Any, results: int = 1) -> list[Any]:
        result = task(*arguments)
        return list(result) if results > 1 else [result]

    def wait(
        self, started: list[Any], *, results: int = 1, seconds: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        return started, []

    def get(self, started: Sequence[Any]) -> list[Any]:
        return list(started)


def read_table(table: RawTable, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yields these columns of all rows, in order; of a CSV all columns."""
    if table.kind == "parquet":
        files = dataset.dataset(
            list(table.files),
            schema=table.types(names),
            format="parquet",
            filesystem=table.system,
        )
        for batch in files.to_batches(columns=list(names), use_threads=False):
            yield pa.Table.from_batches([batch])
        return
    for name in table.files:
        with table.system.open_input_stream(name, compression="detect") as stream:
            for batch in csv.open_csv(stream, **csv_options(table)):
                yield pa.Table.from_batches([batch])
