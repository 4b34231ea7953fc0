"""Decides which columns and images become features, and writes down how they were prepared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.ingestion.assignment import SplitAssignment
from distributed.ingestion.blocks import PixelSums, TrainingStatistics
from distributed.ingestion.leaks import identical_images, label_leak
from distributed.ingestion.roles import ColumnRoles
from distributed.ingestion.summary import IngestReport
from distributed.raw.column_stats import ColumnStats
from distributed.raw.columns import ColumnDecision, decide_column
from distributed.raw.images import ImageSpec
from distributed.raw.rows import COLOUR, DEEP, DIGEST
from distributed.shards.layout import TRAIN
from model.schema import Categorical, Image, Numeric, Schema, Table


def build_schema(
    roles: ColumnRoles,
    specs: Sequence[ImageSpec],
    statistics: TrainingStatistics,
    split_rows: SplitAssignment,
    report: IngestReport,
) -> Schema:
    """Returns the modalities with their training statistics.

    Columns and images without content are left out; the report says which and why.
    """
    decisions = {
        name: report.stay_dropped.get(name)
        or decide_column(name, statistics.columns[name], roles.forced.get(name, ""), roles.hints)
        for name in roles.features
    }
    for decision in decisions.values():
        report.add_column(decision)
    for name, reason in roles.dropped.items():
        report.add_column(ColumnDecision(name, None, 0, 0.0, reason))
    tables = []
    for name, members in roles.tables.items():
        columns = [decisions[member].column for member in members]
        numeric = tuple(c for c in columns if isinstance(c, Numeric))
        categorical = tuple(c for c in columns if isinstance(c, Categorical))
        if numeric or categorical:
            tables.append(Table(name=name, numeric=numeric, categorical=categorical))
    images = []
    for spec in specs:
        pixels = statistics.pixels[spec.name]
        if pixels.images:
            images.append(_image_modality(spec, pixels))
            report.add_image(spec, pixels.images)
        else:
            report.warn(f"{spec.name}: no training row has an image; the modality is left out")
    if not images and not tables:
        raise ValueError(
            "no modality is left to learn from: every feature column was dropped "
            f"({report.why_dropped()})"
        )
    labels = split_rows.rows.labels[split_rows.rows.split == TRAIN]
    counts_C = np.bincount(labels, minlength=len(split_rows.classes))
    return Schema(
        images=tuple(images),
        tables=tuple(tables),
        classes=split_rows.classes,
        counts=tuple(int(count) for count in counts_C),
    )


def _image_modality(spec: ImageSpec, pixels: PixelSums) -> Image:
    """Returns the modality with the mean and spread of every channel, from exact sums."""
    count = pixels.images * spec.height * spec.width
    sums, squares = pixels.sums[: spec.channels], pixels.sums[spec.channels :]
    means = [total / count for total in sums]
    spreads = [
        math.sqrt(max(0.0, square / count - mean * mean)) for square, mean in zip(squares, means)
    ]
    return Image(
        name=spec.name,
        height=spec.height,
        width=spec.width,
        channels=spec.channels,
        mean=_as_shares(means),
        std=_as_shares([spread or 1.0 for spread in spreads]),
    )


def _as_shares(levels: Sequence[float]) -> tuple[float, ...]:
    """Returns grey levels as shares of white, with eight digits."""
    return tuple(float(f"{level / 255:.8g}") for level in levels)


def check_leaks(
    identities: pa.Table,
    stats: Mapping[str, ColumnStats],
    schema: Schema,
    rows: SplitAssignment,
    report: IngestReport,
) -> None:
    """Warns of what may make the results too good, and of images that lost information."""
    for table in schema.tables:
        for column in table.columns:
            pairs = stats[column.name].table
            if pairs is not None:
                report.warn(label_leak(column.name, pairs, len(schema.classes)))
    for image in schema.images:
        digests = identities[DIGEST + image.name]
        split, labels = rows.rows.split, rows.rows.labels
        for line in identical_images(image.name, digests, split, labels):
            report.warn(line)
        if grey := _count_true(identities[COLOUR + image.name]):
            report.note(
                f"{image.name}: {grey} colour images became grey, like the first of the table"
            )
        if deep := _count_true(identities[DEEP + image.name]):
            report.warn(
                f"{image.name}: {deep} images have more than 8 bits of grey and the sample had "
                "none: 0..65535 became black to white (--window LOW,HIGH sets another range)"
            )


def _count_true(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags).as_py() or 0)


def prepare_record(
    roles: ColumnRoles,
    specs: Sequence[ImageSpec],
    schema: Schema,
    seed: int,
    fractions: tuple[float, float, float],
    report: IngestReport,
) -> dict[str, object]:
    """Returns what schema.json keeps so that new rows can be prepared in the same way."""
    kept = {image.name for image in schema.images}
    images = [spec for spec in specs if spec.name in kept]
    return {
        "label": roles.label,
        "id": roles.id,
        "group": roles.group,
        "split_column": roles.split,
        "images": [{**dataclasses.asdict(spec), "column": spec.name} for spec in images],
        "tables": {t.name: [column.name for column in t.columns] for t in schema.tables},
        "readings": report.readings(),
        "dropped": report.dropped(),
        "seed": seed,
        "fractions": None if roles.split else list(fractions),
        "notes": report.notes,
        "warnings": report.warnings,
    }
