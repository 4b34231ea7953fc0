"""Table columns: what type each one is, its training statistics (partial sums that combine), and its cells as shard columns."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw.cells import (
    BOOLEAN_READING,
    COMMA_READING,
    DATE_READING,
    READINGS,
    as_numbers,
    as_text,
    canonical_spellings,
    count_thousands,
    flatten_array,
    is_text,
)
from distributed.shards.layout import SPLIT_NAMES
from model.schema import MAX_DEVIATIONS, Categorical, Numeric

MIN_PARSED = 0.95  # a text column of which this share parses is numeric
MAX_VOCABULARY = 1000  # values that a category keeps
MAX_COUNTED = 20_000  # distinct values of a block that are counted one by one
ID_DENSITY = (
    10  # different whole numbers within a range of this many times their count are taken for ids
)
MAX_STEP = 0.01  # share of the spread: numbers that float32 keeps in larger steps are said
QUANTILES = 33  # quantiles kept for a numeric column
READING_NOTES = {
    DATE_READING: "dates: seconds since 1970",
    COMMA_READING: "decimal commas: numbers (a dot is a decimal point too)",
}
EMPTY = "no training row has a value"
CODE = re.compile(r"^0\d+$")  # 00712 is a code, not a number


@dataclass
class NumberStats:
    """The finite numbers of some cells, and how many were infinite."""

    parsed: int = 0
    infinite: int = 0
    whole: bool = True  # every number is an integer
    mean: float = 0.0
    m2: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    sample: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass
class ColumnStats:
    """What is known of one column over some training rows. table: value, label, n; `uncounted` rows had values beyond COUNTED."""

    rows: int = 0
    missing: int = 0
    numbers: NumberStats = field(default_factory=NumberStats)
    readings: dict[str, NumberStats] = field(
        default_factory=dict
    )  # of text: the numbers by each reading that finds more of them
    thousands: int = 0  # cells such as 1,234
    table: pa.Table | None = None
    uncounted: int = 0
    is_number: bool = False  # by the table's own type
    text: bool = True
    reading: str = (
        ""  # by the table's own type: how the same cells are read where they come as text
    )


@dataclass(frozen=True)
class ColumnDecision:
    """column is None for a dropped column; note says what the user should know, warning what may spoil the result."""

    name: str
    column: Numeric | Categorical | None
    distinct: int
    missing: float
    note: str = ""
    warning: str = ""
    reading: str = ""  # how text becomes the column's numbers; one of READINGS, or plainly

    @property
    def kind(self) -> str:
        return (
            "dropped"
            if self.column is None
            else "number"
            if isinstance(self.column, Numeric)
            else "category"
        )


def is_usable(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type can be a feature."""
    t = pa.types
    if t.is_dictionary(kind):
        return is_usable(kind.value_type)
    return any(
        test(kind)
        for test in (
            t.is_integer,
            t.is_floating,
            t.is_boolean,
            t.is_string,
            t.is_large_string,
            t.is_decimal,
            t.is_temporal,
            t.is_null,
        )
    )


def column_stats(
    array: pa.Array | pa.ChunkedArray, labels: np.ndarray, sample: np.ndarray
) -> ColumnStats:
    """The counts of one block's training rows; `sample` says which of them are in the sample for quantiles."""
    array = flatten_array(array)
    kind = array.type
    values, empty, infinite = as_numbers(array)
    found = ColumnStats(
        rows=len(array),
        missing=int(empty.sum()),
        numbers=_numbers(values, infinite, sample),
        is_number=not (pa.types.is_boolean(kind) or is_text(kind) or pa.types.is_null(kind)),
        text=is_text(kind),
        reading=DATE_READING
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind)
        else BOOLEAN_READING
        if pa.types.is_boolean(kind)
        else "",
    )
    if found.text and found.numbers.parsed + infinite + found.missing < found.rows:
        odd = pc.unique(as_text(array).filter(pa.array(np.isnan(values) & ~empty)))
        for reading, read in READINGS.items():
            if not np.isnan(read(odd)).all():
                values, _, infinite = as_numbers(array, reading)
                found.readings[reading] = _numbers(values, infinite, sample)
        found.thousands = count_thousands(array)
    pairs = pa.table({"value": as_text(array), "label": pa.array(labels, pa.int32())})
    found.table, found.uncounted = _most_frequent(
        _grouped(pairs.append_column("n", pa.array(np.ones(len(labels), dtype=np.int64))))
    )
    return found


