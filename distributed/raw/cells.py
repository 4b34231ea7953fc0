"""Raw cells as words and as numbers. Booleans and whole numbers have one spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw.number_formats import BoolArray, FloatArray
from distributed.raw.number_stats import only_finite
from distributed.raw.readings import read_text, reads_bare_numbers, reads_plain_numbers_first

# Words that mean a missing value. "None" is not among them: it may be a category.
MISSING_WORDS = pa.array(
    ["", "NA", "N/A", "#N/A", "NaN", "nan", "NAN", "null", "NULL", "<NA>"],
)
BOOLEANS = {
    "True": "True",
    "true": "True",
    "TRUE": "True",
    "False": "False",
    "false": "False",
    "FALSE": "False",
}
WHOLE = r"^(-?[1-9]\d{0,14}|0)\.0+$"  # pandas writes whole numbers so where a column has gaps
MAX_EXACT_INTEGER = 2**53  # of float64


def flatten_array(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns one plain array: chunks joined, dictionaries decoded.

    Lists and records are a ValueError.
    """
    if pa.types.is_nested(array.type):
        raise ValueError(
            f"a column must hold numbers or words; one that is to be read holds {array.type}"
        )
    if isinstance(array, pa.ChunkedArray):
        if array.num_chunks:
            array = pa.concat_arrays(array.chunks)
        else:
            array = pa.array([], type=array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def canonical_spelling(word: str) -> str:
    """Returns the word in the one spelling that categories and classes have.

    It is True for any true, 1 for 1.0, and any other word as it is.
    """
    return BOOLEANS.get(word) or re.sub(WHOLE, r"\1", word, flags=re.ASCII)


def canonical_spellings(text: pa.Array) -> pa.Array:
    """Returns the canonical spelling of every word."""
    spellings = pa.array(list(BOOLEANS), text.type)
    places = pc.index_in(text, value_set=spellings, skip_nulls=True)
    whole = pc.replace_substring_regex(text, WHOLE, r"\1")
    return pc.coalesce(pa.array(list(BOOLEANS.values()), text.type).take(places), whole)


def similar_spellings(words: Iterable[str]) -> list[list[str]]:
    """Returns the words that differ only in case or blanks, those of one spelling together."""
    by_letters: dict[str, list[str]] = {}
    for word in words:
        by_letters.setdefault("".join(word.split()).casefold(), []).append(word)
    return [same for same in by_letters.values() if len(same) > 1]


def as_text(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns cells as trimmed text in canonical spelling, null where missing.

    Whole floats become integers, for a column of codes with gaps comes as floats.
    """
    return canonical_spellings(trimmed_text(array))


def trimmed_text(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns cells as trimmed text, null where missing, in their own spelling."""
    array = flatten_array(array)
    if pa.types.is_floating(array.type):
        array = _whole_as_integers(array)
    if pa.types.is_timestamp(array.type) and array.type.tz:
        # In UTC, because Arrow writes no time in a zone whose name it does not have.
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    if not is_text(array.type):
        array = array.cast(pa.string())
    text = pc.utf8_trim_whitespace(array.cast(pa.large_string()))
    is_missing = pc.is_in(text, value_set=MISSING_WORDS.cast(pa.large_string()))
    return pc.if_else(is_missing, None, text)


def _whole_as_integers(array: pa.Array) -> pa.Array:
    """Returns floats as integers if all of them are whole numbers, else as they are."""
    values = array.cast(pa.float64())
    is_integer = pc.and_(
        pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), MAX_EXACT_INTEGER)
    )
    is_whole = pc.and_(pc.is_finite(values), is_integer)
    if not pc.all(pc.fill_null(pc.or_(is_whole, pc.is_nan(values)), True)).as_py():
        return array
    return pc.if_else(pc.is_nan(values), None, values).cast(pa.int64())


def as_numbers(
    array: pa.Array | pa.ChunkedArray, reading: str = ""
) -> tuple[FloatArray, BoolArray, int]:
    """Returns cells as numbers, which cells are empty, and how many numbers were infinite.

    The numbers are float64, NaN where there is no finite one.
    reading: how text becomes a number where it is no plain one; see readings.py. Numbers that are
    no text are none of a reading that wants a unit.
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
        values, empty = _text_as_numbers(array, reading)
    else:
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        empty = np.isnan(values)
        if not reads_bare_numbers(reading):
            values = np.full(len(values), np.nan)
    finite, infinite = only_finite(values)
    return finite, empty, infinite


def _text_as_numbers(array: pa.Array, reading: str) -> tuple[FloatArray, BoolArray]:
    """Returns words as numbers, NaN where there is none, and which cells are empty."""
    text = trimmed_text(array)
    empty = text.is_null().to_numpy(zero_copy_only=False)
    if reading and not reads_plain_numbers_first(reading):
        return read_text(text, reading), empty
    column = pd.Series(text.to_numpy(zero_copy_only=False), dtype=object)
    numbers = pd.to_numeric(column, errors="coerce")
    values: FloatArray = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    unread = np.flatnonzero(np.isnan(values) & ~empty)
    if reading and len(unread):
        values = values.copy()
        values[unread] = read_text(text.take(pa.array(unread)), reading)
    return values, empty


def _seconds(array: pa.Array) -> pa.Array:
    """Returns times as seconds, to the microsecond."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(array.type):
        kind = pa.timestamp("us", tz=array.type.tz)
    elif pa.types.is_duration(array.type):
        kind = pa.duration("us")
    else:
        kind = pa.time64("us")
    return pc.divide(array.cast(kind, safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)


def is_usable(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type can be a feature."""
    types = pa.types
    if types.is_dictionary(kind):
        return is_usable(kind.value_type)
    tests = (
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_string,
        types.is_large_string,
        types.is_decimal,
        types.is_temporal,
        types.is_null,
    )
    return any(test(kind) for test in tests)
