"""The raw table of an ingest: CSV or Parquet, one file or a folder of them, local or by URI; its columns, a sample, and its Ray dataset."""

from __future__ import annotations

import codecs
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from distributed.raw.headers import (
    CSV_BLOCK_BYTES,
    ENCODING_HINT,
    csv_header,
    describe_bad_byte,
    error_text,
    parquet_header,
    unreadable_file,
)
from distributed.runtime.storage import filesystem, is_uri

if TYPE_CHECKING:
    import ray.data
    from pyarrow.fs import FileSystem

TABLE_KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
}
# A task that decodes should take a second or more: Ray Data looks for finished tasks every 0.1 s, and a task waits for two or three looks.
TASK_SECONDS = 1.5
IMAGE_SECONDS, PIXEL_SECONDS = 2.5e-4, 8e-9  # about what an image costs, and each of its pixels
MIN_TASK_ROWS = 50  # at least
TASKS_PER_CPU = 4  # so that none waits long for the last task
UNREADABLE = (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeError, OSError)


@dataclass(frozen=True, kw_only=True)
class RawTable:
    uri: str
    files: tuple[str, ...]
    kind: str
    schema: pa.Schema
    rows: int | None  # known for Parquet
    size: int  # bytes of all files
    encoding: str = "utf-8"
    delimiter: str = ","
    clashes: Mapping[str, str] = field(
        default_factory=dict
    )  # columns whose types in the files do not go together, and why

    @property
    def folder(self) -> str:
        """Where image paths start unless the user says otherwise: the folder of the table."""
        if self.files[0] == filesystem(self.uri)[1]:
            return posixpath.dirname(self.uri) or ("" if is_uri(self.uri) else ".")
        return self.uri

    def types(self, columns: Sequence[str]) -> pa.Schema:
        """What these columns are read as, from whichever file."""
        return pa.schema([self.schema.field(name) for name in columns])

    @property
    def system(self) -> FileSystem:
        return filesystem(self.uri)[0]


def _suffix(path: str) -> str:
    name = path.lower().rsplit("/", 1)[-1]
    return next((s for s in sorted(TABLE_KINDS, key=len, reverse=True) if name.endswith(s)), "")


def open_raw_table(uri: str, encoding: str = "utf-8") -> RawTable:
    """Finds the table's files and reads its column names and types."""
    from pyarrow.fs import FileSelector, FileType

    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(
            f"--encoding must be one that Python knows, such as utf-8, latin-1 or cp1252; got {encoding!r}"
        ) from None
    system, path = filesystem(uri)
    try:
        info = system.get_file_info(path)
        if info.type == FileType.NotFound:
            raise ValueError(
                f"--table must name a CSV or Parquet file (or a folder of them) that exists; got {uri!r}"
            )
        found = (
            [info]
            if info.type == FileType.File
            else system.get_file_info(FileSelector(path, recursive=True))
        )
    except OSError as error:
        raise ValueError(f"cannot read --table {uri!r}: {error_text(error)}") from None
    files = [
        f
        for f in found
        if f.type == FileType.File
        and _suffix(f.path)
        and f.size
        and not _hidden(f.path.removeprefix(path))
    ]
    kinds = {TABLE_KINDS[_suffix(f.path)] for f in files}
    if not files or len(kinds) > 1:
        if info.type == FileType.File and not info.size:
            raise ValueError(f"--table must hold rows; {uri!r} is an empty file")
        what = "both kinds" if len(kinds) > 1 else "neither"
        raise ValueError(
            f"--table must be CSV or Parquet (valid endings: {', '.join(TABLE_KINDS)}); {uri!r} holds {what}"
        )
    names = tuple(sorted(f.path for f in files))
    kind = kinds.pop()
    head = (
        parquet_header(system, names) if kind == "parquet" else csv_header(system, names, encoding)
    )
    table = RawTable(uri=uri, kind=kind, size=sum(f.size for f in files), encoding=encoding, **head)
    if kind == "csv":
        sample_rows(
            table, table.schema.names
        )  # what is wrong in its first megabytes is said at once
    return table


def _hidden(below: str) -> bool:
    """Whether a path below the table's folder is another program's: .ipynb_checkpoints, _temporary, _SUCCESS."""
    return any(part.startswith((".", "_")) for part in below.split("/"))


