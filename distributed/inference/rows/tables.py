"""Opens the rows to predict: a SHARDS folder, or a raw table with the columns of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from distributed.inference.rows.column_checks import (
    absolute_folder,
    check_column,
    check_image_columns,
    image_folder,
    kept_columns,
)
from distributed.inference.rows.inputs import (
    InputRows,
    PreparedBatch,
    RowEncoder,
    ShardRows,
    raw_manifest,
)
from distributed.inference.rows.matching import match_schemas
from distributed.inference.rows.tasks import (
    RawBatch,
    RowRange,
    TaskGroup,
    csv_chunks,
    make_tasks,
    memory_batches,
    parquet_batches,
    row_ranges,
)
from distributed.raw.table import RawTable, open_raw_table
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import filesystem, is_uri
from distributed.shards.checksums import PartRecord
from distributed.shards.layout import MANIFEST
from distributed.shards.manifest import Manifest, checked_parts, has_manifest, read_manifest
from distributed.training.checkpoint import Checkpoint
from model.schema import join_names


@dataclass
class TableRows:
    """Rows of a CSV or Parquet table, as a source of rows to predict."""

    table: RawTable
    encoder: RowEncoder
    batch_size: int

    @property
    def has_splits(self) -> bool:
        return False

    @property
    def row_count(self) -> int | None:
        if self.table.kind == "csv":
            return None
        return sum(task_group.rows for task_group in self.task_groups(1))

    @property
    def kept(self) -> pa.Schema | None:
        return self.encoder.kept

    @property
    def columns(self) -> list[str]:
        """The table's columns that are read."""
        return self.encoder.used_columns(self.table.schema.names)

    def task_groups(self, workers: int) -> Iterator[TaskGroup]:
        if self.table.kind == "parquet":
            groups = row_ranges(self.table.uri, dict.fromkeys(self.table.files, ""), {})
            yield TaskGroup(make_tasks(groups, self.batch_size, workers))
            return
        first = 0
        for chunk in csv_chunks(self.table, self.columns, self.batch_size):
            whole = [RowRange("", 0, 0, chunk.num_rows, first)]
            yield TaskGroup(make_tasks(whole, self.batch_size, workers), chunk)
            first += chunk.num_rows

    def batches(self, task_group: TaskGroup, task: Sequence[RowRange]) -> Iterator[RawBatch]:
        if task_group.table is None:
            return parquet_batches(self.table.uri, task, self.batch_size, self.columns, {})
        return memory_batches(task_group.table, task, self.batch_size)

    def prepare(self, batch: RawBatch) -> PreparedBatch:
        return self.encoder.prepare(batch)


def open_input(
    checkpoint: Checkpoint,
    data: str,
    *,
    images: Mapping[str, str],
    split: str,
    batch_size: int,
    encoding: str = "utf-8",
    id_column: str = "",
    keep: Sequence[str] = (),
) -> tuple[InputRows, list[str]]:
    """Returns the rows of a SHARDS folder or of a table, and notes about them.

    images: the folder of each image column of a table that has one. split: of shards, or `all`.
    id_column: of a table; empty: that of the training rows. keep: columns of a table.
    """
    if has_manifest(data):
        for name, given, instead in (
            ("image", images, "whose images are in it"),
            ("id", id_column, "whose rows have the ids of the ingest"),
            ("keep", keep, "whose rows the column id joins with the table of the ingest"),
        ):
            if given:
                raise OptionError(
                    f"{name} is for tables; {data} is a SHARDS folder, {instead}", name
                )
        return open_shards(checkpoint, data, split, batch_size)
    if split != "all":
        raise OptionError(
            f"split is for SHARDS folders; {data} is not one (it holds no {MANIFEST})", "split"
        )
    manifest = raw_manifest(checkpoint, f"--data {data}")
    table = open_raw_table(data, encoding, option="data")
    if id_column:
        check_column("id", id_column, table.schema.names)
        manifest = dataclasses.replace(manifest, prepare={**manifest.prepare, "id": id_column})
    return open_table_rows(
        checkpoint, table, manifest, images, batch_size, kept_columns(table, keep)
    )


