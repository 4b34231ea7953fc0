"""The rows to predict: SHARDS or a raw table, as batches in the network's terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from distributed.inference.matching import SchemaMatch, keep_modalities, match_schemas
from distributed.inference.tasks import (
    RowRange,
    Wave,
    csv_chunks,
    make_tasks,
    parquet_batches,
    row_ranges,
)
from distributed.raw.headers import unreadable_file
from distributed.raw.rows import encode_rows
from distributed.raw.table import RawTable, open_raw_table
from distributed.runtime.storage import filesystem, is_uri, join
from distributed.shards.decode import Arrays, decode_columns, numpy_columns, shard_columns
from distributed.shards.layout import MANIFEST
from distributed.shards.manifest import Manifest, part_files, read_manifest
from distributed.training.checkpoint import Checkpoint
from model.schema import join_names


@dataclass
class PreparedBatch:
    """One batch: arrays in the network's terms with what identifies their rows, and the rows that were refused."""

    arrays: Arrays
    ids: pa.Array
    labels: pa.Array  # class names, null where unknown
    split: str
    refused: list[tuple[str, str]] = field(default_factory=list)
    unread: Counter[str] = field(
        default_factory=Counter
    )  # cells of a table's columns that hold what tells nothing


@dataclass
class ShardRows:
    """Rows of a SHARDS folder."""

    uri: str
    splits: tuple[str, ...]
    match: SchemaMatch
    batch_size: int

    def waves(self, workers: int) -> Iterator[Wave]:
        files = [(path, split) for split in self.splits for path in part_files(self.uri, split)]
        yield Wave(make_tasks(row_ranges(self.uri, files), self.batch_size, workers))

    def batches(
        self, wave: Wave, task: Sequence[RowRange]
    ) -> Iterator[tuple[pa.Table, RowRange, int]]:
        return parquet_batches(
            self.uri, task, self.batch_size, ["id", "label", *shard_columns(self.match.read)]
        )

    def prepare(self, raw: pa.Table, piece: RowRange, first: int) -> PreparedBatch:
        arrays = self.match.apply(
            decode_columns(numpy_columns(raw.drop_columns("id")), self.match.read)
        )
        return PreparedBatch(
            arrays,
            raw["id"].cast(pa.string()).combine_chunks(),
            label_names(arrays["labels"], self.match.model.classes),
            piece.split,
        )


@dataclass
class TableRows:
    """Rows of a CSV or Parquet table, prepared as the checkpoint's training rows were."""

    table: RawTable
    manifest: Manifest
    folders: dict[str, str]
    batch_size: int

    @property
    def columns(self) -> list[str]:
        """The table's columns that matter; the others are never read."""
        made, schema = self.manifest.prepare, self.manifest.schema
        wanted = {made.get("id"), made.get("label"), *(image["column"] for image in made["images"])}
        wanted |= {c.name for t in schema.tables for c in (*t.numeric, *t.categorical)}
        return [name for name in self.table.schema.names if name in wanted]

    def waves(self, workers: int) -> Iterator[Wave]:
        if self.table.kind == "parquet":
            yield Wave(
                make_tasks(
                    row_ranges(self.table.uri, [(path, "") for path in self.table.files]),
                    self.batch_size,
                    workers,
                )
            )
            return
        first = 0
        for chunk in csv_chunks(self.table, self.columns, self.batch_size):
            whole = [RowRange("", 0, 0, chunk.num_rows, first)]
            yield Wave(make_tasks(whole, self.batch_size, workers), chunk)
            first += chunk.num_rows

    def batches(
        self, wave: Wave, task: Sequence[RowRange]
    ) -> Iterator[tuple[pa.Table, RowRange, int]]:
        if wave.table is None:
            yield from parquet_batches(self.table.uri, task, self.batch_size, self.columns)
            return
        for piece in task:
            for low in range(0, piece.rows, self.batch_size):
                rows = min(self.batch_size, piece.rows - low)
                yield wave.table.slice(piece.skip + low, rows), piece, piece.first + low

    def prepare(self, raw: pa.Table, piece: RowRange, first: int) -> PreparedBatch:
        unread: Counter[str] = Counter()
        commas = self.table.delimiter == ";"
        good, refused = encode_rows(raw, self.manifest, self.folders, first, commas, unread)
        columns = numpy_columns(good.drop_columns("id"))
        arrays = decode_columns(columns, self.manifest.schema)
        pairs = zip(refused["id"].to_pylist(), refused["reason"].to_pylist(), strict=True)
        labels = label_names(arrays["labels"], self.manifest.schema.classes)
        return PreparedBatch(
            arrays,
            good["id"].cast(pa.string()).combine_chunks(),
            labels,
            piece.split,
            list(pairs),
            unread,
        )


InputRows = ShardRows | TableRows


def label_names(labels_B: np.ndarray[Any, Any], classes: Sequence[str]) -> pa.Array:
    """Class names of labels; null for -1."""
    return pa.array([*classes], pa.string()).take(pa.array(labels_B, pa.int32(), mask=labels_B < 0))


