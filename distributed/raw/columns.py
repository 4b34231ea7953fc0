"""Decides what type each table column is, and turns its cells into a shard column."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw.cells import as_numbers, flatten_array, similar_spellings
from distributed.raw.column_stats import ColumnStats
from distributed.raw.number_stats import NumberStats
from distributed.raw.numeric_columns import with_statistics
from distributed.raw.reading_choice import (
    MIN_PARSED,
    ReadingChoice,
    ReadingHints,
    choose_reading,
    several_units,
    words_of,
)
from distributed.raw.readings import describe_reading
from distributed.shards.layout import SPLIT_NAMES
from model.schema import Categorical, Numeric, join_names

MAX_CODES = 0.05  # unless more of its values look like codes
CODE_SAMPLE = 1000  # values that are looked at for that
EXAMPLES = 100  # values that an example is chosen from
MAX_VOCABULARY = 1000  # values that a category keeps
MIN_ROWS_FOR_ID = 10  # of fewer rows, all different values are no sign of an id
MIN_ROWS_FOR_ROW_NUMBERS = 100  # the same for whole numbers
# Different whole numbers within a range of fewer than this many times their count are taken for
# numbers of the rows.
ID_DENSITY = 10
MIN_ID_VALUES, MIN_ID_SHARE = 20, 0.8  # different values, and their share, of a likely id
MIN_TEXT_WORDS, MIN_TEXT_SHARE = 3, 0.5  # words of a cell, and different cells, of free text
EMPTY = "no training row has a value"
CODE = re.compile(r"^0\d+$")  # 00712 is a code, not a number
CODE_CANDIDATE = "^0[^.]"  # Arrow sorts the others out, which is quicker for thousands of columns


@dataclass(frozen=True)
class ColumnDecision:
    """What a source column becomes.

    column: None for a dropped one.
    distinct, missing: the number of different values and the share of missing ones.
    note: what the user should know. warning: what may spoil the result.
    reading: how text becomes the column's numbers, see readings.py; "" for plain numbers.
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
    name: str, stats: ColumnStats, forced: str = "", hints: ReadingHints | None = None
) -> ColumnDecision:
    """Returns the column's type and statistics, or why it is dropped.

    forced: numeric or categorical, where the user says so. hints: what is known of text that has
    several meanings.
    """
    values = _value_counts(stats)
    distinct = values.num_rows + stats.uncounted
    missing = _share(stats.missing, stats.rows)
    choice = choose_reading(stats, forced == "numeric", hints or ReadingHints())
    numbers = choice.numbers
    has_reading = stats.is_text and bool(choice.reading)
    looks_numeric = stats.is_number or has_reading or _parses(stats, numbers, values)
    numeric = forced == "numeric" or (not forced and looks_numeric)
    reason = "" if forced else _why_dropped(stats, numbers, numeric, distinct)
    # Of one value and gaps, the information is where the gaps are.
    if not forced and numeric and not (numbers.low < numbers.high or distinct > 1):
        numeric = False
    warning = ""
    if not reason and not forced:
        reason, warning = _why_no_feature(name, stats, values, choice, numeric)
    if reason:
        return ColumnDecision(name, None, distinct, missing, reason)
    if numeric:
        decision = _numeric_column(name, stats, choice, distinct)
    else:
        decision = _categorical_column(name, stats, values, distinct)
    return dataclasses.replace(decision, warning=warning) if warning else decision


def _why_no_feature(
    name: str, stats: ColumnStats, values: pa.Table, choice: ReadingChoice, numeric: bool
) -> tuple[str, str]:
    """Returns why a column is dropped though it has content, or a warning, or neither."""
    present, distinct = stats.rows - stats.missing, values.num_rows + stats.uncounted
    if choice.problem and not numeric:
        return f"{choice.problem} (--categorical keeps it)", ""
    if stats.is_text and not numeric and _is_free_text(values, present, distinct):
        return "free text, which is not read (--categorical keeps it)", ""
    if choice.reading or present < MIN_ROWS_FOR_ID or distinct < present:
        return "", ""
    if not numeric and (units := several_units(stats)):
        return f"{units}: write one unit (--categorical keeps it)", ""
    return _id_signs(name, choice.numbers, numeric, present)


