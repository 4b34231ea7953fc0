"""How Arrow reads the files of a raw table, and what its errors mean for the user."""

from __future__ import annotations

import codecs
import csv as python_csv
import io
from typing import TYPE_CHECKING, TypedDict

import pyarrow as pa
from pyarrow import csv
from pyarrow import parquet as pq

from distributed.raw.headers import (
    CSV_BLOCK_BYTES,
    describe_bad_byte,
    error_text,
    unreadable_file,
    wrong_encoding,
)

if TYPE_CHECKING:
    from distributed.raw.table import RawTable

UNREADABLE = (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeError, OSError)
CHUNK_BYTES = 1 << 20
DAMAGE_ROWS = 256  # that are read together in the search for a damaged place
STRADDLING = "straddling object"  # what Arrow says of a line that is longer than a block
MAX_COUNTED = 100_000_000  # characters of a cell that are counted for a message


class CsvOptions(TypedDict):
    """The options of pyarrow's CSV readers."""

    read_options: csv.ReadOptions
    parse_options: csv.ParseOptions
    convert_options: csv.ConvertOptions


def csv_options(table: RawTable) -> CsvOptions:
    """Returns options by which every cell is read as a string, and only empty ones are null.

    The types of the columns are decided later, from all rows.
    """
    return {
        "read_options": csv.ReadOptions(encoding=table.encoding, block_size=CSV_BLOCK_BYTES),
        "parse_options": csv.ParseOptions(delimiter=table.delimiter, newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            column_types={name: pa.string() for name in table.schema.names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    }


def explain_reading_error(table: RawTable, error: BaseException) -> ValueError:
    """Returns a reading error as one line for the user.

    Of a CSV, Ray keeps only that it failed: the place is found by reading the files again, here.
    """
    if table.kind == "csv":
        for name in table.files:
            try:
                if place := _bad_byte(table, name):
                    return wrong_encoding(name, table.encoding, place)
                place = _bad_line(table, name)
                if STRADDLING in place:
                    return ValueError(
                        f"no line of {name!r} may be over {CSV_BLOCK_BYTES >> 20} MiB: "
                        f"{_long_cell(table, name)}: is a quote not closed?"
                    )
                if place:
                    return ValueError(
                        f"every line of {name!r} must have {len(table.schema.names)} cells: {place}"
                    )
            except OSError as error_of_file:
                return unreadable_file(name, error_of_file)
    for name in table.files if table.kind == "parquet" else ():
        if damage := _parquet_damage(table, name):
            return unreadable_file(name, damage)
    return ValueError(f"cannot read {table.uri!r}: {error_text(error)}")


def _parquet_damage(table: RawTable, name: str) -> Exception | None:
    """Returns the error of a Parquet file that cannot be read."""
    try:
        with table.system.open_input_file(name) as file:
            for _ in pq.ParquetFile(file).iter_batches(DAMAGE_ROWS):
                pass
    except UNREADABLE as error:
        return error
    return None


def _long_cell(table: RawTable, name: str) -> str:
    """Returns which line of a CSV is too long, and its longest cell."""
    usual = python_csv.field_size_limit(MAX_COUNTED)
    try:
        with table.system.open_input_stream(name, compression="detect") as stream:
            text = io.TextIOWrapper(stream, table.encoding, newline="")
            lines = python_csv.reader(text, delimiter=table.delimiter)
            for cells in lines:
                if sum(len(cell.encode()) for cell in cells) > CSV_BLOCK_BYTES:
                    longest = max(map(len, cells))
                    return f"line {lines.line_num} has a cell of {longest:,} characters"
    except python_csv.Error:
        return f"a cell has more than {MAX_COUNTED:,} characters"
    finally:
        python_csv.field_size_limit(usual)
    return "one is longer"


def _bad_line(table: RawTable, name: str) -> str:
    """Returns which line of a CSV has another number of cells; "" where none has."""
    try:
        with table.system.open_input_stream(name, compression="detect") as stream:
            for _ in csv.open_csv(stream, **csv_options(table)):
                pass
    except pa.ArrowInvalid as error:
        return error_text(error)
    return ""


def _bad_byte(table: RawTable, name: str) -> str:
    """Returns where a file is not of the table's encoding; "" where all of it is."""
    decoder = codecs.getincrementaldecoder(table.encoding)()
    offset = 0
    with table.system.open_input_stream(name, compression="detect") as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            # The start of a character that the chunk's end has cut.
            undecoded = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeError as error:
                return describe_bad_byte(error, offset - undecoded)
            if not chunk:
                return ""
            offset += len(chunk)
