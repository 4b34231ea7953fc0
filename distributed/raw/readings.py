"""How the text of a numeric column becomes numbers: plain numbers, formats, dates, booleans.

A reading is a text, which schema.json keeps. It is "" for plain numbers, the name of a
NumberFormat, or one of the names below.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distributed.raw.number_formats import COMMA, FloatArray, NumberFormat

DATE_READING = "dates"  # such as 2024-04-03
DAY_FIRST_READING = "dates, day first"  # such as 03/04/2024, of April
MONTH_FIRST_READING = "dates, month first"  # the same, of March
BOOLEAN_READING = "booleans"
COMMA_READING = NumberFormat(COMMA).name
POINT_OR_COMMA_READING = "decimal points or commas"  # of new rows where training had plain numbers

YEAR_FIRST = r"^(\d{4})(?:-(\d{2})-|/(\d{2})/|\.(\d{2})\.)(\d{2})"
DATE = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
SLASHED_DATE = (
    r"^(?P<first>\d{1,2})(?:/(?P<slash>\d{1,2})/|\.(?P<dot>\d{1,2})\.|-(?P<dash>\d{1,2})-)"
    r"(?P<year>[12]\d{3})"
    r"(?:,?[T ](?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?"
    r"(?: ?(?P<half>[AaPp])[Mm])?)?$"
)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def reads_plain_numbers_first(reading: str) -> bool:
    """Whether plain numbers are numbers as they are, and only other text needs the reading."""
    return reading in (DATE_READING, BOOLEAN_READING, POINT_OR_COMMA_READING)


def reads_bare_numbers(reading: str) -> bool:
    """Whether a number that is no text has the meaning of the column's text: not without a unit."""
    number_format = NumberFormat.from_name(reading)
    return number_format is None or not number_format.unit


def read_text(text: pa.Array, reading: str) -> FloatArray:
    """Returns the numbers of words, NaN where a word is none by this reading."""
    number_format = NumberFormat.from_name(reading)
    return number_format.read(text) if number_format else READINGS[reading](text)


def describe_reading(reading: str, example: str | None = None) -> str:
    """Returns what the user is told of a column's reading, with a cell of it."""
    number_format = NumberFormat.from_name(reading)
    if number_format:
        also = " (a dot is a decimal point too)" if reading == COMMA_READING else ""
        such = f" such as {example!r}" if example else ""
        return f"{reading}: numbers{such}{also}"
    if reading == BOOLEAN_READING:
        return "booleans: 1 for true"
    return f"{reading}: seconds since 1970"


def _dates(text: pa.Array) -> FloatArray:
    """Returns ISO dates and times, also with slashes or dots, as seconds since 1970.

    One without a zone is taken for UTC, as Parquet's are.
    """
    dashed = pc.replace_substring_regex(text, YEAR_FIRST, r"\1-\2\3\4-\5")
    is_date = pc.match_substring_regex(dashed, DATE).to_pylist()
    seconds = [_seconds_of(w) if ok else np.nan for w, ok in zip(dashed.to_pylist(), is_date)]
    return np.array(seconds, dtype=np.float64)


def _seconds_of(word: str) -> float:
    try:
        time = datetime.datetime.fromisoformat(word)
    except ValueError:  # a 13th month
        return np.nan
    if not time.tzinfo:
        time = time.replace(tzinfo=datetime.UTC)
    return (time - EPOCH).total_seconds()


def _day_first(text: pa.Array) -> FloatArray:
    return _slashed_dates(text, day_first=True)


def _month_first(text: pa.Array) -> FloatArray:
    return _slashed_dates(text, day_first=False)


def _slashed_dates(text: pa.Array, day_first: bool) -> FloatArray:
    """Returns dates such as 03/04/2024 14:30 as seconds since 1970, in UTC."""
    seconds = np.full(len(text), np.nan)
    parsed = pc.extract_regex(text.cast(pa.string()), SLASHED_DATE)
    matched = pc.is_valid(parsed).to_numpy(zero_copy_only=False)
    if not matched.any():
        return seconds
    found = parsed.drop_null()
    words = dict(zip(found.type.names, found.flatten(), strict=True))
    words["second_part"] = pc.binary_join_element_wise(
        words["slash"], words["dot"], words["dash"], ""
    )

    def number(name: str) -> NDArray[np.int64]:
        filled = pc.if_else(pc.equal(words[name], ""), "0", words[name])
        return np.asarray(filled.cast(pa.int64()).to_numpy(), dtype=np.int64)

    first, second = number("first"), number("second_part")
    day, month = (first, second) if day_first else (second, first)
    month_start = (number("year") - 1970).astype("M8[Y]").astype("M8[M]") + (month - 1)
    date = month_start.astype("M8[D]") + (day - 1)
    half = pc.utf8_lower(words["half"]).to_numpy(zero_copy_only=False)
    hour = number("hour")
    hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (date.astype("M8[M]") == month_start)
    valid &= hour < 24
    clock = 3600 * hour + 60 * number("minute") + number("second")
    seconds[matched] = np.where(valid, date.astype("M8[s]").astype(np.int64) + clock, np.nan)
    return seconds


def _decimal_commas(text: pa.Array) -> FloatArray:
    return NumberFormat(COMMA).read(text)


def _booleans(text: pa.Array) -> FloatArray:
    numbers = {"true": 1.0, "false": 0.0}
    cells = pc.utf8_lower(text).to_pylist()
    return np.array([numbers.get(word, np.nan) for word in cells], dtype=np.float64)


READINGS: dict[str, Callable[[pa.Array], FloatArray]] = {
    DATE_READING: _dates,
    DAY_FIRST_READING: _day_first,
    MONTH_FIRST_READING: _month_first,
    BOOLEAN_READING: _booleans,
    POINT_OR_COMMA_READING: _decimal_commas,
}