def _numbers(values: np.ndarray, infinite: int, sample: np.ndarray) -> NumberStats:
    exact = values[~np.isnan(values)]
    finite = exact.astype(np.float32).astype(np.float64)  # statistics of what the shards will hold
    found = NumberStats(
        parsed=len(finite),
        infinite=infinite,
        whole=bool(np.all(exact == np.floor(exact))),
        sample=values[sample],
    )
    if len(finite):
        found.mean, found.low, found.high = (
            float(finite.mean()),
            float(finite.min()),
            float(finite.max()),
        )
        found.m2 = float(((finite - found.mean) ** 2).sum())
    return found


def _grouped(pairs: pa.Table) -> pa.Table:
    return (
        pairs.group_by(["value", "label"])
        .aggregate([("n", "sum")])
        .rename_columns(["value", "label", "n"])
    )


def _most_frequent(pairs: pa.Table) -> tuple[pa.Table, int]:
    if pairs.num_rows <= MAX_COUNTED:
        return pairs, 0
    totals = (
        pairs.group_by("value")
        .aggregate([("n", "sum")])
        .sort_by([("n_sum", "descending"), ("value", "ascending")])
    )
    if totals.num_rows <= MAX_COUNTED:
        return pairs, 0
    kept = pairs.filter(
        pc.is_in(pairs["value"], value_set=totals["value"].slice(0, MAX_COUNTED).combine_chunks())
    )
    return kept, int(pc.sum(totals["n_sum"].slice(MAX_COUNTED)).as_py())


def combine_stats(parts: Sequence[ColumnStats]) -> ColumnStats:
    """The counts of all blocks together."""
    total = ColumnStats(is_number=parts[0].is_number, text=parts[0].text, reading=parts[0].reading)
    for part in parts:
        total.rows += part.rows
        total.missing += part.missing
        total.thousands += part.thousands
        total.uncounted += part.uncounted
    total.table = _grouped(pa.concat_tables([p.table for p in parts if p.table is not None]))
    total.numbers = _joined([p.numbers for p in parts])
    for reading in READINGS:
        if any(reading in p.readings for p in parts):
            total.readings[reading] = _joined([p.readings.get(reading, p.numbers) for p in parts])
    return total


def _joined(parts: Sequence[NumberStats]) -> NumberStats:
    """Means and squares by Chan's rule."""
    total = NumberStats(sample=np.concatenate([p.sample for p in parts]))
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


