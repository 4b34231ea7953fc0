"""Table columns: what type each one is, its training statistics (partial sums that combine), and its cells as shard columns."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from distributed.splits import NAMES
from model.schema import Categorical, Numeric

MISSING_WORDS = pa.array(["", "NA", "N/A", "#N/A", "NaN", "nan", "NAN", "null", "NULL", "<NA>"])  # "None" may be a category
PARSED = 0.95  # a text column of which this share parses is numeric
VOCABULARY = 1000  # values that a category keeps
COUNTED = 20_000  # distinct values of a block that are counted one by one
DENSE = 10  # different whole numbers within a range of this many times their count are taken for ids
KNOTS = 33  # quantiles kept for a numeric column
LARGEST = float(np.finfo(np.float32).max)
CODE = re.compile(r"^0\d+$")  # 00712 is a code, not a number


@dataclass
class Counts:
    """What is known of one column over some training rows. table: value, label, n; `uncounted` rows had values beyond COUNTED."""

    rows: int = 0
    missing: int = 0
    infinite: int = 0
    parsed: int = 0  # finite numbers
    whole: bool = True  # every number is an integer
    n_mean: float = 0.0
    m2: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    table: pa.Table | None = None
    uncounted: int = 0
    sample: np.ndarray = field(default_factory=lambda: np.zeros(0))
    is_number: bool = False  # by the table's own type
    text: bool = True


@dataclass(frozen=True)
class Decision:
    """column is None for a dropped column; note says what the user should know, warning what may spoil the result."""

    name: str
    column: Numeric | Categorical | None
    distinct: int
    missing: float
    note: str = ""
    warning: str = ""

    @property
    def kind(self) -> str:
        return "dropped" if self.column is None else "number" if isinstance(self.column, Numeric) else "category"


def flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One plain array: chunks joined, dictionaries decoded."""
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def usable(kind: pa.DataType) -> bool:
    """Whether a column of this Arrow type can be a feature."""
    t = pa.types
    if t.is_dictionary(kind):
        return usable(kind.value_type)
    return any(
        test(kind)
        for test in (t.is_integer, t.is_floating, t.is_boolean, t.is_string, t.is_large_string, t.is_decimal, t.is_temporal, t.is_null)
    )


