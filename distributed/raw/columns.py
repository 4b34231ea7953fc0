"""Decides what type each table column is, and turns its cells into a shard column."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw.cells import (
    BOOLEAN_READING,
    COMMA_READING,
    DATE_READING,
    FloatArray,
    similar_spellings,
)
from distributed.raw.column_stats import ColumnStats, NumberStats
from distributed.shards.layout import SPLIT_NAMES
from model.schema import MAX_DEVIATIONS, Categorical, Numeric, join_names

MIN_PARSED = 0.95  # a text column of which this share are numbers is numeric
MAX_CODES = 0.05  # unless more of its values look like codes
CODE_SAMPLE = 1000  # values that are looked at for that
MAX_VOCABULARY = 1000  # values that a category keeps
MIN_ROWS_FOR_ID = 10  # of fewer rows, all different values are no sign of an id
MIN_ROWS_FOR_ROW_NUMBERS = 100  # the same for whole numbers
# Different whole numbers within a range of fewer than this many times their count are taken for
# numbers of the rows.
ID_DENSITY = 10
MIN_ID_VALUES, MIN_ID_SHARE = 20, 0.8  # different values, and their share, of a likely id
MAX_STEP = 0.01  # of the spread: larger steps between neighbouring float32 numbers are reported
QUANTILES = 33  # kept for a numeric column
NORMAL_QUARTILE_RANGE = 1.349  # of a normal distribution, in standard deviations
READING_NOTES = {
    DATE_READING: "dates: seconds since 1970",
    COMMA_READING: "decimal commas: numbers (a dot is a decimal point too)",
}
EMPTY = "no training row has a value"
AMBIGUOUS_THOUSANDS = "cells such as 1,234 may be thousands or decimals: write plain numbers"
CODE = re.compile(r"^0\d+$")  # 00712 is a code, not a number


@dataclass(frozen=True)
class ColumnDecision:
    """What a source column becomes.

    column: None for a dropped one.
    distinct, missing: the number of different values and the share of missing ones.
    note: what the user should know. warning: what may spoil the result.
    reading: how text becomes the column's numbers, one of READINGS; "" for plain numbers.
    """

    name: str
    column: Numeric | Categorical | None
    distinct: int
    missing: float
    note: str = ""
    warning: str = ""
    reading: str = ""

    @property
    def kind(self) -> str:
        if self.column is None:
            return "dropped"
        return "number" if isinstance(self.column, Numeric) else "category"


def decide_column(
    name: str, stats: ColumnStats, forced: str = "", commas: bool = False
) -> ColumnDecision:
    """Returns the column's type and statistics, or why it is dropped.

    forced: numeric or categorical, where the user says so. commas: the table is one whose cells
    are separated by ;, in which 1,234 is a decimal.
    """
    values = _value_counts(stats)
    present, distinct = stats.rows - stats.missing, values.num_rows + stats.uncounted
    missing = _share(stats.missing, stats.rows)
    reading = _choose_reading(stats, forced, commas)
    numbers = stats.readings.get(reading, stats.numbers)
    numeric = forced == "numeric" or (
        not forced and (stats.is_number or _parses(stats, numbers, values))
    )
    ambiguous = AMBIGUOUS_THOUSANDS if stats.thousands and reading != COMMA_READING else ""
    reason = "" if forced else _why_dropped(stats, numbers, numeric, distinct)
    # Of one value and gaps, the information is where the gaps are.
    if not forced and numeric and not (numbers.low < numbers.high or distinct > 1):
        numeric = False
    warning = ""
    all_different = present >= MIN_ROWS_FOR_ID and distinct == present
    if not reason and not forced and all_different:
        reason, warning = _id_signs(name, numbers, numeric, present)
    if reason:
        note = _join_notes(reason, ambiguous)
        return ColumnDecision(name, None, distinct, missing, note)
    if numeric:
        decision = _numeric_column(name, stats, numbers, reading, distinct)
    else:
        decision = _categorical_column(name, stats, values, distinct)
    if warning:
        return dataclasses.replace(decision, warning=warning)
    return dataclasses.replace(decision, note=_join_notes(decision.note, ambiguous))


def similar_text(similar: Sequence[Sequence[str]]) -> str:
    """Returns words that differ only in case or blanks as text, of many the first few."""
    return join_names([" = ".join(repr(word) for word in words) for words in similar])


def _join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _share(count: int, rows: int) -> float:
    """Returns a share with eight digits, the same on every machine."""
    return float(f"{count / max(1, rows):.8g}")


def _value_counts(stats: ColumnStats) -> pa.Table:
    """Returns the counted values of the column, with their rows n_sum."""
    assert stats.table is not None
    valid = stats.table.filter(pc.is_valid(stats.table["value"]))
    return valid.group_by("value").aggregate([("n", "sum")])


def _parses(stats: ColumnStats, numbers: NumberStats, values: pa.Table) -> bool:
    """Whether a column of text is one of numbers."""
    present = stats.rows - stats.missing
    enough = numbers.parsed + numbers.infinite >= MIN_PARSED * present
    return stats.is_text and enough and not _looks_like_codes(values)


def _looks_like_codes(values: pa.Table) -> bool:
    """Whether the values look like codes with leading zeros."""
    texts = values["value"].slice(0, CODE_SAMPLE).to_pylist()
    return sum(bool(CODE.match(text)) for text in texts) > MAX_CODES * len(texts)


def _why_dropped(stats: ColumnStats, numbers: NumberStats, numeric: bool, distinct: int) -> str:
    """Returns why a column has no content, else ""."""
    present = stats.rows - stats.missing
    if present == 0:
        return EMPTY
    if numeric and numbers.parsed == 0:
        return f"none of its {present} values is finite as float32"
    if distinct == 1 and not stats.missing:
        return "constant"
    return ""


def _id_signs(name: str, numbers: NumberStats, numeric: bool, present: int) -> tuple[str, str]:
    """Returns why a column of different values is dropped as an id, or a warning, or neither."""
    if not numeric:
        return "every value is different: an id, not a feature (--categorical keeps it)", ""
    if not numbers.whole or present < MIN_ROWS_FOR_ROW_NUMBERS:
        return "", ""
    if numbers.high - numbers.low < ID_DENSITY * present:
        return "numbers the rows: an id, not a feature (--numeric keeps it)", ""
    return "", (
        f"{name}: whole numbers that are all different, likely an id: --id, --group or --drop it"
    )


def _choose_reading(stats: ColumnStats, forced: str, commas: bool) -> str:
    """Returns how the column's text becomes numbers.

    It goes by the type of the table, or by what most of the cells are.
    """
    if not stats.is_text:
        return stats.reading
    more = {
        reading: numbers.parsed - stats.numbers.parsed
        for reading, numbers in stats.readings.items()
    }
    present = max(1, stats.rows - stats.missing)
    if more.get(DATE_READING, 0) >= (0.5 if forced else MIN_PARSED) * present:
        return DATE_READING
    if more.get(COMMA_READING, 0) > (0 if commas else stats.thousands):
        return COMMA_READING
    if forced == "numeric" and more.get(BOOLEAN_READING, 0) > 0:
        return BOOLEAN_READING
    return ""


def _numeric_column(
    name: str, stats: ColumnStats, numbers: NumberStats, reading: str, distinct: int
) -> ColumnDecision:
    no_numbers = stats.rows - stats.missing - numbers.parsed - numbers.infinite
    notes = [READING_NOTES.get(reading, "") if stats.is_text else ""]
    if no_numbers:
        notes.append(f"{no_numbers} cells are no numbers: missing")
    if numbers.infinite:
        notes.append(f"{numbers.infinite} infinite: missing")
    missing = _share(stats.rows - numbers.parsed, stats.rows)
    warning = ""
    if numbers.parsed:
        column, more_notes, warning = _with_statistics(name, numbers, missing)
        notes += more_notes
    else:  # the user has forced the column to be numeric
        column = Numeric(name=name, missing=missing)
        notes.append(EMPTY)
        cell = _first_value(stats)
        if cell is not None:
            warning = (
                f"{name}: --numeric keeps it though no cell of a training row is a number, "
                f"such as {cell!r}"
            )
    return ColumnDecision(name, column, distinct, missing, _join_notes(*notes), warning, reading)


def _first_value(stats: ColumnStats) -> str | None:
    assert stats.table is not None
    values: list[str] = stats.table["value"].drop_null().slice(0, 1).to_pylist()
    return values[0] if values else None


def _with_statistics(
    name: str, numbers: NumberStats, missing: float
) -> tuple[Numeric, list[str], str]:
    """Returns a numeric column with its statistics, notes, and a warning or ""."""
    sample = numbers.sample[~np.isnan(numbers.sample)]
    observed = np.r_[sample, numbers.low, numbers.high].astype(np.float32)
    knots = np.quantile(observed, np.linspace(0, 1, QUANTILES))
    # Rounded, so that sums added in another order on another machine give the same file.
    mean, std = _rounded(numbers.mean), _rounded(np.sqrt(numbers.m2 / numbers.parsed))
    notes, warning = [], ""
    step = float(np.spacing(np.float32(max(-numbers.low, numbers.high))))
    if step > MAX_STEP * std and np.any(sample != sample[:1]):
        notes.append(
            f"kept to about {step:g}: values of this size have no more digits here; "
            "subtract an offset"
        )
    if numbers.low == numbers.high:
        mean, std = numbers.low, 1.0
    elif _few_values_dwarf(sample, mean, std):
        mean, std = _robust_centre_and_spread(sample)
        knots = knots.clip(mean - MAX_DEVIATIONS * std, mean + MAX_DEVIATIONS * std)
        above = numbers.high - mean > mean - numbers.low
        huge = numbers.high if above else numbers.low
        warning = (
            f"{name}: a few values such as {huge:g} dwarf the others and are cut; "
            "if that is a code for missing, leave those cells empty"
        )
    quantiles = tuple(float(knot) for knot in np.unique(knots.astype(np.float32)))
    column = Numeric(name=name, mean=mean, std=std, quantiles=quantiles, missing=missing)
    return column, notes, warning


def _rounded(value: float) -> float:
    return float(f"{value:.8g}")


def _few_values_dwarf(sample: FloatArray, mean: float, std: float) -> bool:
    """Whether standardising makes most values one and the same float32 number.

    That is so where a few values are very much larger than all others.
    """
    values = np.unique(sample.astype(np.float32)).astype(np.float64)
    standardised = ((values - mean) / std).astype(np.float32)
    return len(np.unique(standardised)) < 0.5 * len(values)


def _robust_centre_and_spread(sample: FloatArray) -> tuple[float, float]:
    """Returns the median of the different values, and their spread by the quartiles."""
    low, middle, high = np.quantile(np.unique(sample), [0.25, 0.5, 0.75])
    return _rounded(middle), _rounded((high - low) / NORMAL_QUARTILE_RANGE)


def _categorical_column(
    name: str, stats: ColumnStats, values: pa.Table, distinct: int
) -> ColumnDecision:
    present, missing = stats.rows - stats.missing, _share(stats.missing, stats.rows)
    ordered = values.sort_by([("n_sum", "descending"), ("value", "ascending")])["value"]
    vocabulary = tuple(ordered.slice(0, MAX_VOCABULARY).to_pylist())
    notes = []
    if distinct > MAX_VOCABULARY:
        notes.append(
            f"keeps the {MAX_VOCABULARY} most frequent of {distinct} values, "
            "the others count as unseen"
        )
    if not vocabulary:
        notes.append(EMPTY)
    if similar := similar_spellings(vocabulary):
        notes.append(f"categories that differ only in case or blanks: {similar_text(similar)}")
    if stats.is_text and 0 < stats.numbers.parsed < present:
        notes.append(f"mixed: {stats.numbers.parsed} of {present} cells are numbers")
    warning = ""
    if {"train", "test"} <= {word.lower() for word in vocabulary} <= set(SPLIT_NAMES):
        warning = f"{name} looks like a split and is used as a feature: --split-column or --drop it"
    elif distinct > MIN_ID_SHARE * present and distinct >= MIN_ID_VALUES:
        warning = (
            f"{name}: {distinct} different values, likely an id or a group: "
            "--id, --group or --drop it"
        )
    column = Categorical(name=name, vocabulary=vocabulary, missing=missing)
    return ColumnDecision(name, column, distinct, missing, _join_notes(*notes), warning)
