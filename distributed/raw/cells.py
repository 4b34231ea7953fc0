"""Raw cells as words and as numbers: one spelling of booleans, and the readings by which other text becomes numbers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

MISSING_WORDS = pa.array(
    ["", "NA", "N/A", "#N/A", "NaN", "nan", "NAN", "null", "NULL", "<NA>"]
)  # "None" may be a category
BOOLEANS = {
    "True": "True",
    "true": "True",
    "TRUE": "True",
    "False": "False",
    "false": "False",
    "FALSE": "False",
}
WHOLE = r"^(-?[1-9]\d{0,14}|0)\.0+$"  # pandas writes whole numbers so where a column has gaps
LARGEST = float(np.finfo(np.float32).max)  # what some write for infinity or for missing
DATE = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
DECIMAL_COMMA = r"^[+-]?\d*,\d+([eE][+-]?\d+)?$"
THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"  # 1,234 is either
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def flatten_array(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One plain array: chunks joined, dictionaries decoded. Lists and records are refused."""
    if pa.types.is_nested(array.type):
        raise ValueError(
            f"a column must hold numbers or words; one that is to be read holds {array.type}"
        )
    if isinstance(array, pa.ChunkedArray):
        array = (
            pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
        )
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def canonical_spelling(word: str) -> str:
    """The word, a boolean or a whole number in the one spelling that categories and classes have: True, 1 for 1.0."""
    return BOOLEANS.get(word) or re.sub(WHOLE, r"\1", word, flags=re.ASCII)


def canonical_spellings(words: pa.Array) -> pa.Array:
    """`spelling` of every word."""
    places = pc.index_in(words, value_set=pa.array(list(BOOLEANS), words.type), skip_nulls=True)
    whole = pc.replace_substring_regex(words, WHOLE, r"\1")
    return pc.coalesce(pa.array(list(BOOLEANS.values()), words.type).take(places), whole)


def as_text(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Cells as trimmed strings, null where missing; whole floats read as integers (a code column with gaps comes as floats)."""
    array = flatten_array(array)
    if pa.types.is_floating(array.type):
        values = array.cast(pa.float64())
        whole = pc.and_(
            pc.is_finite(values),
            pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2**53)),
        )
        if pc.all(pc.fill_null(pc.or_(whole, pc.is_nan(values)), True)).as_py():
            array = pc.if_else(pc.is_nan(values), None, values).cast(pa.int64())
    if (
        pa.types.is_timestamp(array.type) and array.type.tz
    ):  # in UTC: Arrow writes no time in a zone whose name it does not know
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    if not is_text(array.type):
        array = array.cast(pa.string())
    words = pc.utf8_trim_whitespace(array.cast(pa.large_string()))
    return canonical_spellings(
        pc.if_else(pc.is_in(words, value_set=MISSING_WORDS.cast(pa.large_string())), None, words)
    )


def as_numbers(
    array: pa.Array | pa.ChunkedArray, reading: str = ""
) -> tuple[np.ndarray, np.ndarray, int]:
    """Cells as float64 with NaN where there is no finite number, which cells are empty, and how many were infinite.

    reading: the one of READINGS that is tried on text that is no plain number.
    """
    array = flatten_array(array)
    kind = array.type
    if pa.types.is_temporal(kind):
        array = _seconds(array)
    elif pa.types.is_decimal(kind) or pa.types.is_null(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_primitive(kind) or is_text(kind)):  # bytes
        array = array.cast(pa.string())
    if is_text(array.type):
        words = as_text(array)
        empty = words.is_null().to_numpy(zero_copy_only=False)
        values = pd.to_numeric(
            pd.Series(words.to_numpy(zero_copy_only=False), dtype=object), errors="coerce"
        )
        values = values.to_numpy(dtype=np.float64, na_value=np.nan)
        rest = np.flatnonzero(np.isnan(values) & ~empty)
        if reading and len(rest):
            values = values.copy()
            values[rest] = READINGS[reading](words.take(pa.array(rest)))
    else:
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        empty = np.isnan(values)
    infinite = np.isinf(values) | (np.abs(values) >= LARGEST)
    return np.where(infinite, np.nan, values), empty, int(infinite.sum())


def _seconds(array: pa.Array) -> pa.Array:
    """Times as seconds, to the microsecond."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(array.type):
        kind = pa.timestamp("us", tz=array.type.tz)
    else:
        kind = pa.duration("us") if pa.types.is_duration(array.type) else pa.time64("us")
    return pc.divide(array.cast(kind, safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)


def _dates(words: pa.Array) -> np.ndarray:
    """ISO dates and times as seconds since 1970; one without a zone is UTC, as Parquet's are."""

    def seconds(word: str) -> float:
        try:
            found = datetime.datetime.fromisoformat(word)
        except ValueError:  # a 13th month
            return np.nan
        return (
            (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)) - EPOCH
        ).total_seconds()

    there = pc.match_substring_regex(words, DATE).to_pylist()
    return np.array(
        [seconds(w) if ok else np.nan for w, ok in zip(words.to_pylist(), there)], dtype=np.float64
    )


def _decimal_commas(words: pa.Array) -> np.ndarray:
    numbers = pc.if_else(
        pc.match_substring_regex(words, DECIMAL_COMMA), pc.replace_substring(words, ",", "."), None
    )
    return np.asarray(numbers.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _booleans(words: pa.Array) -> np.ndarray:
    return np.array(
        [{"True": 1.0, "False": 0.0}.get(w, np.nan) for w in words.to_pylist()], dtype=np.float64
    )


DATE_READING, COMMA_READING, BOOLEAN_READING = "dates", "decimal commas", "booleans"
READINGS: dict[str, Callable[[pa.Array], np.ndarray]] = {
    DATE_READING: _dates,
    COMMA_READING: _decimal_commas,
    BOOLEAN_READING: _booleans,
}


def count_thousands(array: pa.Array) -> int:
    """Cells of text such as 1,234, which some write for thousands and others for decimals."""
    return int(pc.sum(pc.match_substring_regex(as_text(array), THOUSANDS)).as_py() or 0)
