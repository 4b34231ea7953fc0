"""Reads chosen rows of a split in a chosen order; row groups are the unit of reading."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distributed.runtime.storage import filesystem
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
    """

    index: SplitIndex
    schema: Schema
    corruption: str = ""
    seed: int = 0
    recent: dict[int, pa.Table] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "recent": {}}

    def columns(self, rows_B: IntArray) -> Columns:
        """Returns the stored columns of these rows, in this order, with label and rank.

        A row group is read once and kept for the next call.
        """
        index = self.index
        units = np.unique(index.units(rows_B))
        self.recent = self._read_units(units)
        table = pa.concat_tables([self.recent[int(unit)] for unit in units])
        unit_rows = np.diff(index.starts_U)[units]
        offsets = np.concatenate(([0], np.cumsum(unit_rows)[:-1]))
        place_B = np.searchsorted(units, index.units(rows_B))
        local_B = rows_B - index.starts_U[units][place_B] + offsets[place_B]
        columns = {name: values[local_B] for name, values in numpy_columns(table).items()}
        return {**columns, "label": index.labels_R[rows_B], "rank": index.ranks_R[rows_B]}

    def _read_units(self, units: IntArray) -> dict[int, pa.Table]:
        """Returns the tables of these row groups, those of the last window from memory."""
        names, index = shard_columns(self.schema), self.index
        tables = {int(unit): self.recent[unit] for unit in units if unit in self.recent}
        system, _ = filesystem(index.shards)
        for file in np.unique(index.file_U[units]):
            missing = [
                int(unit)
                for unit in units
                if index.file_U[unit] == file and int(unit) not in tables
            ]
            if not missing:
                continue
            with system.open_input_file(index.files[file]) as source:
                parquet = pq.ParquetFile(source, pre_buffer=True)
                for unit in missing:
                    group = int(index.group_U[unit])
                    tables[unit] = parquet.read_row_group(group, columns=names, use_threads=False)
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
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    return int(ray.available_resources().get("CPU", 0)) // world