def as_text(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Cells as trimmed strings, null where missing; whole floats read as integers (a code column with gaps comes as floats)."""
    array = flat(array)
    if pa.types.is_floating(array.type):
        values = array.cast(pa.float64())
        whole = pc.and_(pc.is_finite(values), pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2**53)))
        if pc.all(pc.fill_null(pc.or_(whole, pc.is_nan(values)), True)).as_py():
            array = pc.if_else(pc.is_nan(values), None, values).cast(pa.int64())
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        array = array.cast(pa.string())
    words = pc.utf8_trim_whitespace(array.cast(pa.large_string()))
    return pc.if_else(pc.is_in(words, value_set=MISSING_WORDS.cast(pa.large_string())), None, words)


def as_numbers(array: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, int]:
    """Cells as float64 with NaN where there is no finite number, which cells are empty, and how many were infinite."""
    array = flat(array)
    kind = array.type
    if pa.types.is_temporal(kind):
        array = _seconds(array)
    elif pa.types.is_decimal(kind) or pa.types.is_null(kind):
        array = array.cast(pa.float64())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        words = as_text(array)
        empty = words.is_null().to_numpy(zero_copy_only=False)
        values = pd.to_numeric(pd.Series(words.to_numpy(zero_copy_only=False), dtype=object), errors="coerce")
        values = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        empty = np.isnan(values)
    infinite = np.isinf(values) | (np.abs(values) > LARGEST)
    return np.where(infinite, np.nan, values), empty, int(infinite.sum())


def _seconds(array: pa.Array) -> pa.Array:
    """Times as seconds."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(array.type):
        return pc.divide(array.cast(pa.timestamp("us", tz=array.type.tz)).cast(pa.int64()).cast(pa.float64()), 1e6)
    if pa.types.is_duration(array.type):
        return pc.divide(array.cast(pa.duration("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
    return pc.divide(array.cast(pa.time64("us")).cast(pa.int64()).cast(pa.float64()), 1e6)


def count(array: pa.Array | pa.ChunkedArray, labels: np.ndarray, sample: np.ndarray) -> Counts:
    """The counts of one block's training rows; `sample` says which of them are in the sample for quantiles."""
    array = flat(array)
    kind = array.type
    values, empty, infinite = as_numbers(array)
    finite = values[~np.isnan(values)].astype(np.float32).astype(np.float64)  # statistics of what the shards will hold
    found = Counts(
        rows=len(array),
        missing=int(empty.sum()),
        infinite=infinite,
        parsed=len(finite),
        whole=bool(np.all(finite == np.floor(finite))),
        sample=values[sample],
        is_number=not (pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)),
        text=pa.types.is_string(kind) or pa.types.is_large_string(kind),
    )
    if len(finite):
        found.n_mean, found.low, found.high = float(finite.mean()), float(finite.min()), float(finite.max())
        found.m2 = float(((finite - found.n_mean) ** 2).sum())
    pairs = pa.table({"value": as_text(array), "label": pa.array(labels, pa.int32())})
    found.table, found.uncounted = _most_frequent(_grouped(pairs.append_column("n", pa.array(np.ones(len(labels), dtype=np.int64)))))
    return found


def _grouped(pairs: pa.Table) -> pa.Table:
    return pairs.group_by(["value", "label"]).aggregate([("n", "sum")]).rename_columns(["value", "label", "n"])


def _most_frequent(pairs: pa.Table) -> tuple[pa.Table, int]:
    if pairs.num_rows <= COUNTED:
        return pairs, 0
    totals = pairs.group_by("value").aggregate([("n", "sum")]).sort_by([("n_sum", "descending"), ("value", "ascending")])
    if totals.num_rows <= COUNTED:
        return pairs, 0
    kept = pairs.filter(pc.is_in(pairs["value"], value_set=totals["value"].slice(0, COUNTED).combine_chunks()))
    return kept, int(pc.sum(totals["n_sum"].slice(COUNTED)).as_py())


def combine(parts: Sequence[Counts]) -> Counts:
    """The counts of all blocks together (means and squares by Chan's rule)."""
    total = Counts(is_number=parts[0].is_number, text=parts[0].text)
    for part in parts:
        n = total.parsed + part.parsed
        if part.parsed:
            shift = part.n_mean - total.n_mean
            total.m2 += part.m2 + shift * shift * total.parsed * part.parsed / n
            total.n_mean += shift * part.parsed / n
        total.parsed = n
        total.rows += part.rows
        total.missing += part.missing
        total.infinite += part.infinite
        total.uncounted += part.uncounted
        total.whole = total.whole and part.whole
        total.low, total.high = min(total.low, part.low), max(total.high, part.high)
    total.table = _grouped(pa.concat_tables([p.table for p in parts if p.table is not None]))
    total.sample = np.concatenate([p.sample for p in parts])
    return total


def decide(name: str, counts: Counts, forced: str = "") -> Decision:
    """The column's type and statistics, or why it is dropped. forced: numeric or categorical, as the user said."""
    assert counts.table is not None
    present = counts.rows - counts.missing
    values = counts.table.filter(pc.is_valid(counts.table["value"])).group_by("value").aggregate([("n", "sum")])
    distinct = values.num_rows + counts.uncounted
    missing = float(f"{counts.missing / max(1, counts.rows):.8g}")
    parses = counts.text and counts.parsed + counts.infinite >= PARSED * present and not _codes(values)
    numeric = forced == "numeric" or (not forced and (counts.is_number or parses))

    def dropped(note: str) -> Decision:
        return Decision(name, None, distinct, missing, note)

    if present == 0 or (numeric and counts.parsed == 0):
        return dropped("no training row has a value")
    if distinct == 1 and not counts.missing:
        return dropped("constant")
    numeric = numeric and (counts.low < counts.high or distinct > 1)  # one value and gaps: what it tells is where the gaps are
    if not forced and present >= 10 and distinct == present:
        if not numeric:
            return dropped("every value is different: an id, not a feature (--categorical keeps it)")
        if counts.whole and present >= 100:
            if counts.high - counts.low < DENSE * present:
                return dropped("numbers the rows: an id, not a feature (--numeric keeps it)")
            warning = f"{name}: whole numbers that are all different, likely an id: --id, --group or --drop it"
            return dataclasses.replace(_numeric(name, counts, distinct, missing), warning=warning)
    if numeric:
        return _numeric(name, counts, distinct, missing)
    return _categorical(name, counts, values, distinct, missing)


def _codes(values: pa.Table) -> bool:
    """Whether the values look like codes with leading zeros."""
    words = values["value"].slice(0, 1000).to_pylist()
    return sum(bool(CODE.match(w)) for w in words) > 0.05 * len(words)


def _numeric(name: str, counts: Counts, distinct: int, missing: float) -> Decision:
    bad = counts.rows - counts.missing - counts.parsed - counts.infinite
    notes = [f"{bad} cells are no numbers: missing"] * bool(bad) + [f"{counts.infinite} infinite: missing"] * bool(counts.infinite)
    gone = float(f"{(counts.rows - counts.parsed) / max(1, counts.rows):.8g}")
    known = np.r_[counts.sample[~np.isnan(counts.sample)], counts.low, counts.high].astype(np.float32)
    knots = np.unique(np.quantile(known, np.linspace(0, 1, KNOTS)).astype(np.float32))
    # Rounded, so that sums added in another order on another machine give the same file.
    mean, std = float(f"{counts.n_mean:.8g}"), float(f"{np.sqrt(counts.m2 / counts.parsed):.8g}")
    column = Numeric(name=name, mean=mean, std=std or 1.0, quantiles=tuple(float(k) for k in knots), missing=gone)
    return Decision(name, column, distinct, gone, "; ".join(notes))


def _categorical(name: str, counts: Counts, values: pa.Table, distinct: int, missing: float) -> Decision:
    ordered = values.sort_by([("n_sum", "descending"), ("value", "ascending")])["value"]
    vocabulary = tuple(ordered.slice(0, VOCABULARY).to_pylist())
    notes = [f"keeps the {VOCABULARY} most frequent of {distinct} values, the others count as unseen"] * (distinct > VOCABULARY)
    if 0 < counts.parsed < counts.rows - counts.missing and counts.text:
        notes.append(f"mixed: {counts.parsed} of {counts.rows - counts.missing} cells are numbers")
    likely_id = distinct > 0.8 * (counts.rows - counts.missing) and distinct >= 20
    warning = f"{name}: {distinct} different values, likely an id or a group: --id, --group or --drop it" if likely_id else ""
    if {"train", "test"} <= {word.lower() for word in vocabulary} <= set(NAMES):
        warning = f"{name} looks like a split and is used as a feature: --split-column or --drop it"
    return Decision(name, Categorical(name=name, vocabulary=vocabulary, missing=missing), distinct, missing, "; ".join(notes), warning)


def encode(array: pa.Array | pa.ChunkedArray, column: Numeric | Categorical) -> pa.Array:
    """Cells as a shard column: float32 with nulls, or int32 ids with -1 missing and len(vocabulary) unseen."""
    if isinstance(column, Numeric):
        values = as_numbers(array)[0].astype(np.float32)
        return pa.array(values, mask=np.isnan(values))
    words = as_text(array)
    ids = pc.index_in(words, value_set=pa.array(column.vocabulary, pa.large_string()), skip_nulls=True)
    return pc.if_else(pc.is_null(words), -1, pc.fill_null(ids, len(column.vocabulary))).cast(pa.int32())


def absent(rows: int, column: Numeric | Categorical) -> pa.Array:
    """A shard column of a modality that none of the rows has."""
    if isinstance(column, Numeric):
        return pa.nulls(rows, pa.float32())
    return pa.array(np.full(rows, -1, dtype=np.int32))
