"""Prepares one batch of raw rows, for ingest and for prediction.

Images are decoded and resized, the identity is read, and rows that cannot be used get a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw import columns, images
from distributed.raw.cells import (
    COMMA_READING,
    as_text,
    canonical_spellings,
    flatten_array,
    is_text,
)
from distributed.raw.images import ImageSpec, PreparedImage
from distributed.shards.manifest import Manifest
from model.schema import Table

# Columns of a prepared batch. Prefixes keep a user's column names apart from these.
ID, LABEL, RANK, GROUP = "id", "label", "rank", "group"
SPLIT, REASON = "split", "reason"
CELL, IMAGE, DIGEST, SUMS, COLOUR, DEEP = "cell.", "image.", "digest.", "sums.", "colour.", "deep."

# Keys of a count of cells, beside the names of columns.
EMPTY_CELLS = "empty cells of "  # before a column's name
NO_CLASS = "labels that are no class"

PIXEL_SUMS = pa.list_(pa.int64())
REMOTE_THREADS = 16  # that read images from an object store
EMPTY_ROW = "no image and no table value"  # a reason to refuse it


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """What to read of each row: source columns by their use.

    images: of every image modality its specification, source column, and folder of the paths.
    """

    label: str | None
    id: str | None
    group: str | None
    split: str | None
    features: tuple[str, ...]
    images: tuple[tuple[ImageSpec, str, str], ...]


def prepare_rows(batch: pa.Table, plan: RowPlan) -> pa.Table:
    """Returns prepared rows.

    They hold the identity as words, raw feature cells, prepared images, and the reason of every
    refused row, null for a good one.
    """
    rows = batch.num_rows
    reasons: list[str | None] = [None] * rows
    prepared = _read_identity(batch, plan, reasons)
    has_content = np.zeros(rows, dtype=bool)
    for name in plan.features:
        cells = flatten_array(batch[name])
        prepared[CELL + name] = cells
        has_content |= ~as_text(cells).is_null().to_numpy(zero_copy_only=False)
    for spec, source, folder in plan.images:
        loaded = load_images(batch[source], spec, folder, reasons)
        has_content |= np.array([image is not None for image in loaded])
        prepared |= _image_results(spec, loaded)
    _refuse(reasons, pa.array(~has_content), EMPTY_ROW)
    prepared[REASON] = pa.array(reasons, pa.string())
    return pa.table(prepared)


def _read_identity(
    batch: pa.Table, plan: RowPlan, reasons: list[str | None]
) -> dict[str, pa.Array]:
    """Returns ids, labels, groups and splits; writes reasons where one but the group is missing."""
    sources = {ID: plan.id, LABEL: plan.label, GROUP: plan.group, SPLIT: plan.split}
    identity: dict[str, pa.Array] = {}
    for name, source in sources.items():
        if source is None:
            continue
        read = class_names if name == LABEL else identity_strings
        identity[name] = read(batch[source])
        if name != GROUP:
            reason = f"{name} is missing (column {source!r})"
            _refuse(reasons, pc.is_null(identity[name]), reason)
    return identity


def _image_results(spec: ImageSpec, loaded: Sequence[PreparedImage | None]) -> dict[str, pa.Array]:
    """Returns the columns of one image modality."""
    became_grey = [bool(image and image.was_colour and spec.channels == 1) for image in loaded]
    no_window = [bool(image and image.was_deep and not spec.window) for image in loaded]
    digests = [image.digest if image else None for image in loaded]
    return {
        IMAGE + spec.name: pa.array(
            [image.data if image else None for image in loaded], pa.binary()
        ),
        DIGEST + spec.name: pa.array(digests, pa.uint64()),
        SUMS + spec.name: pa.array([image.sums if image else None for image in loaded], PIXEL_SUMS),
        COLOUR + spec.name: pa.array(became_grey, pa.bool_()),
        DEEP + spec.name: pa.array(no_window, pa.bool_()),
    }


def identity_strings(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns ids or groups as words, null where blank; words such as NA are names here."""
    array = flatten_array(array)
    if not is_text(array.type):
        return as_text(array).cast(pa.string())
    words = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return pc.if_else(pc.is_in(words, value_set=pa.array(["", "nan", "NaN"])), None, words)


