"""Reads the headers of a raw table's files, and checks that the files go together.

The header of a CSV file is its line of column names, that of a Parquet file its footer with the
number of rows and the types.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow import csv
from pyarrow.fs import FileSystem

from distributed.raw.cells import is_text
from distributed.runtime.errors import OptionError
from distributed.runtime.parquet import open_parquet

CSV_BLOCK_BYTES = 16 << 20  # bytes of a CSV that are parsed at a time: no line is longer
FIRST_BYTES = 1 << 16  # enough for most lines of column names
DELIMITERS = ",;\t|"
MAX_THREADS = 16  # for reading footers

# For a CSV whose delimiter is not known yet. A quote begins a quoted cell only where a cell
# begins.
QUOTED = r'(?<![^,;\t|])"(?:[^"]|"")*+"'
RECORD = re.compile(rf'((?:{QUOTED}|[^\r\n"]|(?<=[^,;\t|])")*+)[\r\n]')

# View types are read as the plain types that the rest of the ingest handles.
PLAIN_TYPES = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


@dataclass(frozen=True)
class TableHeader:
    """What the headers of all files say together.

    files: those that have rows.
    rows: None where it is not known, as for CSV.
    clashes: by column, why no type holds its values of all files.
    """

    files: tuple[str, ...]
    schema: pa.Schema
    rows: int | None = None
    delimiter: str = ","
    clashes: Mapping[str, str] = field(default_factory=dict)


def parquet_header(system: FileSystem, files: Sequence[str], option: str) -> TableHeader:
    """Reads the footers of Parquet files. option: the option that named the table."""

    def read_footer(name: str) -> tuple[int, pa.Schema]:
        try:
            with system.open_input_file(name) as file:
                parquet = open_parquet(file)
                schema = parquet.schema_arrow.remove_metadata()
                fields = [f.with_type(PLAIN_TYPES.get(f.type, f.type)) for f in schema]
                return parquet.metadata.num_rows, pa.schema(fields)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{name!r} is not a readable Parquet file: {error_text(error)}"
            ) from None
        except ValueError as error:
            raise OptionError(f"{option}: {error} ({name!r})", option) from None

    with ThreadPoolExecutor(min(MAX_THREADS, len(files))) as pool:
        footers = dict(zip(files, pool.map(read_footer, files)))
    with_rows = {name: schema for name, (rows, schema) in footers.items() if rows}
    if not with_rows:
        raise OptionError(f"{option} must hold rows; {files[0]!r} has none", option)
    first = next(iter(with_rows))
    for name, schema in with_rows.items():
        _check_same_names(first, with_rows[first].names, name, schema.names)
    _check_unique_names(with_rows[first].names, first)
    schema, clashes = _common_schema(with_rows)
    return TableHeader(
        files=tuple(with_rows),
        schema=schema,
        rows=sum(rows for rows, _ in footers.values()),
        clashes=clashes,
    )


def _common_schema(schemas: Mapping[str, pa.Schema]) -> tuple[pa.Schema, dict[str, str]]:
    """Returns the schema that holds the rows of all files, and the columns that no type holds."""
    # One file for each different schema: most often there is only one.
    examples = {schema: name for name, schema in reversed(list(schemas.items()))}
    first_file, first_schema = next(iter(schemas.items()))
    fields, clashes = [], {}
    for column in first_schema.names:
        kind, file = first_schema.field(column).type, first_file
        for other_schema, other_file in examples.items():
            other_kind = other_schema.field(column).type
            try:
                wider = _wider_type(kind, other_kind)
            except (pa.ArrowTypeError, pa.ArrowInvalid):
                clashes[column] = (
                    "a column must hold one type in all files of a table; "
                    f"{column!r} holds {kind} in {file!r} and {other_kind} in {other_file!r} "
                    "(drop leaves it out)"
                )
                break
            if wider != kind:
                kind, file = wider, other_file
        fields.append(pa.field(column, kind))
    return pa.schema(fields), clashes


def _wider_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """Returns a type that holds the values of both; an Arrow error where there is none."""
    if left == right:
        return left
    left, right = (
        kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (left, right)
    )
    if (is_text(left) and pa.types.is_binary(right)) or (
        pa.types.is_binary(left) and is_text(right)
    ):
        raise pa.ArrowTypeError("paths and images")  # Arrow would make bytes of the paths
    if any(map(pa.types.is_integer, (left, right))) and any(
        map(pa.types.is_decimal, (left, right))
    ):
        return pa.float64()  # Arrow's common type is too narrow for its own cast
    schemas = [pa.schema([("", kind)]) for kind in (left, right)]
    return pa.unify_schemas(schemas, promote_options="permissive").field("").type


def csv_header(system: FileSystem, files: Sequence[str], encoding: str, option: str) -> TableHeader:
    """Reads the column names and the delimiter of CSV files. option: the one that named them."""
    names: list[str] = []
    with_rows: list[str] = []
    delimiter = DELIMITERS[0]
    for file in files:
        line, has_rows = _first_line(system, file, encoding, option)
        if has_rows:
            with_rows.append(file)
        if not names:
            unquoted = re.sub(QUOTED, "", line)
            delimiter = max(DELIMITERS, key=lambda d: (unquoted.count(d), d == ","))
        names_here = _column_names(line, delimiter)
        names = names or names_here
        _check_same_names(files[0], names, file, names_here)
    _check_unique_names(names, files[0])
    if not with_rows:
        raise OptionError(f"{option} must hold rows; {files[0]!r} has only a line of names", option)
    schema = pa.schema([(name, pa.string()) for name in names])
    return TableHeader(files=tuple(with_rows), schema=schema, delimiter=delimiter)


def _first_line(system: FileSystem, file: str, encoding: str, option: str) -> tuple[str, bool]:
    """Returns the line of column names, and whether rows follow it.

    With names in quotes it may be several lines of the file.
    """
    data = b""
    text = ""
    whole = False
    record = None
    try:
        with system.open_input_stream(file, compression="detect") as stream:
            for size in (FIRST_BYTES, CSV_BLOCK_BYTES):
                data += stream.read(size - len(data))
                text = codecs.getincrementaldecoder(encoding)().decode(data).removeprefix("\ufeff")
                whole = len(data) < size
                record = RECORD.match(f"{text}\n" if whole else text)
                if record:
                    break
    except OSError as error:
        raise unreadable_file(file, error) from None
    except UnicodeError as error:
        raise wrong_encoding(file, encoding, describe_bad_byte(error)) from None
    if record is None:
        raise OptionError(
            f"{option} must begin with a line of column names of at most "
            f"{CSV_BLOCK_BYTES >> 20} MiB; that of {file!r} does not end: "
            "a quote that is not closed?",
            option,
        )
    line = record[1]
    if not line:
        raise OptionError(
            f"{option} must begin with a line of column names; {file!r} has an empty first line",
            option,
        )
    if "\0" in line:
        raise wrong_encoding(file, encoding, "it begins with NUL characters")
    return line, not whole or bool(text[record.end() :].strip())


def _column_names(line: str, delimiter: str) -> list[str]:
    """Returns the column names as pyarrow reads them."""
    data = f"{line}\n".encode()
    table = csv.read_csv(
        io.BytesIO(data),
        read_options=csv.ReadOptions(block_size=len(data), use_threads=False),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
    )
    return list(table.schema.names)


def _check_same_names(
    first_file: str, first_names: Sequence[str], file: str, names: Sequence[str]
) -> None:
    odd = sorted(set(first_names) ^ set(names))
    if odd:
        raise ValueError(
            "all files of a table must have the same columns; "
            f"{file!r} and {first_file!r} differ in {', '.join(odd[:5])}"
        )


def _check_unique_names(names: Sequence[str], file: str) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            "the table's column names must differ; "
            f"{', '.join(repeated)} appears more than once in {file!r}"
        )


def describe_bad_byte(error: UnicodeError, offset: int = 0) -> str:
    """Returns where text is not of its encoding. offset: of the decoded bytes in the file."""
    if not isinstance(error, UnicodeDecodeError):
        return str(error)  # UTF-16 without its mark of the byte order
    return f"byte 0x{error.object[error.start]:02x} at offset {offset + error.start}"


def wrong_encoding(file: str, encoding: str, reason: str) -> OptionError:
    """Returns the error for a file whose text is of another encoding."""
    return OptionError(
        f"{file!r} is not {encoding}: {reason}; "
        "name the table's own with encoding, such as latin-1, cp1252 or utf-16",
        "encoding",
    )


def unreadable_file(file: str, error: BaseException) -> ValueError:
    """Returns the error for a file that cannot be read."""
    return ValueError(f"cannot read {file!r}: {error_text(error)}")


def error_text(error: BaseException) -> str:
    """Returns the text of an error on one line, shortened."""
    return " ".join(str(error).split())[:300]
