"""Reads chosen rows of a split in a chosen order, by whole row groups."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from distributed.runtime import ray_session
from distributed.runtime.storage import filesystem
from distributed.shards.checksums import open_part
from distributed.shards.corruption import apply_corruption
from distributed.shards.decode import (
    Arrays,
    decode_columns,
    empty_arrays,
    numpy_columns,
    shard_columns,
)
from distributed.shards.index import SplitIndex
from distributed.shards.sampling import IntArray
from model.schema import Schema

Columns = Arrays  # raw columns of a shard, by name

READY_BATCHES = 2  # batches that are decoded before they are needed


@dataclass
class ShardReader:
    """Turns row positions into decoded arrays of the schema's modalities.

    recent: row groups of the last window, in which the next one often begins.
    tasks_decode: whether Ray Data tasks decode for this process, which waited for its own threads.
    """

    index: SplitIndex
    schema: Schema
    corruption: str = ""
    seed: int = 0
    recent: dict[int, pa.Table] = field(default_factory=dict)
    tasks_decode: bool = False

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "recent": {}}

    def columns(self, rows_B: IntArray) -> Columns:
        """Returns the stored columns of these rows, in this order, with label and rank.

        A row group is read once and kept for the next call.
        """
        table, places_B = self.locate(rows_B)
        columns = {name: values[places_B] for name, values in numpy_columns(table).items()}
        index = self.index
        return {**columns, "label": index.labels_R[rows_B], "rank": index.ranks_R[rows_B]}

    def locate(self, rows_B: IntArray) -> tuple[pa.Table, IntArray]:
        """Returns the row groups that hold these rows as one table, and the rows' places in it."""
        index = self.index
        row_groups = np.unique(index.row_groups(rows_B))
        self.recent = self._read_row_groups(row_groups)
        table = pa.concat_tables([self.recent[int(group)] for group in row_groups])
        group_rows = np.diff(index.starts_U)[row_groups]
        offsets = np.concatenate(([0], np.cumsum(group_rows)[:-1]))
        group_B = np.searchsorted(row_groups, index.row_groups(rows_B))
        return table, rows_B - index.starts_U[row_groups][group_B] + offsets[group_B]

    def _read_row_groups(self, row_groups: IntArray) -> dict[int, pa.Table]:
        """Returns the tables of these row groups, those of the last window from memory."""
        names, index = shard_columns(self.schema), self.index
        tables = {int(group): self.recent[group] for group in row_groups if group in self.recent}
        system, _ = filesystem(index.shards)
        for file in np.unique(index.file_U[row_groups]):
            missing = [
                int(group)
                for group in row_groups
                if index.file_U[group] == file and int(group) not in tables
            ]
            if not missing:
                continue
            with open_part(system, index.files[file], index.records[file]) as parquet:
                for group in missing:
                    number = int(index.group_U[group])
                    tables[group] = parquet.read_row_group(number, columns=names, use_threads=False)
        return tables

    def arrays_without_columns(self, rows: int) -> Arrays:
        """Returns the arrays that have no columns, such as the numbers of a table without any."""
        arrays = empty_arrays(self.schema, rows)
        return {name: values for name, values in arrays.items() if not values.size}

    def decode(self, columns: Columns) -> Arrays:
        """Returns raw columns as arrays, corrupted where the settings say so."""
        arrays = decode_columns(columns, self.schema)
        if not self.corruption:
            return arrays
        return apply_corruption(
            arrays, self.corruption, self.schema, seed=self.seed, split=self.index.split
        )


@dataclass(frozen=True)
class Window:
    """Rows that are read together, and the positions among them where their batches end."""

    rows: IntArray
    ends: tuple[int, ...]

    def batches(self, columns: Columns) -> Iterator[Columns]:
        """Yields the columns of each batch, from those of the whole window."""
        for low, high in zip((0, *self.ends[:-1]), self.ends):
            yield {name: values[low:high] for name, values in columns.items()}


def idle_cpus(world: int = 1) -> int:
    """Returns the cluster's unclaimed CPUs for each of `world` workers; 0 without Ray."""
    if not ray_session.is_running():
        return 0
    return int(sys.modules["ray"].available_resources().get("CPU", 0)) // world