def class_names(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns labels as words in their canonical spelling, whatever kind of table they are from."""
    return canonical_spellings(identity_strings(array))


def _refuse(reasons: list[str | None], where: pa.Array, reason: str) -> None:
    """Writes the reason of those rows that have none yet."""
    for i in np.flatnonzero(where.to_numpy(zero_copy_only=False)):
        reasons[i] = reasons[i] or reason


def load_images(
    cells: pa.ChunkedArray | pa.Array, spec: ImageSpec, folder: str, reasons: list[str | None]
) -> list[PreparedImage | None]:
    """Returns prepared images, None where a row has none; writes the reasons of refused rows."""
    reader = images.ImageFolder(folder)

    def load(i: int, cell: images.ImageCell) -> PreparedImage | None:
        try:
            data = None if reasons[i] else reader.read(cell)
            return None if data is None else images.prepare_image(data, spec)
        except images.RowRefused as refused:
            reasons[i] = f"{spec.name}: {refused}"
            return None

    if reader.remote and not pa.types.is_binary(cells.type):
        with ThreadPoolExecutor(REMOTE_THREADS) as pool:
            return list(pool.map(load, range(len(cells)), cells.to_pylist()))
    # One cell at a time becomes a Python object, for photographs are large.
    return [load(i, cell.as_py()) for i, cell in enumerate(cells)]


def image_columns(prepared: pa.Table, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
    """Returns the prepared images of these modalities as shard columns."""
    return {IMAGE + name: prepared[IMAGE + name] for name in names}


def table_columns(
    cells: Mapping[str, pa.ChunkedArray | pa.Array],
    tables: Sequence[Table],
    readings: Mapping[str, str],
    unread: Counter[str] | None = None,
) -> dict[str, pa.Array]:
    """Returns the shard columns TABLE.COLUMN of raw cells.

    A column without cells is absent in every row.
    cells: by source column. readings: how text becomes the numbers of some columns.
    unread: counts the cells of each column that carry no information, and under EMPTY_CELLS and
    its name those that are empty.
    """
    rows = len(next(iter(cells.values()))) if cells else 0
    encoded = {}
    for table in tables:
        for column in table.columns:
            key = f"{table.name}.{column.name}"
            if column.name not in cells:
                encoded[key] = columns.absent_column(rows, column)
                continue
            reading = readings.get(column.name, "")
            encoded[key], useless = columns.encode_column(cells[column.name], column, reading)
            if unread is None:
                continue
            if useless:
                unread[column.name] += useless
            if column in table.numeric:
                empty = encoded[key].null_count - useless
            else:
                empty = pc.sum(pc.equal(encoded[key], -1)).as_py() or 0
            unread[EMPTY_CELLS + column.name] += empty
    return encoded


def encode_rows(
    table: pa.Table | pd.DataFrame,
    manifest: Manifest,
    image_dirs: Mapping[str, str] | str = ".",
    first: int = 0,
    commas: bool = False,
    unread: Counter[str] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Returns new raw rows as shard columns, and the refused ones with their reasons.

    The rows are prepared exactly as the manifest's training rows were. The columns are id, label,
    rank, image.NAME and TABLE.COLUMN; those of the refused rows are id and reason. The label may
    be absent (-1, like a class that training did not have), and so may a whole modality.

    image_dirs: the folder of each image column's paths, or one for all.
    first: the number of the first row, which is its id where the table has no ids.
    commas: numbers may have decimal commas, though those of the training rows had none.
    unread: counts cells as table_columns does, and under NO_CLASS the labels that are no class.
    """
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    _check_columns(table, manifest)
    rows, schema = table.num_rows, manifest.schema
    plan = _encoding_plan(table, manifest, image_dirs)
    prepared = prepare_rows(table, plan)
    if plan.id is not None:
        ids = prepared[ID]
    else:
        numbers = pa.array([str(first + i) for i in range(rows)], pa.string())
        ids = pa.chunked_array([numbers])
    if plan.label is not None:
        labels = _class_codes(table[plan.label], schema.classes, unread)
    else:
        labels = pa.array(np.full(rows, -1, dtype=np.int32))
    encoded = {ID: ids, LABEL: labels, RANK: pa.array(np.zeros(rows, dtype=np.int32))}
    available = {spec.name for spec, _, _ in plan.images}
    for image in schema.images:
        key = IMAGE + image.name
        encoded[key] = prepared[key] if image.name in available else pa.nulls(rows, pa.binary())
    # Without any column, the ids tell how many rows there are.
    cells = {name: prepared[CELL + name] for name in plan.features} or {"": ids}
    readings = dict.fromkeys(plan.features, COMMA_READING) if commas else {}
    readings |= manifest.prepare.get("readings", {})
    encoded |= table_columns(cells, schema.tables, readings, unread)
    good = pc.is_null(prepared[REASON])
    refused = pa.table({ID: pc.fill_null(ids, ""), REASON: prepared[REASON]})
    return pa.table(encoded).filter(good), refused.filter(pc.invert(good))


def _encoding_plan(
    table: pa.Table, manifest: Manifest, image_dirs: Mapping[str, str] | str
) -> RowPlan:
    """Returns what to read of new rows: what the training rows had and the table has."""
    prepare, available = manifest.prepare, set(table.column_names)
    features = [column.name for t in manifest.schema.tables for column in t.columns]
    specs = []
    for plain in prepare["images"]:
        source = plain["column"]
        folder = image_dirs.get(source, ".") if isinstance(image_dirs, Mapping) else image_dirs
        if source in available:
            specs.append((image_spec_from_dict(plain), source, folder))
    return RowPlan(
        label=prepare.get(LABEL) if prepare.get(LABEL) in available else None,
        id=prepare.get(ID) if prepare.get(ID) in available else None,
        group=None,
        split=None,
        features=tuple(name for name in features if name in available),
        images=tuple(specs),
    )


def _class_codes(
    cells: pa.ChunkedArray, classes: Sequence[str], unread: Counter[str] | None
) -> pa.Array:
    """Returns the class of every row, -1 where the label is missing or no class."""
    names = class_names(cells)
    known = canonical_spellings(pa.array(classes, pa.string()))
    codes = pc.index_in(names, value_set=known, skip_nulls=True)
    no_class = codes.null_count - names.null_count
    if unread is not None and no_class:
        unread[NO_CLASS] += no_class
    return pc.fill_null(codes, -1).cast(pa.int32())


def _check_columns(table: pa.Table, manifest: Manifest) -> None:
    """Raises ValueError where part of a modality's columns is missing, or all modalities are."""
    available = set(table.column_names)
    image_sources = [image["column"] for image in manifest.prepare["images"]]
    is_complete = [source in available for source in image_sources]
    for modality in manifest.schema.tables:
        names = [column.name for column in modality.columns]
        missing = [name for name in names if name not in available]
        if missing and len(missing) < len(names):
            raise ValueError(
                f"the table must have all columns of {modality.name!r} or none; "
                f"it lacks {', '.join(missing)} (a column may be empty)"
            )
        is_complete.append(not missing)
    if not any(is_complete):
        cells = [column.name for t in manifest.schema.tables for column in t.columns]
        raise ValueError(
            "the table must have columns of at least one modality "
            f"({', '.join([*image_sources, *cells])}); it has {', '.join(sorted(available))}"
        )


def image_spec_from_dict(plain: Mapping[str, Any]) -> ImageSpec:
    """Returns an image specification from its form in schema.json."""
    window = plain.get("window")
    return ImageSpec(
        name=plain["name"],
        height=plain["height"],
        width=plain["width"],
        channels=plain["channels"],
        fit=plain["fit"],
        window=tuple(window) if window else None,
        max_pixels=plain["max_pixels"],
    )