def open_shards(
    checkpoint: Checkpoint, data: str, split: str, batch_size: int
) -> tuple[ShardRows, list[str]]:
    """Returns the rows of a SHARDS folder matched with the checkpoint, and notes about them."""
    manifest = read_manifest(data)
    match = match_schemas(
        manifest.schema, checkpoint.network.schema, manifest.prepare, checkpoint.manifest.prepare
    )
    splits = tuple(name for name, rows in manifest.rows.items() if rows and split in ("all", name))
    if not splits:
        raise ValueError(f"a split must have rows to be predicted; {data} has none in {split}")
    notes = [*match.notes]
    if match.unknown_classes:
        notes.append(
            "rows of classes that the checkpoint does not know have no label: "
            f"{join_names(match.unknown_classes)}"
        )
    uri = data if is_uri(data) else filesystem(data)[1]
    files: dict[str, str] = {}
    records: dict[str, PartRecord | None] = {}
    for name in splits:
        parts = checked_parts(uri, name, manifest)
        files |= dict.fromkeys(parts, name)
        records |= parts
    return ShardRows(uri, match, batch_size, files, records), notes


def open_table_rows(
    checkpoint: Checkpoint,
    table: RawTable,
    manifest: Manifest,
    images: Mapping[str, str],
    batch_size: int,
    kept: pa.Schema | None,
) -> tuple[TableRows, list[str]]:
    """Returns the rows of a table whose columns were checked, and notes about them.

    manifest: how to prepare the rows. kept: columns that the predictions keep.
    """
    if not is_uri(table.uri):  # workers run in other folders
        table = dataclasses.replace(table, uri=filesystem(table.uri)[1])
    columns = [image["column"] for image in manifest.prepare["images"]]
    check_image_columns(images, columns, table.schema.names, "image", "table")
    default_folder = absolute_folder(table.folder)
    encoder = RowEncoder(
        manifest,
        {
            name: image_folder(images[name], "image") if images.get(name) else default_folder
            for name in columns
        },
        decimal_commas=table.delimiter == ";",
        kept=kept,
    )
    encoder.check_columns(table.schema)
    available = table.schema.names
    notes = absent_notes(manifest, available)
    notes += _id_notes(manifest, available)
    notes += unknown_column_notes(checkpoint.manifest, encoder, available)
    numbers = {column.name for modality in manifest.schema.tables for column in modality.numeric}
    if encoder.decimal_commas and numbers & {*available}:
        notes.append(
            "the cells of the table are separated by ;: decimal commas are read as numbers"
        )
    return TableRows(table, encoder, batch_size), notes


def absent_notes(manifest: Manifest, available: Sequence[str], source: str = "table") -> list[str]:
    """Returns a note for every modality that none of the columns belongs to."""
    notes = [
        f"the {source} has no column {image['column']}: {image['name']} is absent in every row"
        for image in manifest.prepare["images"]
        if image["column"] not in available
    ]
    for modality in manifest.schema.tables:
        if not any(column.name in available for column in modality.columns):
            notes.append(
                f"the {source} has no column of {modality.name}: it is absent in every row"
            )
    return notes


def _id_notes(manifest: Manifest, available: Sequence[str]) -> list[str]:
    """A note where rows have no ids of their own."""
    column = manifest.prepare.get("id")
    if not column:
        return ["rows are numbered from 0: the data has no ids"]
    if column not in available:
        return [f"rows are numbered from 0: the table has no id column {column!r}"]
    return []


def unknown_column_notes(
    manifest: Manifest, encoder: RowEncoder, available: Sequence[str]
) -> list[str]:
    """Returns a note on columns that the ingest of the training rows did not have.

    manifest: the checkpoint's own, whose dropped columns are no surprise.
    """
    prepare = manifest.prepare
    expected = {*encoder.used_columns(available), *prepare.get("dropped", {})}
    expected |= {prepare.get("group"), prepare.get("split_column")}
    unknown = [name for name in available if name not in expected]
    if not unknown:
        return []
    return [f"columns that training did not know are passed over: {join_names(unknown)}"]
