"""The raw table of an ingest: CSV or Parquet, one file or a folder of them, local or by URI; its columns, a sample, and its Ray dataset."""

from __future__ import annotations

import codecs
import csv
import io
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from distributed.shards import filesystem, is_uri

if TYPE_CHECKING:
    import ray.data
    from pyarrow.fs import FileSystem

KINDS = {
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
TASK_ROWS = 50  # at least
TASKS_A_CPU = 4  # so that none waits long for the last task


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

    @property
    def folder(self) -> str:
        """Where image paths start unless the user says otherwise: the folder of the table."""
        if len(self.files) == 1 and KINDS.get(_suffix(self.uri)):
            return posixpath.dirname(self.uri) or ("" if is_uri(self.uri) else ".")
        return self.uri

    @property
    def system(self) -> FileSystem:
        return filesystem(self.uri)[0]


def _suffix(path: str) -> str:
    name = path.lower().rsplit("/", 1)[-1]
    return next((s for s in sorted(KINDS, key=len, reverse=True) if name.endswith(s)), "")


def open_table(uri: str, encoding: str = "utf-8") -> RawTable:
    """Finds the table's files and reads its column names and types."""
    from pyarrow.fs import FileSelector, FileType

    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(f"--encoding must be one that Python knows, such as utf-8, latin-1 or cp1252; got {encoding!r}") from None
    system, path = filesystem(uri)
    try:
        info = system.get_file_info(path)
        if info.type == FileType.NotFound:
            raise ValueError(f"--table must name a CSV or Parquet file (or a folder of them) that exists; got {uri!r}")
        found = [info] if info.type == FileType.File else system.get_file_info(FileSelector(path, recursive=True))
    except OSError as error:
        raise ValueError(f"cannot read --table {uri!r}: {' '.join(str(error).split())}") from None
    files = [f for f in found if f.type == FileType.File and _suffix(f.path) and f.size and f.base_name[0] not in "._"]
    kinds = {KINDS[_suffix(f.path)] for f in files}
    if not files or len(kinds) > 1:
        if info.type == FileType.File and not info.size:
            raise ValueError(f"--table must hold rows; {uri!r} is an empty file")
        what = "both kinds" if len(kinds) > 1 else "neither"
        raise ValueError(f"--table must be CSV or Parquet (valid endings: {', '.join(KINDS)}); {uri!r} holds {what}")
    names = tuple(sorted(f.path for f in files))
    common: dict[str, Any] = {"uri": uri, "files": names, "size": sum(f.size for f in files)}
    kind = kinds.pop()
    table = _open_parquet(system, common) if kind == "parquet" else _open_csv(system, common, encoding)
    twice = sorted({n for n in table.schema.names if table.schema.names.count(n) > 1})
    if twice:
        raise ValueError(f"the table's column names must differ; {', '.join(twice)} appears more than once in {uri!r}")
    if kind == "csv":
        sample(table, table.schema.names)  # what is wrong in its first megabytes is said at once
    return table


def _open_parquet(system: FileSystem, common: dict[str, Any]) -> RawTable:
    import pyarrow.parquet as pq

    rows, schema = 0, None
    for name in common["files"]:
        try:
            with system.open_input_file(name) as file:
                parquet = pq.ParquetFile(file)
                rows += parquet.metadata.num_rows
                schema = schema or parquet.schema_arrow
                _same_names(common["files"][0], schema.names, name, parquet.schema_arrow.names)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{name!r} is not a readable Parquet file: {' '.join(str(error).split())}") from None
    assert schema is not None
    if not rows:
        raise ValueError(f"--table must hold rows; {common['uri']!r} has none")
    return RawTable(kind="parquet", schema=schema, rows=rows, **common)


def _open_csv(system: FileSystem, common: dict[str, Any], encoding: str) -> RawTable:
    first = common["files"][0]
    names: list[str] = []
    delimiter = ","
    for file in common["files"]:
        with system.open_input_stream(file, compression="detect") as stream:
            head = codecs.getincrementaldecoder(encoding)(errors="replace").decode(stream.read(1 << 16)).removeprefix("\ufeff")
        if not names:
            line = head.split("\n", 1)[0].rstrip("\r")
            delimiter = max(",;\t|", key=lambda d: (line.count(d), d == ","))
        found = next(csv.reader(io.StringIO(head), delimiter=delimiter), [])
        if not found:
            raise ValueError(f"--table must begin with a line of column names; {file!r} has an empty first line")
        names = names or found
        _same_names(first, names, file, found)
    schema = pa.schema([(name, pa.string()) for name in names])
    return RawTable(kind="csv", schema=schema, rows=None, encoding=encoding, delimiter=delimiter, **common)


def _same_names(first: str, names: Sequence[str], file: str, found: Sequence[str]) -> None:
    odd = sorted(set(names) ^ set(found))
    if odd:
        raise ValueError(f"all files of a table must have the same columns; {file!r} and {first!r} differ in {', '.join(odd[:5])}")


def csv_options(table: RawTable) -> dict[str, Any]:
    """Every cell is read as a string, only empty ones are null: types are decided later, from all the rows."""
    from pyarrow import csv as arrow_csv

    return {
        "read_options": arrow_csv.ReadOptions(encoding=table.encoding, block_size=4 << 20),
        "parse_options": arrow_csv.ParseOptions(delimiter=table.delimiter, newlines_in_values=True),
        "convert_options": arrow_csv.ConvertOptions(
            column_types={name: pa.string() for name in table.schema.names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    }


def tasks(rows: int, pixels: Sequence[float], cpus: int) -> int:
    """How many tasks should prepare the rows, given the pixels of a row's images: these cost much more than their bytes say."""
    seconds = sum(IMAGE_SECONDS + PIXEL_SECONDS * p for p in pixels)
    return max(1, min(4000, rows // TASK_ROWS, max(TASKS_A_CPU * cpus, int(rows * seconds / TASK_SECONDS))))


def dataset(table: RawTable, columns: Sequence[str], pixels: Sequence[float], cpus: int) -> ray.data.Dataset:
    """The table's rows in order; pixels: see `tasks`."""
    import ray.data

    blocks = tasks(table.rows or table.size // 100, pixels, cpus) if pixels else None  # without images, Ray Data's own choice by bytes
    common: dict[str, Any] = {"filesystem": table.system, "override_num_blocks": blocks, "file_extensions": None}
    if table.kind == "parquet":
        return ray.data.read_parquet(list(table.files), columns=list(columns), partitioning=None, **common)
    return ray.data.read_csv(list(table.files), partitioning=None, **csv_options(table), **common)


def sample(table: RawTable, columns: Sequence[str], rows: int = 128) -> pa.Table:
    """Some rows spread over the table as far as that is cheap: over row groups and files, or over the first megabytes of a CSV."""
    try:
        found = _sample_parquet(table, columns, rows) if table.kind == "parquet" else _sample_csv(table, columns)
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        raise explain(table, error) from None
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
            for group in range(0, parquet.num_row_groups, max(1, parquet.num_row_groups // 8)):
                if parquet.metadata.row_group(group).total_byte_size < 64 << 20:
                    piece = parquet.read_row_group(group, columns=list(columns))
                    count = min(rows, piece.num_rows)
                    piece = piece.take([i * piece.num_rows // count for i in range(count)])
                else:
                    piece = pa.Table.from_batches([next(parquet.iter_batches(rows, row_groups=[group], columns=list(columns)))])
                pieces.append(piece)
    return pa.concat_tables(pieces, promote_options="permissive")


def _sample_csv(table: RawTable, columns: Sequence[str]) -> pa.Table:
    from pyarrow import csv as arrow_csv

    with table.system.open_input_stream(table.files[0], compression="detect") as stream:
        reader = arrow_csv.open_csv(stream, **csv_options(table))
        batch = next((b for b in reader if b.num_rows), None)
    if batch is None:
        raise ValueError(f"--table must hold rows; {table.uri!r} has only a line of names")
    return pa.Table.from_batches([batch]).select(list(columns))


def explain(table: RawTable, error: BaseException) -> ValueError:
    """A reading error as one line for the user. Of a CSV, Ray keeps only that it failed: the place is found by reading again, here."""
    if table.kind == "csv":
        for name in table.files:
            if place := _bad_byte(table, name):
                hint = "name the table's own with --encoding, such as latin-1 or cp1252"
                return ValueError(f"{name!r} is not {table.encoding}: {place}; {hint}")
            if place := _bad_line(table, name):
                return ValueError(f"every line of {name!r} must have {len(table.schema.names)} cells: {place}")
    return ValueError(f"cannot read {table.uri!r}: {' '.join(str(error).split())[:300]}")


def _bad_line(table: RawTable, name: str) -> str:
    from pyarrow import csv as arrow_csv

    try:
        with table.system.open_input_stream(name, compression="detect") as stream:
            for _ in arrow_csv.open_csv(stream, **csv_options(table)):
                pass
    except (pa.ArrowInvalid, OSError) as error:
        return " ".join(str(error).split())[:300]
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
            except UnicodeDecodeError as error:
                return f"byte 0x{error.object[error.start]:02x} at offset {offset - held + error.start}"
            if not chunk:
                return ""
            offset += len(chunk)
