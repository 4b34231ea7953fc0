"""Decides which rows are refused, and the split, class and place of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distributed.ingestion.blocks import RowAssignment
from distributed.ingestion.drop_list import refuse_listed
from distributed.ingestion.leaks import crossing_groups, missing_words, scarce_in_train
from distributed.ingestion.roles import ColumnRoles
from distributed.ingestion.splits import (
    HashArray,
    assign_splits,
    hash_ids,
    rank_within_class,
    reseed,
    shuffled_positions,
)
from distributed.ingestion.summary import IdentityColumn, IngestReport
from distributed.raw.cells import similar_spellings
from distributed.raw.columns import similar_text
from distributed.raw.rows import EMPTY_ROW, GROUP, ID, LABEL, REASON, SPLIT
from distributed.raw.table import RawTable, sample_rows
from distributed.runtime.errors import OptionError
from distributed.shards.layout import REFUSED_SPLIT, SPLIT_NAMES, SPLITS, TEST, TRAIN, VAL
from distributed.shards.sampling import IntArray
from model.schema import join_names

# The shares of the training rows that are cut off where a given split has no such rows.
CUT_SHARES = {VAL: 1 / 8, TEST: 1 / 5}
MAX_PLAUSIBLE_CLASSES = (
    100  # more classes are taken for a mistake, unless there are two rows for each
)

MAX_REPEATS = 0.5  # share of the rows whose id is a repeated one: from here on it is no id

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SplitAssignment:
    """Where every row goes, the class names, and the refused rows with their reasons."""

    rows: RowAssignment
    classes: tuple[str, ...]
    rejected: pa.Table


@dataclass(frozen=True)
class _Units:
    """Sets of rows that must stay in one split: groups, or single rows.

    of_row: the unit of every good row, from 0. order: a seeded hash of every unit.
    """

    of_row: IntArray
    order: HashArray


def assign_rows(
    identities: pa.Table,
    roles: ColumnRoles,
    fractions: tuple[float, float, float],
    seed: int,
    report: IngestReport,
) -> SplitAssignment:
    """Returns class, split, rank and place of every row that is not refused.

    identities: from passes.collect_identities. What the user should know goes to the report.
    """
    n = identities.num_rows
    ids = identities[ID].to_pylist() if roles.id else [str(i) for i in range(n)]
    reasons = identities[REASON].to_pylist()
    _refuse_duplicates(ids, reasons, roles.id)
    given = _given_split(identities, roles, reasons) if roles.split else None
    good = np.array([reason is None for reason in reasons], dtype=bool)
    report.identities = _identity_columns(identities, roles)
    for name in (LABEL, GROUP, ID):
        if name in identities.column_names:
            for line in missing_words(name, identities[name]):
                report.warn(line)
    _refuse_if_none_is_usable(good, reasons, report)
    classes, labels = _code_classes(identities[LABEL], good, roles.label)
    _warn_of_similar_classes(classes, report)
    hashes = hash_ids("" if name is None else name for name in ids)
    order = reseed(hashes, seed)
    group_names = identities[GROUP] if roles.group else None
    groups = None if group_names is None else _group_numbers(group_names)
    if groups is None or group_names is None:
        units = _Units(np.arange(int(good.sum())), order[good])
    else:
        units = _group_units(groups, group_names, order, good, seed)
    split = np.full(n, REFUSED_SPLIT, dtype=np.int64)
    if given is None:
        split[good] = assign_splits(labels[good], units.of_row, units.order, fractions)
    else:
        split[good] = given[good]
        if groups is not None:
            report.warn(crossing_groups(groups, split))
        _fill_given(split, labels, good, units, report)
    refuse_listed(ids, roles.drop_ids, split, reasons, report)
    report.add_refused(reasons)
    report.add_classes(classes, labels, split)
    if groups is not None and given is None:
        report.warn(scarce_in_train(classes, report.totals_CS, fractions[0]))
    rows = RowAssignment(
        split=split,
        labels=labels,
        rank=rank_within_class(split, labels, hashes),
        position=shuffled_positions(split, order),
    )
    refused_ids = pa.array([name or "" for name in ids], pa.string())
    rejected = pa.table({ID: refused_ids, REASON: pa.array(reasons, pa.string())})
    return SplitAssignment(rows, classes, rejected.filter(pa.array(split == REFUSED_SPLIT)))


def refuse_blank_rows(identities: pa.Table, blank: Mask) -> pa.Table:
    """Returns the same rows, with a reason for those that turned out to be empty."""
    reasons = pc.if_else(pa.array(blank), EMPTY_ROW, identities[REASON])
    return identities.set_column(identities.column_names.index(REASON), REASON, reasons)


def _refuse_if_none_is_usable(
    good: Mask, reasons: Sequence[str | None], report: IngestReport
) -> None:
    """Raises ValueError where all rows are refused; the reasons go to the report before."""
    if not good.any():
        report.add_refused(reasons)
        first = next(reason for reason in reasons if reason)
        raise ValueError(
            f"at least one row must be usable; all {len(reasons)} were refused, the first "
            f"because: {first}"
        )


def _warn_of_similar_classes(classes: Sequence[str], report: IngestReport) -> None:
    if similar := similar_spellings(classes):
        report.warn(
            f"label: names of classes differ only in case or blanks: {similar_text(similar)}; "
            "if they are one class, write them alike"
        )


def _identity_columns(identities: pa.Table, roles: ColumnRoles) -> list[IdentityColumn]:
    """Returns the columns that are no features, as the summary lists them."""
    uses = {LABEL: roles.label, ID: roles.id, GROUP: roles.group, SPLIT: roles.split}
    return [
        IdentityColumn(
            column,
            use,
            identities[use].null_count / identities.num_rows,
            pc.count_distinct(identities[use]).as_py(),
        )
        for use, column in uses.items()
        if column is not None
    ]


def _refuse_duplicates(
    ids: Sequence[str | None], reasons: list[str | None], column: str | None
) -> None:
    """Writes the reason of every good row whose id an earlier good row has.

    column: that of the ids. Where so many rows repeat an id that most would be refused, it is no
    column of ids and an OptionError.
    """
    first_row: dict[str, int] = {}
    repeated: dict[str, int] = {}
    good = 0
    for i, name in enumerate(ids):
        if reasons[i] is not None or name is None:
            continue
        good += 1
        if first_row.setdefault(name, i) != i:
            reasons[i] = f"duplicate id (first in row {first_row[name]})"
            repeated[name] = repeated.get(name, 0) + 1
    repeats = sum(repeated.values())
    if repeats and repeats >= MAX_REPEATS * good:
        examples = " and ".join(repr(name) for name in list(repeated)[:2])
        raise OptionError(
            f"id must name a column of unique ids; in {column!r} {repeats:,} of {good:,} rows "
            f"repeat the id of an earlier row, such as {examples}: "
            "rows that belong together are named with group",
            "id",
            "group",
        )


def _given_split(identities: pa.Table, roles: ColumnRoles, reasons: list[str | None]) -> IntArray:
    """Returns the splits that the user's column names; other values are a reason to refuse."""
    requested = identities[SPLIT].to_pylist()
    given = np.full(len(requested), REFUSED_SPLIT, dtype=np.int64)
    for i, name in enumerate(requested):
        split = SPLIT_NAMES.get((name or "").lower())
        if split is not None:
            given[i] = split
        elif reasons[i] is None:
            reasons[i] = (
                f"split must be one of train, val, test (column {roles.split!r}); got {name!r}"
            )
    return given


