"""What the driver decides between the passes: who is refused, who is in which split, which columns are features, what looks like a leak."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingestion import splits
from distributed.ingestion.leaks import (
    crossing_groups,
    identical_images,
    label_leak,
    missing_words,
    scarce_in_train,
)
from distributed.ingestion.passes import (
    RowAssignment,
    colour_as_grey,
    image_digests,
    without_window,
)
from distributed.ingestion.roles import ColumnRoles
from distributed.ingestion.summary import IngestReport
from distributed.raw import columns, images
from distributed.raw.rows import (
    EMPTY_ROW,
    GROUP,
    ID,
    LABEL,
    REASON,
    SPLIT,
)
from distributed.shards import layout
from distributed.shards.layout import REFUSED_SPLIT, TEST, TRAIN, VAL
from model.schema import Categorical, Image, Numeric, Schema, Table

CUT = {VAL: 1 / 8, TEST: 1 / 5}  # shares cut from train where a given split has no such rows


@dataclass
class SplitRows:
    rows: RowAssignment
    classes: tuple[str, ...]
    rejected: pa.Table
    groups: np.ndarray | None


def assign_rows(
    known: pa.Table,
    roles: ColumnRoles,
    fractions: tuple[float, float, float],
    seed: int,
    report: IngestReport,
) -> SplitRows:
    """Class, split, rank and place of every row that is not refused."""
    n = known.num_rows
    ids = known[ID].to_pylist() if roles.id else [str(i) for i in range(n)]
    reasons = known[REASON].to_pylist()
    _refuse_duplicates(ids, reasons)
    given = _given_split(known, roles, reasons) if roles.split else None
    good = np.array([r is None for r in reasons], dtype=bool)
    report.refused(reasons, n)
    for name in (LABEL, GROUP, ID):
        for line in missing_words(name, known[name]) if name in known.column_names else ():
            report.warn(line)
    if not good.any():
        first = next(r for r in reasons if r)
        raise ValueError(
            f"at least one row must be usable; all {n} were refused, the first because: {first}"
        )
    classes, codes = _classes(known[LABEL], good, roles.label)
    hashes = splits.hash_ids("" if i is None else i for i in ids)
    order = splits.reseed(hashes, seed)
    groups = _groups(known[GROUP], n, roles.group) if roles.group else None
    units, unit_order = _units(groups, order, good, seed, known[GROUP] if roles.group else None)
    split = np.full(n, REFUSED_SPLIT, dtype=np.int64)
    if given is None:
        split[good] = splits.assign_splits(codes[good], units, unit_order, fractions)
    else:
        split[good] = given[good]
        if groups is not None and (line := crossing_groups(groups, split)):
            report.warn(line)
        _fill_given(split, codes, good, units, unit_order, report)
    report.classes(classes, codes, split)
    if (
        groups is not None
        and given is None
        and (scarce := scarce_in_train(classes, report.totals, fractions[0]))
    ):
        report.warn(scarce)
    rank = splits.rank_within_class(split, codes, hashes)
    position = splits.shuffled_positions(split, order)
    rejected = pa.table(
        {ID: pa.array([i or "" for i in ids], pa.string()), REASON: pa.array(reasons, pa.string())}
    ).filter(pa.array(~good))
    rows = RowAssignment(split=split, labels=codes, rank=rank, position=position)
    return SplitRows(rows, classes, rejected, groups)


def refuse_blank_rows(known: pa.Table, blank: np.ndarray) -> pa.Table:
    """The same rows, with a reason for those that turned out to be empty."""
    reasons = pc.if_else(pa.array(blank), EMPTY_ROW, known[REASON])
    return known.set_column(known.column_names.index(REASON), REASON, reasons)


def _refuse_duplicates(ids: list[str | None], reasons: list[str | None]) -> None:
    """The first good row of an id is kept."""
    seen: dict[str, int] = {}
    for i, name in enumerate(ids):
        if reasons[i] is None and name is not None and seen.setdefault(name, i) != i:
            reasons[i] = f"duplicate id (first in row {seen[name]})"


def _given_split(known: pa.Table, roles: ColumnRoles, reasons: list[str | None]) -> np.ndarray:
    words = known[SPLIT].to_pylist()
    given = np.full(len(words), REFUSED_SPLIT, dtype=np.int64)
    for i, word in enumerate(words):
        place = layout.SPLIT_NAMES.get((word or "").lower())
        if place is None:
            reasons[i] = (
                reasons[i]
                or f"split must be one of train, val, test (column {roles.split!r}); got {word!r}"
            )
        else:
            given[i] = place
    return given


def _classes(
    labels: pa.ChunkedArray, good: np.ndarray, column: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in order (whole numbers by value) and every row's class; -1 for refused rows without one."""
    words = labels.combine_chunks()
    names = [w for w in pc.unique(words.filter(pa.array(good))).to_pylist() if w is not None]
    rows = int(good.sum())
    if len(names) < 2:
        raise ValueError(
            f"--label must name a column with at least two classes; {column!r} has only {names[0]!r} in its {rows} usable rows"
        )
    if len(names) > max(100, rows // 2):
        raise ValueError(
            f"--label must name a column of classes; {column!r} has {len(names)} values in {rows} rows: numbers or ids?"
        )
    whole = all(w.removeprefix("-").isdecimal() for w in names)
    classes = tuple(sorted(names, key=int) if whole else sorted(names))
    codes = pc.fill_null(pc.index_in(words, value_set=pa.array(classes, words.type)), -1).to_numpy(
        zero_copy_only=False
    )
    return classes, codes.astype(np.int64)


def _groups(cells: pa.ChunkedArray, n: int, column: str | None) -> np.ndarray:
    """A number for every group; a row without one is a group of its own."""
    found = cells.combine_chunks().dictionary_encode().indices
    alone = pc.is_null(found).to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(found, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(alone, n + np.arange(n), numbers)


def _units(
    groups: np.ndarray | None,
    order: np.ndarray,
    good: np.ndarray,
    seed: int,
    names: pa.ChunkedArray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The good rows' units, numbered from 0, and a seeded hash for every unit: of the group's name, or of the row's id."""
    if groups is None or names is None:
        return np.arange(int(good.sum())), order[good]
    _, first, units = np.unique(groups[good], return_index=True, return_inverse=True)
    rows = np.flatnonzero(good)[first]
    words = names.take(pa.array(rows)).to_pylist()
    hashes = splits.reseed(splits.hash_ids(w or "" for w in words), seed)
    alone = np.array([w is None for w in words], dtype=bool)
    return units, np.where(alone, order[rows], hashes)


def _fill_given(
    split: np.ndarray,
    codes: np.ndarray,
    good: np.ndarray,
    units: np.ndarray,
    unit_order: np.ndarray,
    report: IngestReport,
) -> None:
    """A given split without val or test gets them from train."""
    if not np.any(split == TRAIN):
        raise ValueError(
            "the split column must have training rows; it has none among the usable rows"
        )
    unit_of = np.full(len(split), -1, dtype=np.int64)
    unit_of[good] = units
    for place, name in ((TEST, "test"), (VAL, "val")):
        if np.any(split == place):
            continue
        rows = np.flatnonzero(split == TRAIN)
        share = CUT[place]
        found, mine = np.unique(unit_of[rows], return_inverse=True)
        cut = splits.assign_splits(codes[rows], mine, unit_order[found], (1 - share, share, 0.0))
        split[rows[cut == VAL]] = place
        report.note(
            f"the split column has no {name} rows: {int(np.sum(cut == VAL))} were cut from train"
        )


def build_schema(
    roles: ColumnRoles,
    specs: Sequence[images.ImageSpec],
    counts: Mapping[str, columns.ColumnStats],
    sums: Mapping[str, tuple[int, list[int]]],
    assigned: SplitRows,
    report: IngestReport,
) -> Schema:
    """The modalities with their training statistics. Columns and images that carry nothing are left out, and said."""
    decisions = {
        name: report.stay_dropped.get(name)
        or columns.decide_column(name, counts[name], roles.forced.get(name, ""), roles.commas)
        for name in roles.features
    }
    for decision in decisions.values():
        report.column(decision)
    for name, why in roles.dropped.items():
        report.column(columns.ColumnDecision(name, None, 0, 0.0, why))
    tables = []
    for name, members in roles.tables.items():
        found = [decisions[m].column for m in members]
        numeric = tuple(c for c in found if isinstance(c, Numeric))
        categorical = tuple(c for c in found if isinstance(c, Categorical))
        if numeric or categorical:
            tables.append(Table(name=name, numeric=numeric, categorical=categorical))
    pictures = []
    for spec in specs:
        n, total = sums[spec.name]
        if n:
            pictures.append(_image(spec, n, total))
            report.image(spec, n)
        else:
            report.warn(f"{spec.name}: no training row has an image; the modality is left out")
    if not pictures and not tables:
        raise ValueError(
            "no modality is left to learn from: every feature column was dropped ("
            + report.why_dropped()
            + ")"
        )
    train = assigned.rows.split == TRAIN
    per_class = np.bincount(assigned.rows.labels[train], minlength=len(assigned.classes))
    return Schema(
        images=tuple(pictures),
        tables=tuple(tables),
        classes=assigned.classes,
        counts=tuple(int(c) for c in per_class),
    )


def _image(spec: images.ImageSpec, n: int, sums: Sequence[int]) -> Image:
    """Mean and spread per channel, from exact sums."""
    pixels = n * spec.height * spec.width
    mean = [s / pixels for s in sums[: spec.channels]]
    spread = [math.sqrt(max(0.0, q / pixels - m * m)) for q, m in zip(sums[spec.channels :], mean)]
    scaled = [
        tuple(float(f"{v / 255:.8g}") for v in values)
        for values in (mean, [s or 1.0 for s in spread])
    ]
    return Image(
        name=spec.name,
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
        mean=scaled[0],
        std=scaled[1],
    )


def check_leaks(
    known: pa.Table,
    counts: Mapping[str, columns.ColumnStats],
    made: Schema,
    assigned: SplitRows,
    roles: ColumnRoles,
    report: IngestReport,
) -> None:
    """Warnings about what may make the results too good."""
    for table in made.tables:
        for column in (*table.numeric, *table.categorical):
            pairs = counts[column.name].table
            if pairs is not None and (line := label_leak(column.name, pairs, len(made.classes))):
                report.warn(line)
    for image in made.images:
        digests = image_digests(known, image.name)
        for line in identical_images(
            image.name, digests, assigned.rows.split, assigned.rows.labels
        ):
            report.warn(line)
        if grey := colour_as_grey(known, image.name):
            report.note(
                f"{image.name}: {grey} colour images became grey, like the first of the table"
            )
        if deep := without_window(known, image.name):
            report.warn(
                f"{image.name}: {deep} images have more than 8 bits of grey and the sample had none: "
                "0..65535 became black to white (--window LOW,HIGH sets another range)"
            )


def prepare_record(
    roles: ColumnRoles,
    specs: Sequence[images.ImageSpec],
    made: Schema,
    seed: int,
    fractions: tuple[float, float, float],
    report: IngestReport,
) -> dict[str, Any]:
    """What schema.json keeps so that new rows can be prepared in the same way."""
    return {
        "label": roles.label,
        "id": roles.id,
        "group": roles.group,
        "split_column": roles.split,
        "images": [{**dataclasses.asdict(spec), "column": spec.name} for spec in specs],
        "tables": {t.name: [c.name for c in (*t.numeric, *t.categorical)] for t in made.tables},
        "readings": report.readings(),
        "dropped": report.dropped(),
        "seed": seed,
        "fractions": None if roles.split else list(fractions),
        "notes": report.notes,
        "warnings": report.warnings,
    }