def decide_column(
    name: str, counts: ColumnStats, forced: str = "", commas: bool = False
) -> ColumnDecision:
    """The column's type and statistics, or why it is dropped. forced: numeric or categorical, as the user said.

    commas: the table is one whose cells are separated by ;, in which 1,234 is a decimal.
    """
    assert counts.table is not None
    present = counts.rows - counts.missing
    values = (
        counts.table.filter(pc.is_valid(counts.table["value"]))
        .group_by("value")
        .aggregate([("n", "sum")])
    )
    distinct = values.num_rows + counts.uncounted
    missing = float(f"{counts.missing / max(1, counts.rows):.8g}")
    reading = _reading(counts, forced, commas)
    found = counts.readings.get(reading, counts.numbers)
    parses = (
        counts.text and found.parsed + found.infinite >= MIN_PARSED * present and not _codes(values)
    )
    numeric = forced == "numeric" or (not forced and (counts.is_number or parses))
    unclear = "; cells such as 1,234 may be thousands or decimals: write plain numbers" * (
        counts.thousands > 0 and reading != COMMA_READING
    )

    def dropped(note: str) -> ColumnDecision:
        return ColumnDecision(name, None, distinct, missing, note + unclear)

    if not forced and (present == 0 or (numeric and found.parsed == 0)):
        return dropped(f"none of its {present} values is finite as float32" if present else EMPTY)
    if distinct == 1 and not counts.missing and not forced:
        return dropped("constant")
    # One value and gaps: what it tells is where the gaps are.
    numeric = numeric and (forced == "numeric" or found.low < found.high or distinct > 1)
    if not forced and present >= 10 and distinct == present:
        if not numeric:
            return dropped(
                "every value is different: an id, not a feature (--categorical keeps it)"
            )
        if found.whole and present >= 100:
            if found.high - found.low < ID_DENSITY * present:
                return dropped("numbers the rows: an id, not a feature (--numeric keeps it)")
            warning = f"{name}: whole numbers that are all different, likely an id: --id, --group or --drop it"
            return dataclasses.replace(
                _numeric(name, counts, found, reading, distinct), warning=warning
            )
    decision = (
        _numeric(name, counts, found, reading, distinct)
        if numeric
        else _categorical(name, counts, values, distinct, missing)
    )
    return dataclasses.replace(decision, note=(decision.note + unclear).removeprefix("; "))


def _reading(counts: ColumnStats, forced: str, commas: bool) -> str:
    """How the column's text becomes numbers: by the type of the table, or by what most of its cells are."""
    if not counts.text:
        return counts.reading
    more = {
        reading: numbers.parsed - counts.numbers.parsed
        for reading, numbers in counts.readings.items()
    }
    if more.get(DATE_READING, 0) >= (0.5 if forced else MIN_PARSED) * max(
        1, counts.rows - counts.missing
    ):
        return DATE_READING
    if more.get(COMMA_READING, 0) > (0 if commas else counts.thousands):
        return COMMA_READING
    return BOOLEAN_READING if forced == "numeric" and more.get(BOOLEAN_READING, 0) > 0 else ""


def _codes(values: pa.Table) -> bool:
    """Whether the values look like codes with leading zeros."""
    words = values["value"].slice(0, 1000).to_pylist()
    return sum(bool(CODE.match(w)) for w in words) > 0.05 * len(words)


def _numeric(
    name: str, counts: ColumnStats, found: NumberStats, reading: str, distinct: int
) -> ColumnDecision:
    bad = counts.rows - counts.missing - found.parsed - found.infinite
    notes = [READING_NOTES[reading]] if counts.text and reading in READING_NOTES else []
    notes += [f"{bad} cells are no numbers: missing"] * bool(bad) + [
        f"{found.infinite} infinite: missing"
    ] * bool(found.infinite)
    gone = float(f"{(counts.rows - found.parsed) / max(1, counts.rows):.8g}")
    if not found.parsed:  # --numeric keeps it
        cells = (
            []
            if counts.table is None
            else counts.table["value"].drop_null().slice(0, 1).to_pylist()
        )
        warnings = [
            f"{name}: --numeric keeps it though no cell of a training row is a number, such as {cell!r}"
            for cell in cells
        ]
        return ColumnDecision(
            name,
            Numeric(name=name, missing=gone),
            distinct,
            gone,
            "; ".join([*notes, EMPTY]),
            "".join(warnings),
            reading,
        )
    sample = found.sample[~np.isnan(found.sample)]
    known = np.r_[sample, found.low, found.high].astype(np.float32)
    knots = np.quantile(known, np.linspace(0, 1, QUANTILES))
    # Rounded, so that sums added in another order on another machine give the same file.
    mean, std = float(f"{found.mean:.8g}"), float(f"{np.sqrt(found.m2 / found.parsed):.8g}")
    warning = ""
    step = float(np.spacing(np.float32(max(-found.low, found.high))))
    if step > MAX_STEP * std and np.any(sample != sample[:1]):
        notes.append(
            f"kept to about {step:g}: values of this size have no more digits here; subtract an offset"
        )
    if found.low == found.high:
        mean, std = found.low, 1.0
    elif _dwarfed(sample, mean, std):
        mean, std = _inner(sample)
        knots = knots.clip(mean - MAX_DEVIATIONS * std, mean + MAX_DEVIATIONS * std)
        huge = found.high if found.high - mean > mean - found.low else found.low
        warning = f"{name}: a few values such as {huge:g} dwarf the others and are cut; if that is a code for missing, leave those cells empty"
    quantiles = tuple(float(k) for k in np.unique(knots.astype(np.float32)))
    column = Numeric(name=name, mean=mean, std=std, quantiles=quantiles, missing=gone)
    return ColumnDecision(name, column, distinct, gone, "; ".join(notes), warning, reading)