def open_input(
    checkpoint: Checkpoint,
    data: str,
    *,
    images: Mapping[str, str],
    split: str,
    batch_size: int,
    encoding: str = "utf-8",
) -> tuple[InputRows, list[str]]:
    """The rows of a SHARDS folder or of a table, and what there is to note about them."""
    if has_manifest(data):
        if images:
            raise ValueError(
                f"--image is for tables; {data} is a SHARDS folder, whose images are in it"
            )
        manifest = read_manifest(data)
        found = match_schemas(
            manifest.schema,
            checkpoint.network.schema,
            manifest.prepare,
            checkpoint.manifest.prepare,
        )
        splits = tuple(s for s, rows in manifest.rows.items() if rows and split in ("all", s))
        if not splits:
            raise ValueError(f"a split must have rows to be predicted; {data} has none in {split}")
        notes = [*found.notes]
        if found.strangers:
            notes.append(
                f"rows of classes that the checkpoint does not know have no label: {join_names(found.strangers)}"
            )
        return ShardRows(
            data if is_uri(data) else filesystem(data)[1], splits, found, batch_size
        ), notes
    if split != "all":
        raise ValueError(
            f"--split is for SHARDS folders; {data} is not one (it holds no {MANIFEST})"
        )
    return open_table_rows(checkpoint, data, images, batch_size, encoding)


def has_manifest(data: str) -> bool:
    from pyarrow.fs import FileType

    system, path = filesystem(join(data, MANIFEST))
    try:
        return bool(system.get_file_info(path).type == FileType.File)
    except OSError as error:
        raise unreadable_file(data, error) from None


def open_table_rows(
    checkpoint: Checkpoint, data: str, images: Mapping[str, str], batch_size: int, encoding: str
) -> tuple[TableRows, list[str]]:
    """The table with its columns checked against those of the checkpoint."""
    made, schema = checkpoint.manifest.prepare, checkpoint.network.schema
    if "images" not in made:
        raise ValueError(
            f"a table needs a checkpoint whose shards were made by ingest.py, which says how to prepare it; got --data {data}"
        )
    try:
        table = open_raw_table(data, encoding)
    except ValueError as error:
        raise ValueError(str(error).replace("--table", "--data")) from None
    kept, prepare = keep_modalities(checkpoint.manifest.schema, made, schema)
    columns = [image["column"] for image in prepare["images"]]
    for name in images:
        if name not in columns:
            raise ValueError(
                f"--image must name an image column of the checkpoint ({', '.join(columns) or 'it has none'}); got {name!r}"
            )
        if name not in table.schema.names:
            raise ValueError(
                f"--image must name a column of the table; got {name!r}; valid: {', '.join(table.schema.names)}"
            )
    folders = {name: images.get(name) or table.folder for name in columns}
    for name, folder in folders.items():
        if not is_uri(folder):
            folders[name] = filesystem(folder)[1]
    manifest = Manifest(schema=kept, rows=checkpoint.manifest.rows, prepare=prepare)
    rows = TableRows(table if is_uri(table.uri) else absolute(table), manifest, folders, batch_size)
    blank = pa.table({field.name: pa.nulls(1, field.type) for field in table.schema})
    encode_rows(
        blank, manifest, folders
    )  # refuses a table that lacks part of a modality, before any work is done
    there = set(table.schema.names)
    notes = [
        f"the table has no column {i['column']}: {i['name']} is absent in every row"
        for i in prepare["images"]
        if i["column"] not in there
    ]
    for modality in kept.tables:
        if not any(c.name in there for c in (*modality.numeric, *modality.categorical)):
            notes.append(f"the table has no column of {modality.name}: it is absent in every row")
    if not made.get("id") or made["id"] not in there:
        notes.append(
            "rows are numbered from 0: "
            + (
                f"the table has no id column {made['id']!r}"
                if made.get("id")
                else "the data has no ids"
            )
        )
    known = {*rows.columns, *made.get("dropped", {}), made.get("group"), made.get("split_column")}
    if strange := [name for name in table.schema.names if name not in known]:
        notes.append(f"columns that training did not know are passed over: {join_names(strange)}")
    if table.delimiter == ";" and any(c.name in there for t in kept.tables for c in t.numeric):
        notes.append(
            "the cells of the table are separated by ;: decimal commas are read as numbers"
        )
    return rows, notes


def absolute(table: RawTable) -> RawTable:
    """Workers run in other folders."""
    import dataclasses

    return dataclasses.replace(table, uri=filesystem(table.uri)[1])


@dataclass
class CountedWaves:
    """Waves of rows, counted on their way."""

    source: InputRows
    rows: int = 0

    @property
    def expected(self) -> int | None:
        """Rows in all, where a look at the files tells."""
        csv = isinstance(self.source, TableRows) and self.source.table.kind == "csv"
        return None if csv else sum(wave.rows for wave in self.source.waves(1))

    def of(self, workers: int) -> Iterator[Wave]:
        for wave in self.source.waves(workers):
            self.rows += wave.rows
            yield wave
