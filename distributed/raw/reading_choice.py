"""Chooses how the text of a column becomes numbers: the one reading on which its cells agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distributed.raw.column_stats import ColumnStats
from distributed.raw.number_formats import (
    COMMA,
    POINT,
    BoolArray,
    NumberFormat,
    WrittenNumbers,
    take_apart,
)
from distributed.raw.number_stats import NumberStats
from distributed.raw.readings import (
    BOOLEAN_READING,
    COMMA_READING,
    DATE_READING,
    DAY_FIRST_READING,
    MONTH_FIRST_READING,
    read_text,
)
from distributed.raw.text_stats import FormatCounts, FormatStats, TextStats

MIN_PARSED = 0.95  # a text column of which this share are numbers is numeric
MIN_FORCED_DATES = 0.5  # the same for dates where the user says that the column is numeric
MAX_UNITS = 5  # numbers of more units are taken for codes
MARKS = {"point": POINT, "comma": COMMA}
DATE_ORDERS = {"day-first": DAY_FIRST_READING, "month-first": MONTH_FIRST_READING}


@dataclass(frozen=True)
class ReadingHints:
    """What is known of text that has several meanings; "" where the user has not said it.

    decimal: point or comma. dates: day-first or month-first.
    semicolons: the table's cells are separated by ;, as they are where a comma is the decimal mark.
    """

    decimal: str = ""
    dates: str = ""
    semicolons: bool = False


@dataclass(frozen=True)
class ReadingChoice:
    """How a column's cells become numbers, and which numbers those are.

    reading: see readings.py. problem: why cells that look like numbers are not read.
    warning: what may be misread.
    """

    numbers: NumberStats
    reading: str = ""
    problem: str = ""
    warning: str = ""


def choose_reading(stats: ColumnStats, forced: bool, hints: ReadingHints) -> ReadingChoice:
    """Returns the reading of a column. forced: the user says that it is numeric."""
    if not stats.is_text:
        return ReadingChoice(stats.numbers, stats.reading)
    present = max(1, stats.rows - stats.missing)
    text, plain = stats.text, stats.numbers.parsed
    enough_dates = (MIN_FORCED_DATES if forced else MIN_PARSED) * present
    iso = _parsed(text, DATE_READING) - plain
    if iso >= enough_dates:
        return ReadingChoice(text.readings[DATE_READING], DATE_READING)
    dates = _parsed(text, DAY_FIRST_READING) + text.month_first
    if dates and iso + dates >= enough_dates:
        return _choose_date_order(stats, forced, hints)
    if text.formats:
        unit = max(text.formats, key=lambda unit: text.formats[unit].counts.cells)
        cells = text.formats[unit].counts.cells
        if cells and (forced or cells + stats.numbers.infinite >= MIN_PARSED * present):
            return _choose_format(stats, unit, forced, hints)
    if forced and _parsed(text, BOOLEAN_READING) > plain:
        return ReadingChoice(text.readings[BOOLEAN_READING], BOOLEAN_READING)
    return ReadingChoice(stats.numbers)


def several_units(stats: ColumnStats) -> str:
    """Returns that the cells are numbers of a few different units, "" where they are not."""
    units = stats.text.units
    present = stats.rows - stats.missing
    if not 1 < len(units) <= MAX_UNITS or units.total() < MIN_PARSED * present:
        return ""
    return f"numbers in several units ({', '.join(unit or 'none' for unit in units)})"


def _parsed(text: TextStats, reading: str) -> int:
    return text.readings[reading].parsed if reading in text.readings else 0


def _choose_date_order(stats: ColumnStats, forced: bool, hints: ReadingHints) -> ReadingChoice:
    text = stats.text
    order = hints.dates
    if text.day_first and text.month_first:
        if not (forced and order):
            day, month = _example_date(stats, "day-first"), _example_date(stats, "month-first")
            return ReadingChoice(
                stats.numbers,
                problem=f"dates such as {day} and {month} have the day and the month first",
            )
    elif text.day_first or text.month_first:
        order = "day-first" if text.day_first else "month-first"
    elif not order and text.unclear_dates:
        return ReadingChoice(
            stats.numbers,
            problem=f"dates such as {_example_date(stats)} may have the day or the month first: "
            "--dates day-first or --dates month-first says which",
        )
    reading = DATE_ORDERS[order or "day-first"]  # the same for 04/04/2024
    return ReadingChoice(text.readings[reading], reading)


def _example_date(stats: ColumnStats, only: str = "") -> str:
    """Returns a date of the column in quotes. only: the order that it must be of."""

    def select(words: pa.Array) -> BoolArray:
        is_day, is_month = (~np.isnan(read_text(words, name)) for name in DATE_ORDERS.values())
        if not only:
            return is_day
        return is_day & ~is_month if only == "day-first" else is_month & ~is_day

    return _example(stats, select)


def _choose_format(
    stats: ColumnStats, unit: str, forced: bool, hints: ReadingHints
) -> ReadingChoice:
    formats = stats.text.formats[unit]
    counts = formats.counts
    if counts.only_point and counts.only_comma:
        choice = _choose_of_both_marks(stats, unit, forced)
        if choice is not None:
            return choice
    decimal = _decimal_mark(unit, formats.counts, hints)
    if not decimal:
        example = _example_number(stats, lambda cells: cells.unclear_comma)
        return ReadingChoice(
            stats.numbers,
            problem=f"cells such as {example} may be thousands or decimals: "
            "--decimal point or --decimal comma says which",
        )
    if decimal == POINT:
        thousands = counts.thousands_commas + counts.unclear_comma
    else:
        thousands = counts.thousands_points + counts.unclear_point
    number_format = NumberFormat(decimal, bool(thousands), bool(counts.parentheses), unit)
    if number_format == NumberFormat() and counts.cells <= stats.numbers.parsed:
        return ReadingChoice(stats.numbers, warning=_thousands_warning(stats, formats, hints))
    numbers = formats.point if decimal == POINT else formats.comma
    return ReadingChoice(numbers, number_format.name)


def _choose_of_both_marks(stats: ColumnStats, unit: str, forced: bool) -> ReadingChoice | None:
    """Returns the reading of cells such as 3,5 and 2.25; None where that of most cells will do.

    They need not contradict each other: without any marks of thousands each says what it is.
    """
    formats = stats.text.formats[unit]
    counts = formats.counts
    thousands = counts.thousands_commas + counts.thousands_points + counts.unclear_point
    if not (unit or thousands or counts.parentheses):
        return ReadingChoice(formats.either, COMMA_READING)
    if forced or counts.only_comma <= (1 - MIN_PARSED) * (counts.only_point + counts.only_comma):
        return None
    point = _example_number(stats, lambda cells: cells.only_point)
    comma = _example_number(stats, lambda cells: cells.only_comma)
    return ReadingChoice(
        stats.numbers, problem=f"cells such as {point} and {comma} have different decimal marks"
    )


def _decimal_mark(unit: str, counts: FormatCounts, hints: ReadingHints) -> str:
    """Returns the decimal mark, "" where the cells leave it open and the user has not said it."""
    if counts.only_point or counts.only_comma:
        return POINT if counts.only_point > counts.only_comma else COMMA
    if hints.decimal and (counts.unclear_comma or counts.unclear_point or unit):
        return MARKS[hints.decimal]
    if counts.unclear_comma:
        return COMMA if hints.semicolons and not counts.unclear_point else ""
    return POINT


def _thousands_warning(stats: ColumnStats, formats: FormatStats, hints: ReadingHints) -> str:
    """A warning about cells such as 1.234 in a table that may have decimal commas."""
    counts = formats.counts
    if not counts.unclear_point or counts.only_point or hints.decimal or not hints.semicolons:
        return ""
    example = _example_number(stats, lambda cells: cells.unclear_point)
    return f"cells such as {example} are read as decimals: --decimal comma reads them as thousands"


def _example_number(stats: ColumnStats, select: Callable[[WrittenNumbers], BoolArray]) -> str:
    return _example(stats, lambda words: select(take_apart(words)))


def _example(stats: ColumnStats, select: Callable[[pa.Array], BoolArray]) -> str:
    """Returns one of the column's cells in quotes."""
    words = words_of(stats)
    chosen = words.filter(pa.array(select(words)))
    return repr(chosen[0].as_py()) if len(chosen) else "these"


def words_of(stats: ColumnStats) -> pa.Array:
    """Returns the different cells of a column that are counted one by one, as text."""
    assert stats.table is not None
    return stats.table["value"].drop_null().unique()
