"""Prepares one batch of raw rows, for ingest and for prediction.

Images are decoded and resized, the identity is read, and rows that cannot be used get a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw import image_files, images
from distributed.raw.cells import (
    as_text,
    canonical_spellings,
    flatten_array,
    is_text,
    trimmed_text,
)
from distributed.raw.images import ImageSpec, PreparedImage
from distributed.raw.limits import MAX_CELL, ImageLimits, RowRefused

# Columns of a prepared batch. Prefixes keep a user's column names apart from these.
ID = "id"
LABEL = "label"
RANK = "rank"
GROUP = "group"
SPLIT = "split"
REASON = "reason"
CELL = "cell."
IMAGE = "image."
FILE = "file."
DIGEST = "digest."
SUMS = "sums."
COLOUR = "colour."
DEEP = "deep."

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

    They hold the identity as text, raw feature cells, prepared images, and the reason of every
    refused row, null for a good one.
    """
    rows = batch.num_rows
    reasons: list[str | None] = [None] * rows
    prepared = _read_identity(batch, plan, reasons)
    has_content = np.zeros(rows, dtype=bool)
    for name in plan.features:
        cells = _read_cells(batch, name, reasons)
        prepared[CELL + name] = cells
        if not has_content.all():
            has_content |= ~trimmed_text(cells).is_null().to_numpy(zero_copy_only=False)
    for spec, source, folder in plan.images:
        loaded = load_images(batch[source], spec, folder, reasons)
        has_content |= np.array([image is not None for image in loaded])
        prepared |= _image_results(spec, loaded)
        names = file_names(batch[source])
        if names is not None:
            prepared[FILE + spec.name] = names
    _refuse(reasons, pa.array(~has_content), EMPTY_ROW)
    prepared[REASON] = pa.array(reasons, pa.string())
    return pa.table(prepared)


def _read_cells(batch: pa.Table, name: str, reasons: list[str | None]) -> pa.Array:
    """Returns a column as one array; refuses rows whose cell is too long, which becomes null."""
    cells = flatten_array(batch[name])
    is_bytes = pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type)
    if not (is_text(cells.type) or is_bytes):
        return cells
    lengths = pc.fill_null(pc.binary_length(cells), 0).to_numpy()
    is_long = lengths > MAX_CELL
    if not is_long.any():
        return cells
    for i in np.flatnonzero(is_long):
        reason = f"{name}: cell of {lengths[i]:,} characters is over the limit of {MAX_CELL:,}"
        reasons[i] = reasons[i] or reason
    return cells.take(pa.array(np.arange(len(cells)), mask=is_long))  # without their text


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
        identity[name] = read(_read_cells(batch, source, reasons))
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


def file_names(cells: pa.ChunkedArray | pa.Array) -> pa.Array | None:
    """Returns the paths in an image column; None for a column that can hold no path."""
    if pa.types.is_struct(cells.type):
        places = [i for i in range(cells.type.num_fields) if cells.type.field(i).name == "path"]
        return file_names(pc.struct_field(cells, places[0])) if places else None
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    return flatten_array(cells).cast(pa.string()) if is_text(kind) else None


def identity_strings(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns ids or groups as text, null where blank; text such as NA is a name here."""
    array = flatten_array(array)
    if not is_text(array.type):
        return as_text(array).cast(pa.string())
    trimmed = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(["", "nan", "NaN"])), None, trimmed)


def class_names(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns labels as text in their canonical spelling, whatever kind of table they are from."""
    return canonical_spellings(identity_strings(array))


def _refuse(reasons: list[str | None], where: pa.Array, reason: str) -> None:
    """Writes the reason of those rows that have none yet."""
    for i in np.flatnonzero(where.to_numpy(zero_copy_only=False)):
        reasons[i] = reasons[i] or reason


def load_images(
    cells: pa.ChunkedArray | pa.Array, spec: ImageSpec, folder: str, reasons: list[str | None]
) -> list[PreparedImage | None]:
    """Returns prepared images, None where a row has none; writes the reasons of refused rows."""
    reader = image_files.ImageFolder(folder, ImageLimits(spec.max_pixels))

    def load(i: int, cell: image_files.ImageCell) -> PreparedImage | None:
        try:
            data = None if reasons[i] else reader.read(cell)
            return None if data is None else images.prepare_image(data, spec)
        except RowRefused as refused:
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