def _dwarfed(sample: np.ndarray, mean: float, std: float) -> bool:
    """Whether a few values are so large that most others are one and the same number once all are standardised."""
    values = np.unique(sample.astype(np.float32)).astype(np.float64)
    return len(np.unique(((values - mean) / std).astype(np.float32))) < 0.5 * len(values)


def _inner(sample: np.ndarray) -> tuple[float, float]:
    """Centre and spread by the quartiles of the different values, as a normal distribution has them."""
    low, middle, high = np.quantile(np.unique(sample), [0.25, 0.5, 0.75])
    return float(f"{middle:.8g}"), float(f"{(high - low) / 1.349:.8g}")


def _categorical(
    name: str, counts: ColumnStats, values: pa.Table, distinct: int, missing: float
) -> ColumnDecision:
    ordered = values.sort_by([("n_sum", "descending"), ("value", "ascending")])["value"]
    vocabulary = tuple(ordered.slice(0, MAX_VOCABULARY).to_pylist())
    notes = [
        f"keeps the {MAX_VOCABULARY} most frequent of {distinct} values, the others count as unseen"
    ] * (distinct > MAX_VOCABULARY)
    notes += [EMPTY] * (not vocabulary)
    if 0 < counts.numbers.parsed < counts.rows - counts.missing and counts.text:
        notes.append(
            f"mixed: {counts.numbers.parsed} of {counts.rows - counts.missing} cells are numbers"
        )
    likely_id = distinct > 0.8 * (counts.rows - counts.missing) and distinct >= 20
    warning = (
        f"{name}: {distinct} different values, likely an id or a group: --id, --group or --drop it"
        if likely_id
        else ""
    )
    if {"train", "test"} <= {word.lower() for word in vocabulary} <= set(SPLIT_NAMES):
        warning = f"{name} looks like a split and is used as a feature: --split-column or --drop it"
    return ColumnDecision(
        name,
        Categorical(name=name, vocabulary=vocabulary, missing=missing),
        distinct,
        missing,
        "; ".join(notes),
        warning,
    )


def encode_column(
    array: pa.Array | pa.ChunkedArray, column: Numeric | Categorical, reading: str = ""
) -> tuple[pa.Array, int]:
    """Cells as a shard column, and how many of them hold what tells nothing: no number, or a category that is not in the vocabulary.

    The column is float32 with nulls, or int32 ids with -1 missing and len(vocabulary) unseen.
    """
    if isinstance(column, Numeric):
        found, empty, _ = as_numbers(array, reading)
        values = found.astype(np.float32)
        gone = np.isnan(values)
        return pa.array(values, mask=gone), int((gone & ~empty).sum())
    words = as_text(array)
    ids = pc.index_in(
        words,
        value_set=canonical_spellings(pa.array(column.vocabulary, pa.large_string())),
        skip_nulls=True,
    )
    unseen = ids.null_count - words.null_count
    return pc.if_else(pc.is_null(words), -1, pc.fill_null(ids, len(column.vocabulary))).cast(
        pa.int32()
    ), unseen


def absent_column(rows: int, column: Numeric | Categorical) -> pa.Array:
    """A shard column of a modality that none of the rows has."""
    return (
        pa.nulls(rows, pa.float32())
        if isinstance(column, Numeric)
        else pa.array(np.full(rows, -1, dtype=np.int32))
    )