def _is_free_text(values: pa.Table, present: int, distinct: int) -> bool:
    """Whether the cells have many words and are mostly different."""
    if present < MIN_ROWS_FOR_ID or distinct < MIN_TEXT_SHARE * present:
        return False
    words = pc.count_substring_regex(values["value"], r"\S+")
    rows = values["n_sum"]
    return bool(pc.sum(pc.multiply(words, rows)).as_py() >= MIN_TEXT_WORDS * pc.sum(rows).as_py())


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
    valid = stats.table.filter(pc.is_valid(stats.table["value"])).combine_chunks()
    # Arrow's group_by takes twice as long, which thousands of columns notice.
    encoded = flatten_array(valid["value"]).dictionary_encode()
    rows = np.zeros(len(encoded.dictionary), dtype=np.int64)
    np.add.at(rows, encoded.indices.to_numpy(), valid["n"].to_numpy())
    return pa.table({"value": encoded.dictionary, "n_sum": rows})


def _parses(stats: ColumnStats, numbers: NumberStats, values: pa.Table) -> bool:
    """Whether a column of text is one of numbers."""
    present = stats.rows - stats.missing
    enough = numbers.parsed + numbers.infinite >= MIN_PARSED * present
    return stats.is_text and enough and not _looks_like_codes(values)


def _looks_like_codes(values: pa.Table) -> bool:
    """Whether the values look like codes with leading zeros."""
    texts = values["value"].slice(0, CODE_SAMPLE)
    candidates = texts.filter(pc.match_substring_regex(texts, CODE_CANDIDATE)).to_pylist()
    return sum(bool(CODE.match(text)) for text in candidates) > MAX_CODES * len(texts)


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


def _numeric_column(
    name: str, stats: ColumnStats, choice: ReadingChoice, distinct: int
) -> ColumnDecision:
    numbers, reading = choice.numbers, choice.reading
    no_numbers = stats.rows - stats.missing - numbers.parsed - numbers.infinite
    notes = []
    if stats.is_text and reading:
        notes.append(describe_reading(reading, _longest_read(stats, reading)))
    if no_numbers:
        notes.append(f"{no_numbers} cells are no numbers: missing{_unread_example(stats, reading)}")
    if numbers.infinite:
        notes.append(f"{numbers.infinite} infinite: missing")
    missing = _share(stats.rows - numbers.parsed, stats.rows)
    warning = ""
    if numbers.parsed:
        column, more_notes, warning = with_statistics(name, numbers, missing)
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
    if choice.problem:  # the user has forced the column to be numeric
        warning = f"{name}: {choice.problem}"
    elif choice.warning:
        warning = warning or f"{name}: {choice.warning}"
    return ColumnDecision(name, column, distinct, missing, _join_notes(*notes), warning, reading)


def _longest_read(stats: ColumnStats, reading: str) -> str | None:
    """Returns the longest of some cells that are numbers: it shows most marks."""
    words = words_of(stats)[:EXAMPLES]
    is_read = ~np.isnan(as_numbers(words, reading)[0])
    cells: list[str] = words.filter(pa.array(is_read)).to_pylist()
    return max(cells, key=len, default=None)


def _unread_example(stats: ColumnStats, reading: str) -> str:
    """Returns one of the cells that are no numbers, in brackets; "" where none is known."""
    if not stats.is_text:
        return ""
    words = words_of(stats)
    numbers, _, _ = as_numbers(words, reading)
    unread = words.filter(pa.array(np.isnan(numbers)))
    return f" (such as {unread[0].as_py()!r})" if len(unread) else ""


def _first_value(stats: ColumnStats) -> str | None:
    assert stats.table is not None
    values: list[str] = stats.table["value"].drop_null().slice(0, 1).to_pylist()
    return values[0] if values else None


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