def check_split_column(table: RawTable, column: str) -> None:
    """Refuses a column without the name of any split in a sample of its rows, before all is read.

    Its type is checked with all rows.
    """
    cells = sample_rows(table, [column]).column(0).to_pylist()
    words = [str(cell) for cell in dict.fromkeys(cells) if cell is not None]
    if words and not any(word.lower() in SPLIT_NAMES for word in words):
        raise OptionError(
            f"split_column must hold train, val or test; {column!r} holds {join_names(words)}",
            "split_column",
        )


def _code_classes(
    labels: pa.ChunkedArray, good: Mask, column: str
) -> tuple[tuple[str, ...], IntArray]:
    """Returns the class names in order and every row's class, -1 for refused rows without one.

    Whole numbers are ordered by value, other names by their characters.
    """
    texts = labels.combine_chunks()
    values = pc.unique(texts.filter(pa.array(good))).to_pylist()
    names = [name for name in values if name is not None]
    rows = int(good.sum())
    if len(names) < 2:
        raise OptionError(
            f"label must name a column with at least two classes; {column!r} has only "
            f"{names[0]!r} in its {rows} usable rows",
            "label",
        )
    if len(names) > max(MAX_PLAUSIBLE_CLASSES, rows // 2):
        raise OptionError(
            f"label must name a column of classes; {column!r} has {len(names)} values in "
            f"{rows} rows: numbers or ids?",
            "label",
        )
    whole = all(name.removeprefix("-").isdecimal() for name in names)
    classes = tuple(sorted(names, key=int) if whole else sorted(names))
    indices = pc.fill_null(pc.index_in(texts, value_set=pa.array(classes, texts.type)), -1)
    return classes, indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _group_numbers(names: pa.ChunkedArray) -> IntArray:
    """Returns a number for every group; a row without one is a group of its own."""
    indices = names.combine_chunks().dictionary_encode().indices
    alone = pc.is_null(indices).to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(alone, len(numbers) + np.arange(len(numbers)), numbers)


def _group_units(
    groups: IntArray, names: pa.ChunkedArray, order: HashArray, good: Mask, seed: int
) -> _Units:
    """Returns the good rows' groups, with the seeded hashes of the groups' names.

    order: the seeded hashes of the ids, which rows without a group have.
    """
    _, first, units = np.unique(groups[good], return_index=True, return_inverse=True)
    rows = np.flatnonzero(good)[first]
    group_names = names.take(pa.array(rows)).to_pylist()
    hashes = reseed(hash_ids(name or "" for name in group_names), seed)
    alone = np.array([name is None for name in group_names], dtype=bool)
    return _Units(units, np.where(alone, order[rows], hashes))


def _fill_given(
    split: IntArray, labels: IntArray, good: Mask, units: _Units, report: IngestReport
) -> None:
    """Cuts validation and test rows from the training rows where a given split has none."""
    if not np.any(split == TRAIN):
        raise ValueError(
            "the split column must have training rows; it has none among the usable rows"
        )
    unit_of = np.full(len(split), -1, dtype=np.int64)
    unit_of[good] = units.of_row
    for place in (TEST, VAL):
        if np.any(split == place):
            continue
        rows = np.flatnonzero(split == TRAIN)
        share = CUT_SHARES[place]
        used_units, own_units = np.unique(unit_of[rows], return_inverse=True)
        cut = assign_splits(
            labels[rows], own_units, units.order[used_units], (1 - share, share, 0.0)
        )
        split[rows[cut == VAL]] = place
        count = int(np.sum(cut == VAL))
        report.note(f"the split column has no {SPLITS[place]} rows: {count} were cut from train")
