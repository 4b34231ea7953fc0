"""What the text of a column may mean besides plain numbers, counted over some training rows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distributed.raw.number_formats import (
    COMMA,
    POINT,
    UNCLEAR_POINT,
    BoolArray,
    FloatArray,
    NumberFormat,
    WrittenNumbers,
    take_apart,
)
from distributed.raw.number_stats import (
    NumberStats,
    combine_numbers,
    no_numbers_like,
    number_stats,
    only_finite,
)
from distributed.raw.readings import (
    BOOLEAN_READING,
    DATE_READING,
    DAY_FIRST_READING,
    MONTH_FIRST_READING,
    read_text,
    reads_plain_numbers_first,
)

IntArray = NDArray[np.int64]

COUNTED_UNITS = 10  # of a block, the most frequent ones
NAMED_READINGS = (DATE_READING, DAY_FIRST_READING, MONTH_FIRST_READING, BOOLEAN_READING)


@dataclass
class FormatCounts:
    """How many cells are numbers of one unit, and what their marks say about the decimal mark.

    only_point, only_comma: cells that are a number only with this decimal mark.
    unclear_point, unclear_comma: cells such as 1.234 or 1,234.
    thousands_commas, thousands_points: cells that surely have such marks between thousands.
    """

    cells: int = 0
    only_point: int = 0
    only_comma: int = 0
    unclear_point: int = 0
    unclear_comma: int = 0
    thousands_commas: int = 0
    thousands_points: int = 0
    parentheses: int = 0


@dataclass
class FormatStats:
    """The numbers of one unit: by each decimal mark, and where the marks differ between cells."""

    counts: FormatCounts
    point: NumberStats
    comma: NumberStats
    either: NumberStats


@dataclass
class TextStats:
    """What the cells of a column of text may mean.

    readings: the numbers by dates and booleans, where there are any.
    formats: the numbers without a unit and with the most frequent one of each block, where cells
    may be other than plain numbers.
    units: cells that are numbers, by unit.
    day_first, month_first: dates such as 03/25/2024, which only this order allows.
    unclear_dates: those that both orders allow, with different results.
    points: plain numbers with a decimal point in blocks without `formats`.
    """

    readings: dict[str, NumberStats] = field(default_factory=dict)
    formats: dict[str, FormatStats] = field(default_factory=dict)
    units: Counter[str] = field(default_factory=Counter)
    day_first: int = 0
    month_first: int = 0
    unclear_dates: int = 0
    points: int = 0


def text_stats(
    text: pa.Array, values: FloatArray, all_plain: bool, in_sample: BoolArray
) -> TextStats:
    """Returns what the cells of one block may mean.

    text: the cells, trimmed, null where missing. values: those that are plain numbers.
    all_plain: every cell that is not missing is a plain number.
    """
    stats = TextStats()
    if all_plain and not _any(pc.match_substring_regex(text, UNCLEAR_POINT)):
        stats.points = pc.sum(pc.match_substring(text, POINT)).as_py() or 0
        return stats
    encoded = text.dictionary_encode()
    words = encoded.dictionary
    # A missing cell has the place after all words, which has no number.
    places = pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)
    rows_of_word = np.bincount(places, minlength=len(words) + 1)[:-1]
    if not all_plain:
        by_reading = {name: read_text(words, name) for name in NAMED_READINGS}
        _count_dates(
            stats, by_reading[DAY_FIRST_READING], by_reading[MONTH_FIRST_READING], rows_of_word
        )
        for name, numbers in by_reading.items():
            if np.isnan(numbers).all():
                continue
            cells = np.append(numbers, np.nan)[places]
            if reads_plain_numbers_first(name):
                cells = np.where(np.isnan(values), cells, values)
            stats.readings[name] = number_stats(*only_finite(cells), in_sample)
    parts = take_apart(words)
    _count_units(stats, parts, rows_of_word)
    most_frequent = [unit for unit, _ in stats.units.most_common(1)]
    for unit in dict.fromkeys([*most_frequent, *({""} & stats.units.keys())]):
        stats.formats[unit] = _format_stats(parts, unit, places, rows_of_word, in_sample)
    return stats


def _any(flags: pa.Array) -> bool:
    return bool(pc.any(flags).as_py())


def _count_dates(
    stats: TextStats, day_first: FloatArray, month_first: FloatArray, rows_of_word: IntArray
) -> None:
    is_day, is_month = ~np.isnan(day_first), ~np.isnan(month_first)
    stats.day_first = int(rows_of_word[is_day & ~is_month].sum())
    stats.month_first = int(rows_of_word[is_month & ~is_day].sum())
    stats.unclear_dates = int(rows_of_word[is_day & is_month & (day_first != month_first)].sum())


def _count_units(stats: TextStats, parts: WrittenNumbers, rows_of_word: IntArray) -> None:
    is_number = parts.are_numbers
    units, unit_of_word = np.unique(parts.units[is_number].astype(str), return_inverse=True)
    rows = np.bincount(unit_of_word, rows_of_word[is_number], minlength=len(units))
    counted = Counter({str(unit): int(count) for unit, count in zip(units, rows)})
    stats.units = Counter(dict(counted.most_common(COUNTED_UNITS)))


def _format_stats(
    parts: WrittenNumbers,
    unit: str,
    places: IntArray,
    rows_of_word: IntArray,
    in_sample: BoolArray,
) -> FormatStats:
    def read(number_format: NumberFormat) -> NumberStats:
        numbers = np.append(number_format.select(parts), np.nan)
        return number_stats(*only_finite(numbers[places]), in_sample)

    def count(words: BoolArray) -> int:
        return int(rows_of_word[words & of_unit].sum())

    of_unit = parts.are_numbers & (parts.units == unit)
    counts = FormatCounts(
        cells=count(of_unit),
        only_point=count(parts.only_point),
        only_comma=count(parts.only_comma),
        unclear_point=count(parts.unclear_point),
        unclear_comma=count(parts.unclear_comma),
        thousands_commas=count(parts.only_point & parts.has_comma),
        thousands_points=count(parts.only_comma & parts.has_point),
        parentheses=count(parts.parentheses),
    )
    return FormatStats(
        counts,
        read(NumberFormat(POINT, True, True, unit)),
        read(NumberFormat(COMMA, True, True, unit)),
        read(NumberFormat(COMMA, unit=unit)),
    )


def combine_text_stats(parts: Sequence[TextStats], plain: Sequence[NumberStats]) -> TextStats:
    """Returns what the cells of all blocks may mean. plain: the plain numbers of each block."""
    total = TextStats()
    for part in parts:
        total.units += part.units
        total.day_first += part.day_first
        total.month_first += part.month_first
        total.unclear_dates += part.unclear_dates
        total.points += part.points
    for name in NAMED_READINGS:
        if any(name in part.readings for part in parts):
            keeps_plain = reads_plain_numbers_first(name)
            total.readings[name] = combine_numbers(
                [
                    part.readings.get(name) or (own if keeps_plain else no_numbers_like(own))
                    for part, own in zip(parts, plain, strict=True)
                ]
            )
    for unit in dict.fromkeys(unit for part in parts for unit in part.formats):
        total.formats[unit] = _combine_formats(
            [
                part.formats.get(unit) or _plain_format(unit, part, own)
                for part, own in zip(parts, plain, strict=True)
            ]
        )
    return total


def _plain_format(unit: str, part: TextStats, plain: NumberStats) -> FormatStats:
    """Returns the numbers of a block that has nothing but plain ones."""
    if unit:
        none = no_numbers_like(plain)
        return FormatStats(FormatCounts(), none, none, none)
    counts = FormatCounts(cells=plain.parsed, only_point=part.points)
    return FormatStats(counts, plain, plain, plain)


def _combine_formats(parts: Sequence[FormatStats]) -> FormatStats:
    totals = np.sum([dataclasses.astuple(part.counts) for part in parts], axis=0)
    return FormatStats(
        FormatCounts(*totals.tolist()),
        combine_numbers([part.point for part in parts]),
        combine_numbers([part.comma for part in parts]),
        combine_numbers([part.either for part in parts]),
    )
