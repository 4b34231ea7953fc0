"""Writes the predictions of all part files as one CSV file, in their order."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector

from distributed.inference.batches.part_files import PARTS
from distributed.reporting.tables import FORMULA, to_csv_text
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import (
    PART_SUFFIX,
    filesystem,
    join,
    naming_full_disk,
    remove_folder,
)

CSV_FILE = "predictions.csv"


def check_csv_columns(kept: pa.Schema | None) -> None:
    """Refuses to keep columns, such as pictures, that a CSV file cannot hold."""
    for entry in kept or ():
        is_plain = not pa.types.is_nested(entry.type) and not (
            pa.types.is_binary(entry.type) or pa.types.is_large_binary(entry.type)
        )
        if not is_plain:
            raise OptionError(
                f"format csv holds numbers, texts and dates; keep names {entry.name!r}, which "
                f"holds {entry.type}: leave it out, or use format parquet",
                "format",
                "keep",
            )


def join_parts(out: str) -> list[str]:
    """Replaces the part files by one CSV file, and returns notes on what it changed.

    A prediction set is written as a JSON list: ["mel", "nv"].
    """
    place = join(out, CSV_FILE)
    system, folder = filesystem(join(out, PARTS))
    target = filesystem(place)[1]
    parts = sorted(entry.path for entry in system.get_file_info(FileSelector(folder)))
    changed = 0
    with naming_full_disk(place), system.open_output_stream(f"{target}{PART_SUFFIX}") as sink:
        writer: arrow_csv.CSVWriter | None = None
        for path in parts:
            with system.open_input_file(path) as source:
                file = pq.ParquetFile(source)
                if writer is None:
                    header, _ = _plain_table(file.schema_arrow.empty_table())
                    writer = arrow_csv.CSVWriter(sink, header.schema)
                for batch in file.iter_batches():
                    table, more = _plain_table(pa.Table.from_batches([batch]))
                    changed += more
                    writer.write_table(table)
        if writer is not None:
            writer.close()
    system.move(f"{target}{PART_SUFFIX}", target)
    remove_folder(join(out, PARTS))
    if not changed:
        return []
    return [
        f"{changed:,} cells of {CSV_FILE} begin as a formula would, and have an apostrophe before "
        "them so that no spreadsheet runs it; --format parquet holds them as they are"
    ]


def _plain_table(table: pa.Table) -> tuple[pa.Table, int]:
    """Returns the columns as CSV holds them, and how many cells would have been formulas."""
    changed = 0
    for place, entry in enumerate(table.schema):
        column = table[entry.name]
        if pa.types.is_dictionary(entry.type):
            column = column.cast(entry.type.value_type)
        if pa.types.is_list(column.type):
            texts = [None if names is None else json.dumps(names) for names in column.to_pylist()]
            column = pa.chunked_array([pa.array(texts, pa.string())])
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            looks = pc.match_substring_regex(column, f"^{FORMULA.pattern}")
            if pc.any(looks).as_py():
                before = column.to_pylist()
                after = [None if text is None else to_csv_text(text) for text in before]
                changed += sum(a != b for a, b in zip(before, after, strict=True))
                column = pa.chunked_array([pa.array(after, column.type)])
        table = table.set_column(place, entry.name, column)
    return table, changed
