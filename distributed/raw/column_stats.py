"""The training statistics of one table column: partial sums that combine to those of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distributed.raw.cells import (
    BOOLEAN_READING,
    DATE_READING,
    READINGS,
    BoolArray,
    FloatArray,
    as_numbers,
    as_text,
    count_thousands,
    flatten_array,
    is_text,
)

MAX_COUNTED = 20_000  # distinct values of a block that are counted one by one


@dataclass
class NumberStats:
    """The finite numbers of some cells.

    infinite: cells that were infinite. whole: every number is an integer.
    m2: the sum of the squared distances from the mean. sample: some of the cells, NaN for none.
    """

    parsed: int = 0
    infinite: int = 0
    whole: bool = True
    mean: float = 0.0
    m2: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    sample: FloatArray = field(default_factory=lambda: np.zeros(0))


@dataclass
class ColumnStats:
    """What is known of one column over some training rows.

    readings: of text, the numbers by each reading that finds more of them.
    thousands: cells such as 1,234.
    table: the rows n of every value and label. uncounted: rows with values beyond MAX_COUNTED.
    is_number, is_text: by the table's own type.
    reading: by the table's own type, how the same cells are read where they come as text.
    """

    rows: int = 0
    missing: int = 0
    numbers: NumberStats = field(default_factory=NumberStats)
    readings: dict[str, NumberStats] = field(default_factory=dict)
    thousands: int = 0
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
        numbers=_number_stats(values, infinite, in_sample),
        is_number=not (pa.types.is_boolean(kind) or is_text(kind) or pa.types.is_null(kind)),
        is_text=is_text(kind),
        reading=_reading_of_type(kind),
    )
    if stats.is_text and stats.numbers.parsed + infinite + stats.missing < stats.rows:
        unread = pc.unique(as_text(array).filter(pa.array(np.isnan(values) & ~empty)))
        for reading, read in READINGS.items():
            if not np.isnan(read(unread)).all():
                values, _, infinite = as_numbers(array, reading)
                stats.readings[reading] = _number_stats(values, infinite, in_sample)
        stats.thousands = count_thousands(array)
    pairs = pa.table({"value": as_text(array), "label": pa.array(labels, pa.int32())})
    ones = pa.array(np.ones(len(labels), dtype=np.int64))
    stats.table, stats.uncounted = _most_frequent(_grouped(pairs.append_column("n", ones)))
    return stats


def _reading_of_type(kind: pa.DataType) -> str:
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return DATE_READING
    return BOOLEAN_READING if pa.types.is_boolean(kind) else ""


def _number_stats(values: FloatArray, infinite: int, in_sample: BoolArray) -> NumberStats:
    exact = values[~np.isnan(values)]
    finite = exact.astype(np.float32).astype(np.float64)  # what the shards will hold
    stats = NumberStats(
        parsed=len(finite),
        infinite=infinite,
        whole=bool(np.all(exact == np.floor(exact))),
        sample=values[in_sample],
    )
    if len(finite):
        stats.mean = float(finite.mean())
        stats.low, stats.high = float(finite.min()), float(finite.max())
        stats.m2 = float(((finite - stats.mean) ** 2).sum())
    return stats


def _grouped(pairs: pa.Table) -> pa.Table:
    """Returns the rows of every pair of value and label, added up."""
    totals = pairs.group_by(["value", "label"]).aggregate([("n", "sum")])
    return totals.rename_columns(["value", "label", "n"])


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
        total.thousands += part.thousands
        total.uncounted += part.uncounted
    tables = [part.table for part in parts if part.table is not None]
    total.table = _grouped(pa.concat_tables(tables))
    total.numbers = _combine_numbers([part.numbers for part in parts])
    for reading in READINGS:
        if any(reading in part.readings for part in parts):
            numbers = [part.readings.get(reading, part.numbers) for part in parts]
            total.readings[reading] = _combine_numbers(numbers)
    return total


def _combine_numbers(parts: Sequence[NumberStats]) -> NumberStats:
    """Returns the statistics of all parts, means and squares by Chan's rule."""
    total = NumberStats(sample=np.concatenate([part.sample for part in parts]))
    for part in parts:
        n = total.parsed + part.parsed
        if part.parsed:
            shift = part.mean - total.mean
            total.m2 += part.m2 + shift * shift * total.parsed * part.parsed / n
            total.mean += shift * part.parsed / n
        total.parsed = n
        total.infinite += part.infinite
        total.whole = total.whole and part.whole
        total.low, total.high = min(total.low, part.low), max(total.high, part.high)
    return total
