"""The training statistics of one table column: partial sums that combine to those of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distributed.raw.cells import as_numbers, as_text, flatten_array, is_text, trimmed_text
from distributed.raw.number_formats import BoolArray
from distributed.raw.number_stats import NumberStats, combine_numbers, number_stats
from distributed.raw.readings import BOOLEAN_READING, DATE_READING
from distributed.raw.text_stats import TextStats, combine_text_stats, text_stats

MAX_COUNTED = 20_000  # distinct values of a block that are counted one by one


@dataclass
class ColumnStats:
    """What is known of one column over some training rows.

    text: what the cells may mean besides plain numbers, where they are text.
    table: the rows n of every value and label. uncounted: rows with values beyond MAX_COUNTED.
    is_number, is_text: by the table's own type.
    reading: by the table's own type, how the same cells are read where they come as text.
    """

    rows: int = 0
    missing: int = 0
    numbers: NumberStats = field(default_factory=NumberStats)
    text: TextStats = field(default_factory=TextStats)
    table: pa.Table | None = None
    uncounted: int = 0
    is_number: bool = False
    is_text: bool = True
    reading: str = ""


def column_stats(
    array: pa.Array | pa.ChunkedArray, labels: NDArray[np.int64], in_sample: BoolArray
) -> ColumnStats:
    """Returns the statistics of one block's training rows.

    in_sample: which of the rows are in the sample for quantiles.
    """
    array = flatten_array(array)
    kind = array.type
    values, empty, infinite = as_numbers(array)
    stats = ColumnStats(
        rows=len(array),
        missing=int(empty.sum()),
        numbers=number_stats(values, infinite, in_sample),
        is_number=not (pa.types.is_boolean(kind) or is_text(kind) or pa.types.is_null(kind)),
        is_text=is_text(kind),
        reading=_reading_of_type(kind),
    )
    if stats.is_text:
        all_plain = stats.numbers.parsed + infinite + stats.missing == stats.rows
        stats.text = text_stats(trimmed_text(array), values, all_plain, in_sample)
    pairs = pa.table({"value": as_text(array), "label": pa.array(labels, pa.int32())})
    ones = pa.array(np.ones(len(labels), dtype=np.int64))
    stats.table, stats.uncounted = _most_frequent(_grouped(pairs.append_column("n", ones)))
    return stats


def _reading_of_type(kind: pa.DataType) -> str:
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return DATE_READING
    return BOOLEAN_READING if pa.types.is_boolean(kind) else ""


def _grouped(pairs: pa.Table) -> pa.Table:
    """Returns the rows of every pair of value and label, added up, in the order of their first row.

    Arrow's group_by takes several times as long for the few rows of a table of many columns.
    """
    values = flatten_array(pairs["value"]).dictionary_encode("encode")
    labels_N = pairs["label"].to_numpy()
    labels = int(labels_N.max(initial=0)) + 1
    code_N = values.indices.to_numpy().astype(np.int64) * labels + labels_N
    encoded = pa.array(code_N).dictionary_encode()
    codes = encoded.dictionary.to_numpy()
    rows = np.zeros(len(codes), dtype=np.int64)
    np.add.at(rows, encoded.indices.to_numpy(), pairs["n"].to_numpy())
    return pa.table(
        {
            "value": values.dictionary.take(pa.array(codes // labels)),
            "label": pa.array(codes % labels, pa.int32()),
            "n": rows,
        }
    )


def _most_frequent(pairs: pa.Table) -> tuple[pa.Table, int]:
    """Returns the pairs of the most frequent values, and how many rows the other values have."""
    if pairs.num_rows <= MAX_COUNTED:
        return pairs, 0
    totals = pairs.group_by("value").aggregate([("n", "sum")])
    totals = totals.sort_by([("n_sum", "descending"), ("value", "ascending")])
    if totals.num_rows <= MAX_COUNTED:
        return pairs, 0
    frequent = totals["value"].slice(0, MAX_COUNTED).combine_chunks()
    kept = pairs.filter(pc.is_in(pairs["value"], value_set=frequent))
    return kept, int(pc.sum(totals["n_sum"].slice(MAX_COUNTED)).as_py())


def combine_stats(parts: Sequence[ColumnStats]) -> ColumnStats:
    """Returns the statistics of all blocks together."""
    first = parts[0]
    total = ColumnStats(is_number=first.is_number, is_text=first.is_text, reading=first.reading)
    for part in parts:
        total.rows += part.rows
        total.missing += part.missing
        total.uncounted += part.uncounted
    tables = [part.table for part in parts if part.table is not None]
    total.table = _grouped(pa.concat_tables(tables)) if len(tables) > 1 else tables[0]
    numbers = [part.numbers for part in parts]
    total.numbers = combine_numbers(numbers)
    total.text = combine_text_stats([part.text for part in parts], numbers)
    return total
