"""Decides how each image modality is prepared, from the options and a sample of its images."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distributed.ingestion.options import IngestOptions
from distributed.raw.image_files import ImageFolder
from distributed.raw.images import ImageHeader, ImageSpec, inspect_image
from distributed.raw.limits import ImageLimits, RowRefused
from distributed.raw.table import RawTable, sample_rows
from distributed.runtime.errors import OptionError

AUTO = "auto"
AUTO_LONG_SIDE = 64  # pixels of the longer side that "auto" chooses at most
MIN_SIDE, MAX_SIDE = 8, 4096
AUTO_PERCENTILES = (0.5, 99.5)  # of 16-bit grey values: what becomes black and white


@dataclass(frozen=True)
class InspectedColumn:
    """How an image modality is prepared, and the mean pixels of its source images."""

    spec: ImageSpec
    mean_pixels: float


def inspect_image_column(
    options: IngestOptions, table: RawTable, column: str, folder: str
) -> InspectedColumn:
    """Returns size, channels and grey window of an image modality.

    folder: that of the column's paths.
    """
    cells = sample_rows(table, [column])[column]
    if not _holds_images(cells.type):
        raise OptionError(
            f"image must name a column of encoded bytes or of paths; {column!r} holds {cells.type}",
            "image",
        )
    reader = ImageFolder(folder, ImageLimits(options.max_pixels))
    headers: list[ImageHeader] = []
    first_reason = ""
    for cell in cells:
        try:
            data = reader.read(cell.as_py())
            if data is not None:
                headers.append(inspect_image(data, options.max_pixels))
        except RowRefused as refused:
            first_reason = first_reason or str(refused)
    if first_reason and not headers:
        raise ValueError(
            f"no image of a sample of column {column!r} could be read: {first_reason} "
            f"(folder {folder or '.'!r})"
        )
    height, width = _image_size(options.image_size, headers)
    all_grey = bool(headers) and all(header.grey for header in headers)
    spec = ImageSpec(
        name=column,
        height=height,
        width=width,
        channels=1 if all_grey else 3,
        fit=options.fit,
        window=_grey_window(options.window, [h.values for h in headers if h.values is not None]),
        max_pixels=options.max_pixels,
    )
    pixels = [header.height * header.width for header in headers]
    return InspectedColumn(spec, statistics.fmean(pixels) if pixels else 0.0)


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold bytes, paths, or Hugging Face's records of both."""
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name for i in range(kind.num_fields)}
        return bool(fields & {"bytes", "path"})
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_path = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(is_bytes or is_path or pa.types.is_null(kind))


def _image_size(requested: str, headers: Sequence[ImageHeader]) -> tuple[int, int]:
    """Returns (height, width) as the option says; for auto the median size, scaled down."""
    if requested != AUTO:
        sides = re.fullmatch(r"(\d+)(?:x(\d+))?", requested)
        size = (int(sides[1]), int(sides[2] or sides[1])) if sides else (0, 0)
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
            raise OptionError(
                f"image_size must be auto, N or HxW with sides from {MIN_SIDE} to {MAX_SIDE}; "
                f"got {requested!r}",
                "image_size",
            )
        return size
    if not headers:
        return AUTO_LONG_SIDE, AUTO_LONG_SIDE
    height = statistics.median(header.height for header in headers)
    width = statistics.median(header.width for header in headers)
    scale = min(1.0, AUTO_LONG_SIDE / max(height, width))
    return max(MIN_SIDE, round(height * scale)), max(MIN_SIDE, round(width * scale))


def _grey_window(
    requested: str, samples: Sequence[NDArray[np.float32]]
) -> tuple[float, float] | None:
    """Returns the grey values that become black and white; None where no image needs them.

    samples: grey values of the images with more than 8 bits of grey.
    """
    if requested != AUTO:
        try:
            low, high = (float(word) for word in requested.split(","))
        except ValueError:
            low = high = 0.0
        if not low < high:
            raise OptionError(
                f"window must be auto or LOW,HIGH with LOW < HIGH; got {requested!r}", "window"
            )
        return low, high
    if not samples:
        return None
    values = np.concatenate(samples)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = (float(value) for value in np.percentile(values, AUTO_PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)
