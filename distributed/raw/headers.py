"""The heads of a raw table's files: the column names of CSV, the rows and types of Parquet; in all files they must go together."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from distributed.raw.cells import is_text

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CSV_BLOCK_BYTES = 4 << 20  # bytes of a CSV that are parsed at a time: no line is longer
# Of a CSV whose delimiter is not known yet. A quote begins a quoted cell only where a cell begins.
QUOTED = r'(?<![^,;\t|])"(?:[^"]|"")*+"'
RECORD = re.compile(rf'((?:{QUOTED}|[^\r\n"]|(?<=[^,;\t|])")*+)[\r\n]')
PLAIN = {
    pa.string_view(): pa.large_string(),
    pa.binary_view(): pa.large_binary(),
}  # the kinds that the rest of the ingest knows
ENCODING_HINT = "name the table's own with --encoding, such as latin-1, cp1252 or utf-16"


def parquet_header(system: FileSystem, files: Sequence[str]) -> dict[str, Any]:
    """Rows and columns of Parquet files; files without rows are left out."""
    from pyarrow import parquet as pq

    def footer(name: str) -> tuple[int, pa.Schema]:
        try:
            with system.open_input_file(name) as file:
                found = pq.ParquetFile(file)
                schema = found.schema_arrow.remove_metadata()
                return found.metadata.num_rows, pa.schema(
                    [field.with_type(PLAIN.get(field.type, field.type)) for field in schema]
                )
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{name!r} is not a readable Parquet file: {error_text(error)}"
            ) from None

    with ThreadPoolExecutor(min(16, len(files))) as pool:
        footers = dict(zip(files, pool.map(footer, files)))
    filled = {name: schema for name, (rows, schema) in footers.items() if rows}
    if not filled:
        raise ValueError(f"--table must hold rows; {files[0]!r} has none")
    first = next(iter(filled))
    for name, schema in filled.items():
        _same_names(first, filled[first].names, name, schema.names)
    _check_twice(filled[first].names, first)
    schema, clashes = _unified(filled)
    return {
        "files": tuple(filled),
        "rows": sum(rows for rows, _ in footers.values()),
        "schema": schema,
        "clashes": clashes,
    }


def _unified(schemas: Mapping[str, pa.Schema]) -> tuple[pa.Schema, dict[str, str]]:
    """The schema that holds the rows of all files, and why no type holds some of its columns."""
    example = {
        schema: name for name, schema in reversed(schemas.items())
    }  # a file of each schema: most often of one
    file, schema = next(iter(schemas.items()))
    fields, clashes = [], {}
    for column in schema.names:
        kind, where = schema.field(column).type, file
        for other, there in example.items():
            try:
                wider = _wider(kind, other.field(column).type)
            except (pa.ArrowTypeError, pa.ArrowInvalid):
                told = f"{column!r} holds {kind} in {where!r} and {other.field(column).type} in {there!r}"
                clashes[column] = (
                    f"a column must hold one type in all files of a table; {told} (--drop leaves it out)"
                )
                break
            kind, where = wider, where if wider == kind else there
        fields.append(pa.field(column, kind))
    return pa.schema(fields), clashes


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    one, other = (
        kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (one, other)
    )
    if (
        {is_text(one), is_text(other)}
        == {pa.types.is_binary(one), pa.types.is_binary(other)}
        == {True, False}
    ):
        raise pa.ArrowTypeError("paths and images")  # Arrow would make bytes of the paths
    if any(map(pa.types.is_integer, (one, other))) and any(map(pa.types.is_decimal, (one, other))):
        return pa.float64()  # Arrow's common type is too narrow for its own cast
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    return pa.unify_schemas(schemas, promote_options="permissive").field("").type


def csv_header(system: FileSystem, files: Sequence[str], encoding: str) -> dict[str, Any]:
    """Columns and delimiter of CSV files; files without rows are left out."""
    names: list[str] = []
    filled: list[str] = []
    delimiter = ","
    for file in files:
        line, more = _header(system, file, encoding)
        filled += [file] * more
        if not names:
            bare = re.sub(QUOTED, "", line)
            delimiter = max(",;\t|", key=lambda d: (bare.count(d), d == ","))
        found = _names(line, delimiter)
        names = names or found
        _same_names(files[0], names, file, found)
    _check_twice(names, files[0])
    if not filled:
        raise ValueError(f"--table must hold rows; {files[0]!r} has only a line of names")
    return {
        "files": tuple(filled),
        "rows": None,
        "schema": pa.schema([(name, pa.string()) for name in names]),
        "delimiter": delimiter,
    }


def _header(system: FileSystem, file: str, encoding: str) -> tuple[str, bool]:
    """The line of column names, which in quotes may be several, and whether more follows."""
    data, found = b"", None
    try:
        with system.open_input_stream(file, compression="detect") as stream:
            for size in (1 << 16, CSV_BLOCK_BYTES):
                data += stream.read(size - len(data))
                text = codecs.getincrementaldecoder(encoding)().decode(data).removeprefix("\ufeff")
                whole = len(data) < size
                if found := RECORD.match(text + "\n" * whole):
                    break
    except OSError as error:
        raise unreadable_file(file, error) from None
    except UnicodeError as error:
        raise ValueError(
            f"{file!r} is not {encoding}: {describe_bad_byte(error)}; {ENCODING_HINT}"
        ) from None
    if found is None:
        what = f"line of column names of at most {CSV_BLOCK_BYTES >> 20} MiB"
        raise ValueError(
            f"--table must begin with a {what}; that of {file!r} does not end: a quote that is not closed?"
        )
    if not found[1]:
        raise ValueError(
            f"--table must begin with a line of column names; {file!r} has an empty first line"
        )
    if "\0" in found[1]:
        raise ValueError(
            f"{file!r} is not {encoding}: it begins with NUL characters; {ENCODING_HINT}"
        )
    return found[1], not whole or bool(text[found.end() :].strip())


def _names(line: str, delimiter: str) -> list[str]:
    """The column names as pyarrow reads them."""
    from pyarrow import csv as arrow_csv

    data = f"{line}\n".encode()
    parsing = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    reading = arrow_csv.ReadOptions(block_size=len(data), use_threads=False)
    return list(
        arrow_csv.read_csv(
            io.BytesIO(data), read_options=reading, parse_options=parsing
        ).schema.names
    )


def _same_names(first: str, names: Sequence[str], file: str, found: Sequence[str]) -> None:
    odd = sorted(set(names) ^ set(found))
    if odd:
        raise ValueError(
            f"all files of a table must have the same columns; {file!r} and {first!r} differ in {', '.join(odd[:5])}"
        )


def _check_twice(names: Sequence[str], file: str) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(
            f"the table's column names must differ; {', '.join(twice)} appears more than once in {file!r}"
        )


def describe_bad_byte(error: UnicodeError, first: int = 0) -> str:
    """Where text is not of its encoding. first: offset of what was decoded."""
    if not isinstance(error, UnicodeDecodeError):
        return str(error)  # UTF-16 lacks the mark that says which
    return f"byte 0x{error.object[error.start]:02x} at offset {first + error.start}"


def unreadable_file(file: str, error: BaseException) -> ValueError:
    return ValueError(f"cannot read {file!r}: {error_text(error)}")


def error_text(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
