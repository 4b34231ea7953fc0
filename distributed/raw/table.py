"""The raw table of an ingest: CSV or Parquet, one file or a folder of them, local or by URI."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import csv
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from distributed.raw.headers import csv_header, error_text, parquet_header
from distributed.raw.reading import UNREADABLE, csv_options, explain_reading_error
from distributed.runtime.errors import OptionError
from distributed.runtime.parquet import open_parquet
from distributed.runtime.storage import filesystem, is_uri

TABLE_KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
}
SAMPLED_PLACES = 8  # files, and row groups of a file, that a sample is taken from
LARGE_GROUP_BYTES = 64 << 20  # of a larger row group only the first rows are sampled


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A table of the user: where it is and what it is read as.

    rows: None where it is not known before the table is read, as for CSV.
    size: bytes of all files.
    clashes: by column, why its types in the files do not go together.
    option: the option that named the table, for messages.
    """

    uri: str
    files: tuple[str, ...]
    kind: str
    schema: pa.Schema
    rows: int | None
    size: int
    encoding: str = "utf-8"
    delimiter: str = ","
    clashes: Mapping[str, str] = field(default_factory=dict)
    option: str = "table"

    @property
    def folder(self) -> str:
        """The table's folder: image paths are relative to it unless the user says otherwise."""
        if self.files[0] == filesystem(self.uri)[1]:
            return posixpath.dirname(self.uri) or ("" if is_uri(self.uri) else ".")
        return self.uri

    @property
    def system(self) -> FileSystem:
        return filesystem(self.uri)[0]

    def types(self, columns: Sequence[str]) -> pa.Schema:
        """Returns what these columns are read as, from every file."""
        return pa.schema([self.schema.field(name) for name in columns])


def open_raw_table(uri: str, encoding: str = "utf-8", option: str = "table") -> RawTable:
    """Finds the table's files and reads its column names and types.

    option: the option that named the table, for messages.
    """
    try:
        "".encode(encoding)  # base64 and others are codecs, but not of text
    except LookupError:
        raise OptionError(
            "encoding must be one that Python knows, such as utf-8, latin-1 or cp1252; "
            f"got {encoding!r}",
            "encoding",
        ) from None
    system, _ = filesystem(uri)
    kind, files = _table_files(uri, option)
    names = tuple(sorted(file.path for file in files))
    if kind == "parquet":
        header = parquet_header(system, names, option)
    else:
        header = csv_header(system, names, encoding, option)
    table = RawTable(
        uri=uri,
        kind=kind,
        size=sum(file.size for file in files),
        encoding=encoding,
        option=option,
        files=header.files,
        schema=header.schema,
        rows=header.rows,
        delimiter=header.delimiter,
        clashes=header.clashes,
    )
    if kind == "csv":
        # A mistake in its first megabytes is reported at once.
        sample_rows(table, table.schema.names)
    return table


def _table_files(uri: str, option: str) -> tuple[str, list[FileInfo]]:
    """Returns the kind of the table, csv or parquet, and its files that are not empty."""
    system, path = filesystem(uri)
    try:
        place = system.get_file_info(path)
        if place.type == FileType.NotFound:
            raise OptionError(
                f"{option} must name a CSV or Parquet file (or a folder of them) that exists; "
                f"got {uri!r}",
                option,
            )
        if place.type == FileType.File:
            candidates = [place]
        else:
            candidates = system.get_file_info(FileSelector(path, recursive=True))
    except OSError as error:
        raise OptionError(f"cannot read {option} {uri!r}: {error_text(error)}", option) from None
    files = [
        file
        for file in candidates
        if file.type == FileType.File
        and _suffix(file.path)
        and file.size
        and not _is_hidden(file.path.removeprefix(path))
    ]
    kinds = {TABLE_KINDS[_suffix(file.path)] for file in files}
    if len(kinds) == 1:
        return kinds.pop(), files
    if place.type == FileType.File and not place.size:
        raise OptionError(f"{option} must hold rows; {uri!r} is an empty file", option)
    raise OptionError(
        f"{option} must be CSV or Parquet (valid endings: {', '.join(TABLE_KINDS)}); "
        f"{uri!r} holds {'both kinds' if kinds else 'neither'}",
        option,
    )


def _suffix(path: str) -> str:
    """Returns the ending that tells the kind of a file; "" where it is none of them."""
    name = path.lower().rsplit("/", 1)[-1]
    by_length = sorted(TABLE_KINDS, key=len, reverse=True)
    return next((suffix for suffix in by_length if name.endswith(suffix)), "")


def _is_hidden(below: str) -> bool:
    """Whether a path below the table's folder belongs to another program.

    Such are .ipynb_checkpoints, _temporary and _SUCCESS.
    """
    return any(part.startswith((".", "_")) for part in below.split("/"))


def sample_rows(table: RawTable, columns: Sequence[str], rows: int = 128) -> pa.Table:
    """Returns some rows, spread over the table as far as that is cheap.

    Of Parquet they come from several files and row groups, of CSV from the first megabytes.
    """
    try:
        if table.kind == "parquet":
            sample = _sample_parquet(table, columns, rows)
        else:
            sample = _sample_csv(table, columns, rows)
    except UNREADABLE as error:
        raise explain_reading_error(table, error) from None
    return _spread(sample, rows) if sample.num_rows > rows else sample


def _spread(rows: pa.Table, count: int) -> pa.Table:
    """Returns so many rows, evenly spread."""
    return rows.take([i * rows.num_rows // count for i in range(count)])


def _sample_parquet(table: RawTable, columns: Sequence[str], rows: int) -> pa.Table:
    pieces: list[pa.Table] = []
    names = list(columns)
    step = max(1, len(table.files) // SAMPLED_PLACES)
    for file_name in table.files[::step][:SAMPLED_PLACES]:
        with table.system.open_input_file(file_name) as file:
            parquet = open_parquet(file)
            infos = [parquet.metadata.row_group(g) for g in range(parquet.num_row_groups)]
            groups = [group for group, info in enumerate(infos) if info.num_rows]
            for group in groups[:: max(1, len(groups) // SAMPLED_PLACES)]:
                if infos[group].total_byte_size < LARGE_GROUP_BYTES:
                    piece = parquet.read_row_group(group, columns=names)
                else:
                    first = next(parquet.iter_batches(rows, row_groups=[group], columns=names))
                    piece = pa.Table.from_batches([first])
                piece = piece.select(names).cast(table.types(columns))
                pieces.append(_spread(piece, min(rows, piece.num_rows)))
    return pa.concat_tables(pieces)


def _sample_csv(table: RawTable, columns: Sequence[str], rows: int) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    for name in table.files:
        with table.system.open_input_stream(name, compression="detect") as stream:
            for batch in csv.open_csv(stream, **csv_options(table)):
                if batch.num_rows:
                    batches.append(batch.select(list(columns)))
                if sum(batch.num_rows for batch in batches) >= rows:
                    return pa.Table.from_batches(batches)
    if batches:
        return pa.Table.from_batches(batches)
    raise OptionError(
        f"{table.option} must hold rows; {table.uri!r} has only a line of names", table.option
    )