def csv_options(table: RawTable) -> dict[str, Any]:
    """Every cell is read as a string, only empty ones are null: types are decided later, from all the rows."""
    from pyarrow import csv as arrow_csv

    return {
        "read_options": arrow_csv.ReadOptions(encoding=table.encoding, block_size=CSV_BLOCK_BYTES),
        "parse_options": arrow_csv.ParseOptions(delimiter=table.delimiter, newlines_in_values=True),
        "convert_options": arrow_csv.ConvertOptions(
            column_types={name: pa.string() for name in table.schema.names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    }


def task_count(rows: int, pixels: Sequence[float], cpus: int) -> int:
    """How many tasks should prepare the rows, given the pixels of a row's images: these cost much more than their bytes say."""
    seconds = sum(IMAGE_SECONDS + PIXEL_SECONDS * p for p in pixels)
    return max(
        1,
        min(
            4000,
            rows // MIN_TASK_ROWS,
            max(TASKS_PER_CPU * cpus, int(rows * seconds / TASK_SECONDS)),
        ),
    )


def ray_dataset(
    table: RawTable, columns: Sequence[str], pixels: Sequence[float], cpus: int
) -> ray.data.Dataset:
    """The table's rows in order; pixels: see `tasks`."""
    import ray.data

    blocks = (
        task_count(table.rows or table.size // 100, pixels, cpus) if pixels else None
    )  # without images, Ray Data's own choice by bytes
    common: dict[str, Any] = {
        "filesystem": table.system,
        "override_num_blocks": blocks,
        "file_extensions": None,
    }
    if table.kind == "parquet":
        return ray.data.read_parquet(
            list(table.files),
            schema=table.types(columns),
            columns=list(columns),
            partitioning=None,
            **common,
        )
    return ray.data.read_csv(list(table.files), partitioning=None, **csv_options(table), **common)


def sample_rows(table: RawTable, columns: Sequence[str], rows: int = 128) -> pa.Table:
    """Some rows spread over the table as far as that is cheap: over row groups and files, or over the first megabytes of a CSV."""
    try:
        found = (
            _sample_parquet(table, columns, rows)
            if table.kind == "parquet"
            else _sample_csv(table, columns)
        )
    except UNREADABLE as error:
        raise explain_reading_error(table, error) from None
    if found.num_rows <= rows:
        return found
    return found.take([i * found.num_rows // rows for i in range(rows)])


def _sample_parquet(table: RawTable, columns: Sequence[str], rows: int) -> pa.Table:
    import pyarrow.parquet as pq

    pieces: list[pa.Table] = []
    step = max(1, len(table.files) // 8)
    for name in table.files[::step][:8]:
        with table.system.open_input_file(name) as file:
            parquet = pq.ParquetFile(file)
            groups = [
                g for g in range(parquet.num_row_groups) if parquet.metadata.row_group(g).num_rows
            ]
            for group in groups[:: max(1, len(groups) // 8)]:
                if parquet.metadata.row_group(group).total_byte_size < 64 << 20:
                    piece = parquet.read_row_group(group, columns=list(columns))
                    count = min(rows, piece.num_rows)
                    piece = piece.take([i * piece.num_rows // count for i in range(count)])
                else:
                    piece = pa.Table.from_batches(
                        [
                            next(
                                parquet.iter_batches(
                                    rows, row_groups=[group], columns=list(columns)
                                )
                            )
                        ]
                    )
                pieces.append(piece.select(list(columns)).cast(table.types(columns)))
    return pa.concat_tables(pieces)


def _sample_csv(table: RawTable, columns: Sequence[str]) -> pa.Table:
    from pyarrow import csv as arrow_csv

    for name in table.files:
        with table.system.open_input_stream(name, compression="detect") as stream:
            for batch in arrow_csv.open_csv(stream, **csv_options(table)):
                if batch.num_rows:
                    return pa.Table.from_batches([batch]).select(list(columns))
    raise ValueError(f"--table must hold rows; {table.uri!r} has only a line of names")


def explain_reading_error(table: RawTable, error: BaseException) -> ValueError:
    """A reading error as one line for the user. Of a CSV, Ray keeps only that it failed: the place is found by reading again, here."""
    if table.kind == "csv":
        for name in table.files:
            try:
                if place := _bad_byte(table, name):
                    return ValueError(f"{name!r} is not {table.encoding}: {place}; {ENCODING_HINT}")
                if place := _bad_line(table, name):
                    return ValueError(
                        f"every line of {name!r} must have {len(table.schema.names)} cells: {place}"
                    )
            except OSError as damage:
                return unreadable_file(name, damage)
    return ValueError(f"cannot read {table.uri!r}: {error_text(error)}")


def _bad_line(table: RawTable, name: str) -> str:
    from pyarrow import csv as arrow_csv

    try:
        with table.system.open_input_stream(name, compression="detect") as stream:
            for _ in arrow_csv.open_csv(stream, **csv_options(table)):
                pass
    except pa.ArrowInvalid as error:
        return error_text(error)
    return ""


def _bad_byte(table: RawTable, name: str) -> str:
    decoder = codecs.getincrementaldecoder(table.encoding)()
    offset = 0
    with table.system.open_input_stream(name, compression="detect") as stream:
        while True:
            chunk = stream.read(1 << 20)
            held = len(decoder.getstate()[0])  # the start of a character cut by the chunk's end
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeError as error:
                return describe_bad_byte(error, offset - held)
            if not chunk:
                return ""
            offset += len(chunk)
