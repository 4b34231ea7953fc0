"""The rows to predict as batches that the network can take, from whatever they are read.

A source of rows (shards here, tables in tables.py, pandas frames in frames.py) gives tasks, the
raw batches of a task, and prepares a raw batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distributed.inference.rows.matching import SchemaMatch, keep_modalities
from distributed.inference.rows.tasks import (
    RawBatch,
    Records,
    RowRange,
    TaskGroup,
    make_tasks,
    parquet_batches,
)
from distributed.inference.rows.tasks import row_ranges as parquet_row_ranges
from distributed.raw.encoding import ROW, encode_rows
from distributed.raw.rows import ID, REASON
from distributed.shards.decode import Arrays, decode_columns, numpy_columns, shard_columns
from distributed.shards.manifest import Manifest
from distributed.training.checkpoint import Checkpoint


@dataclass
class PreparedBatch:
    """Rows as arrays that the network can take, and the rows of the batch that were refused."""

    arrays: Arrays
    ids: pa.Array
    labels: pa.Array  # class names, null where unknown
    split: str = ""
    refused: pa.Table | None = None  # id, reason and row, the place in the batch
    # Cells of each table column that hold something the model cannot use.
    unread: Counter[str] = field(default_factory=Counter)
    kept: pa.Table | None = None  # columns for the predictions, of all rows of the batch


class InputRows(Protocol):
    """A source of rows to predict."""

    @property
    def has_splits(self) -> bool:
        """Whether the rows belong to train, val or test."""
        ...

    @property
    def row_count(self) -> int | None:
        """All rows, or None where only reading them tells."""
        ...

    @property
    def kept(self) -> pa.Schema | None:
        """Columns of the input that the predictions keep; None where there are none."""
        ...

    def task_groups(self, workers: int) -> Iterator[TaskGroup]:
        """Yields the tasks of all rows, divided for this number of workers."""
        ...

    def batches(self, task_group: TaskGroup, task: Sequence[RowRange]) -> Iterator[RawBatch]:
        """Yields the raw batches of a task of the group."""
        ...

    def prepare(self, batch: RawBatch) -> PreparedBatch:
        """Returns a raw batch as arrays."""
        ...


@dataclass
class ShardRows:
    """Rows of a SHARDS folder, as a source of rows to predict.

    files: the split of every part, by path. records: what schema.json says of every part.
    """

    uri: str
    match: SchemaMatch
    batch_size: int
    files: dict[str, str]
    records: Records

    @property
    def has_splits(self) -> bool:
        return True

    @property
    def row_count(self) -> int | None:
        return sum(task_group.rows for task_group in self.task_groups(1))

    @property
    def kept(self) -> pa.Schema | None:
        return None

    def task_groups(self, workers: int) -> Iterator[TaskGroup]:
        ranges = parquet_row_ranges(self.uri, self.files, self.records)
        yield TaskGroup(make_tasks(ranges, self.batch_size, workers))

    def batches(self, task_group: TaskGroup, task: Sequence[RowRange]) -> Iterator[RawBatch]:
        columns = ["id", "label", *shard_columns(self.match.read)]
        return parquet_batches(self.uri, task, self.batch_size, columns, self.records)

    def prepare(self, batch: RawBatch) -> PreparedBatch:
        columns = numpy_columns(batch.table.drop_columns("id"))
        arrays = self.match.apply(decode_columns(columns, self.match.read))
        return PreparedBatch(
            arrays,
            batch.table["id"].cast(pa.string()).combine_chunks(),
            label_names(arrays["labels"], self.match.model.classes),
            batch.split,
        )


@dataclass
class RowEncoder:
    """Prepares raw rows as the checkpoint's training rows were prepared.

    manifest: the checkpoint's, with only the modalities that the network takes.
    folders: where the paths of each image column begin.
    decimal_commas: numbers in text may have them, though those of training had none.
    kept: columns that the predictions keep, with the types they are kept in.
    """

    manifest: Manifest
    folders: Mapping[str, str]
    decimal_commas: bool = False
    kept: pa.Schema | None = None

    def used_columns(self, available: Sequence[str]) -> list[str]:
        """Returns the columns that matter, in their order; the others need not be read."""
        prepare = self.manifest.prepare
        used = {prepare.get("id"), prepare.get("label")}
        used |= {image["column"] for image in prepare["images"]}
        for table in self.manifest.schema.tables:
            used |= {column.name for column in table.columns}
        used |= {*(self.kept.names if self.kept else ())}
        return [name for name in available if name in used]

    def check_columns(self, schema: pa.Schema) -> None:
        """Raises ValueError for columns that lack a part of a modality, before any work is done."""
        blank = pa.table({entry.name: pa.nulls(1, entry.type) for entry in schema})
        encode_rows(blank, self.manifest, self.folders)

    def prepare(self, batch: RawBatch) -> PreparedBatch:
        """Returns the usable rows of a raw batch as arrays, and the refused ones with reasons."""
        unread: Counter[str] = Counter()
        usable, refused = encode_rows(
            batch.table, self.manifest, self.folders, batch.first, self.decimal_commas, unread
        )
        schema = self.manifest.schema
        arrays = decode_columns(numpy_columns(usable.drop_columns("id")), schema)
        return PreparedBatch(
            arrays,
            usable["id"].cast(pa.string()).combine_chunks(),
            label_names(arrays["labels"], schema.classes),
            batch.split,
            refused if refused.num_rows else None,
            unread,
            batch.table.select(self.kept.names) if self.kept else None,
        )


def raw_manifest(checkpoint: Checkpoint, source: str) -> Manifest:
    """Returns how to prepare raw rows for a checkpoint's network; ValueError where nothing says so.

    source: where the raw rows come from, for the message.
    """
    manifest = checkpoint.manifest
    if "images" not in manifest.prepare:
        raise ValueError(
            "a table needs a checkpoint whose shards were made by ingest.py, "
            f"which says how to prepare it; got {source}"
        )
    schema, prepare = keep_modalities(manifest.schema, manifest.prepare, checkpoint.network.schema)
    return Manifest(schema=schema, rows=manifest.rows, prepare=prepare)


def insert_refused(predictions: pa.Table, refused: pa.Table) -> pa.Table:
    """Returns the rows of a batch in their order: those predicted, and those refused.

    A refused row has its id and its reason; its flags are false, its other values missing.
    """
    rows = refused.num_rows
    blank = {
        entry.name: pa.array(np.zeros(rows, dtype=bool))
        if pa.types.is_boolean(entry.type)
        else pa.nulls(rows, entry.type)
        for entry in predictions.schema
    }
    blank |= {ID: refused[ID].cast(pa.string()), REASON: refused[REASON]}
    places = np.zeros(predictions.num_rows + rows, dtype=np.int64)
    is_refused = np.zeros(len(places), dtype=bool)
    is_refused[refused[ROW].to_numpy()] = True
    places[~is_refused] = np.arange(predictions.num_rows)
    places[is_refused] = predictions.num_rows + np.arange(rows)
    both = pa.concat_tables([predictions, pa.table(blank, schema=predictions.schema)])
    return both.take(pa.array(places))


def label_names(labels_B: NDArray[np.integer], classes: Sequence[str]) -> pa.Array:
    """Returns the class names of labels; null for -1."""
    places = pa.array(labels_B, pa.int32(), mask=labels_B < 0)
    return pa.array([*classes], pa.string()).take(places)


@dataclass
class RowCounter:
    """Counts the rows of all tasks that it hands on, so that lost rows are noticed."""

    source: InputRows
    rows: int = 0

    def task_groups(self, workers: int) -> Iterator[TaskGroup]:
        """Yields the source's groups of tasks and counts their rows."""
        for task_group in self.source.task_groups(workers):
            self.rows += task_group.rows
            yield task_group
