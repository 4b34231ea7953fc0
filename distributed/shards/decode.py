"""Shard columns (encoded images, table cells) to contiguous arrays. No torch here: Ray's data tasks start faster without.

Legend: B rows, M modalities, C channels, N numeric, K categorical columns."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image as pillow

from model.schema import Image, Schema, Table

# Keys: images/NAME uint8 [B,C,H,W], numbers/NAME float32 [B,N], categories/NAME int32 [B,K], present bool [B,M], labels and ranks
# int32 [B].
Arrays = dict[str, np.ndarray[Any, Any]]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def shard_columns(schema: Schema) -> list[str]:
    """The shard columns that hold the schema's modalities."""
    images = [f"image.{image.name}" for image in schema.images]
    return images + [
        f"{t.name}.{name}"
        for t in schema.tables
        for name in [*(c.name for c in t.numeric), *(c.name for c in t.categorical)]
    ]


def decoded_row_bytes(schema: Schema) -> int:
    """Memory that one decoded row takes."""
    pixels = sum(image.channels * image.height * image.width for image in schema.images)
    cells = sum(len(table.numeric) + len(table.categorical) for table in schema.tables)
    return pixels + 4 * cells + len(schema.modalities) + 8


def empty_arrays(schema: Schema, rows: int) -> Arrays:
    """Arrays for `rows` rows, not filled."""
    arrays: Arrays = {
        f"images/{m.name}": np.empty((rows, m.channels, m.height, m.width), np.uint8)
        for m in schema.images
    }
    for table in schema.tables:
        arrays[f"numbers/{table.name}"] = np.empty((rows, len(table.numeric)), np.float32)
        arrays[f"categories/{table.name}"] = np.empty((rows, len(table.categorical)), np.int32)
    arrays["present"] = np.empty((rows, len(schema.modalities)), np.bool_)
    arrays["labels"], arrays["ranks"] = np.empty(rows, np.int32), np.empty(rows, np.int32)
    return arrays


def numpy_columns(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of an Arrow table: bytes as objects, missing numbers as NaN."""
    return {name: table[name].to_numpy() for name in table.column_names}


def decode_stored_image(encoded: bytes, image: Image) -> np.ndarray[Any, Any]:
    """One image as uint8 [H, W, C]; ValueError when it is not of the modality's shape."""
    shape = (image.height, image.width, image.channels)
    if encoded[:2] == b"\xff\xd8" and image.channels in (1, 3):
        # The size is known, so Pillow's decoder is called without parsing the header in Python: 1.7 times as fast at 64 pixels, and it
        # runs without the interpreter lock. It refuses any other size and any truncated file.
        mode = MODES[image.channels]
        picture = pillow.frombytes(mode, (image.width, image.height), encoded, "jpeg", mode, "")
        return np.frombuffer(picture.tobytes(), np.uint8).reshape(shape)
    with pillow.open(io.BytesIO(encoded)) as picture:
        if picture.size != (image.width, image.height):
            raise ValueError(f"size {picture.size}")
        mode = MODES[image.channels]
        return np.asarray(picture if picture.mode == mode else picture.convert(mode)).reshape(shape)


def decode_images(
    encoded_B: np.ndarray[Any, Any],
    image: Image,
    pixels_BCHW: np.ndarray[Any, Any],
    present_B: np.ndarray[Any, Any],
) -> None:
    """Fills one image modality; an image that a row lacks is black and not present."""
    for row, encoded in enumerate(encoded_B):
        present_B[row] = encoded is not None
        if encoded is None:
            pixels_BCHW[row] = 0
            continue
        try:
            pixels_BCHW[row] = decode_stored_image(encoded, image).transpose(2, 0, 1)
        except (ValueError, OSError) as error:
            rule = f"an image of column {image.name} must be a whole PNG or JPEG of {image.width}x{image.height}, {image.channels} channel(s)"
            raise ValueError(
                f"{rule}; got {len(encoded)} bytes: {error}; run ingest again"
            ) from None


def decode_table(
    columns: Mapping[str, np.ndarray[Any, Any]],
    table: Table,
    arrays: Arrays,
    present_B: np.ndarray[Any, Any],
) -> None:
    """Fills one table modality, present where any cell is not missing."""
    numbers_BN, categories_BK = arrays[f"numbers/{table.name}"], arrays[f"categories/{table.name}"]
    for i, column in enumerate(table.numeric):
        numbers_BN[:, i] = columns[f"{table.name}.{column.name}"]
    for i, name in enumerate(c.name for c in table.categorical):
        cells_B = columns[f"{table.name}.{name}"]
        categories_BK[:, i] = (
            np.where(np.isnan(cells_B), -1, cells_B) if cells_B.dtype.kind == "f" else cells_B
        )
    present_B[:] = ~np.isnan(numbers_BN).all(1) | (categories_BK >= 0).any(1)


def decode_columns(
    columns: Mapping[str, np.ndarray[Any, Any]], schema: Schema, out: Arrays | None = None
) -> Arrays:
    """Raw shard columns as arrays of the schema's modalities, written into `out` where given; no label column: labels and ranks are -1."""
    rows = len(next(iter(columns.values())))
    arrays = empty_arrays(schema, rows) if out is None else out
    for i, image in enumerate(schema.images):
        decode_images(
            columns[f"image.{image.name}"],
            image,
            arrays[f"images/{image.name}"],
            arrays["present"][:, i],
        )
    for i, table in enumerate(schema.tables, len(schema.images)):
        decode_table(columns, table, arrays, arrays["present"][:, i])
    arrays["labels"][:] = columns.get("label", -1)
    arrays["ranks"][:] = columns.get("rank", -1)
    return arrays


def take_rows(arrays: Arrays, rows_B: np.ndarray[Any, Any]) -> Arrays:
    """The named rows, one copy an array (the arrays themselves may be read-only memory shared by many processes)."""
    return {name: np.take(values, rows_B, axis=0) for name, values in arrays.items()}
