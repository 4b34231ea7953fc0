"""Rows of a pandas frame as a source of rows to predict.

The columns are those of the table that was ingested. An image column holds encoded bytes, paths,
PIL images or numpy arrays; the last two are taken as they are, without loss.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from distributed.inference.rows.column_checks import (
    absolute_folder,
    check_image_columns,
    image_folder,
)
from distributed.inference.rows.inputs import PreparedBatch, RowEncoder, raw_manifest
from distributed.inference.rows.tables import absent_notes, unknown_column_notes
from distributed.inference.rows.tasks import RawBatch, RowRange, TaskGroup, make_tasks
from distributed.runtime.errors import OptionError
from distributed.training.checkpoint import Checkpoint

Location: TypeAlias = str | os.PathLike[str]
Record: TypeAlias = Mapping[str, object]
Rows: TypeAlias = pd.DataFrame | pd.Series | Record | Sequence[Record]
CellValue: TypeAlias = (
    bytes | str | dict[str, bytes | str | None] | None
)  # of an image column, for Arrow

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
TIFF_MODES = ("I", "F", "CMYK", "YCbCr", "LAB")
IMAGE_RULE = "must hold encoded bytes, paths, PIL images or numpy arrays"


def to_frame(rows: Rows) -> pd.DataFrame:
    """Returns rows as a frame whose column names are text; a record becomes a frame of one row."""
    if isinstance(rows, pd.DataFrame):
        frame = rows
    elif isinstance(rows, pd.Series):  # one row of a frame
        frame = pd.DataFrame([rows])
    elif isinstance(rows, Mapping):
        frame = pd.DataFrame([dict(rows)])
    elif isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        frame = pd.DataFrame([dict(row) for row in rows])
    else:
        raise ValueError(
            "rows must be a pandas DataFrame, a record as a dict, or a list of such records; "
            f"got {type(rows).__name__}"
        )
    names = [str(name) for name in frame.columns]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"columns must have different names; got {repeated[0]!r} more than once")
    return frame.set_axis(names, axis="columns")


@dataclass
class FrameRows:
    """The rows of a frame.

    A batch is a part of the frame, in its order.
    """

    frame: pd.DataFrame
    encoder: RowEncoder
    batch_size: int

    @property
    def has_splits(self) -> bool:
        return False

    @property
    def row_count(self) -> int | None:
        return len(self.frame)

    @property
    def kept(self) -> pa.Schema | None:
        return None  # a caller in Python has the frame itself

    def task_groups(self, workers: int) -> Iterator[TaskGroup]:
        whole = [RowRange("", 0, 0, len(self.frame), 0)]
        yield TaskGroup(make_tasks(whole, self.batch_size, workers))

    def batches(self, task_group: TaskGroup, task: Sequence[RowRange]) -> Iterator[RawBatch]:
        for row_range in task:
            end = row_range.skip + row_range.rows
            for low in range(row_range.skip, end, self.batch_size):
                yield self._batch(low, min(low + self.batch_size, end))

    def _batch(self, low: int, high: int) -> RawBatch:
        images = {image["column"] for image in self.encoder.manifest.prepare["images"]}
        columns: dict[str, pa.Array] = {}
        for name, cells in self.frame.iloc[low:high].items():
            column = str(name)
            if column in images:
                columns[column] = image_cells(cells, column)
            else:
                columns[column] = column_cells(cells)
        return RawBatch(pa.table(columns), low)

    def prepare(self, batch: RawBatch) -> PreparedBatch:
        return self.encoder.prepare(batch)


def open_frame(
    checkpoint: Checkpoint,
    frame: pd.DataFrame,
    images: Location | Mapping[str, Location] | None,
    batch_size: int = 0,
    id_column: str = "",
) -> tuple[FrameRows, list[str]]:
    """Checks the columns of a frame and returns its rows, and notes about the columns.

    batch_size: 0 for the run's own setting. id_column: of the ids; that of the training rows
    otherwise.
    """
    manifest = raw_manifest(checkpoint, "a frame")
    if id_column:
        manifest = replace(manifest, prepare={**manifest.prepare, "id": id_column})
    columns = [image["column"] for image in manifest.prepare["images"]]
    available = [str(name) for name in frame.columns]
    encoder = RowEncoder(manifest, image_column_folders(images, columns, available))
    encoder.check_columns(pa.schema([(name, pa.null()) for name in available]))
    notes = absent_notes(manifest, available, "frame")
    notes += unknown_column_notes(checkpoint.manifest, encoder, available)
    rows_at_once = batch_size or checkpoint.config.inference.batch_size
    return FrameRows(frame[encoder.used_columns(available)], encoder, rows_at_once), notes


def column_cells(cells: pd.Series) -> pa.Array:
    """Returns a table column; one that mixes kinds of values as text, as a CSV file holds it."""
    try:
        return pa.array(cells, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = [None if _is_missing(cell) else str(cell) for cell in cells]
        return pa.array(texts, pa.string())


def image_cells(cells: pd.Series, column: str) -> pa.Array:
    """Returns an image column as encoded bytes, as paths, or as records of either."""
    values = [_image_cell(cell, column) for cell in cells]
    if all(value is None or isinstance(value, bytes) for value in values):
        return pa.array(values, pa.binary())
    if all(value is None or isinstance(value, str) for value in values):
        return pa.array(values, pa.string())
    records = [_image_record(value) for value in values]
    return pa.array(records, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _image_record(value: CellValue) -> dict[str, bytes | str | None] | None:
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, str):
        return {"bytes": None, "path": value}
    return value


def _image_cell(cell: object, column: str) -> CellValue:
    """Returns what one cell of an image column holds as bytes, a path, or a record of both."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if isinstance(cell, os.PathLike):
        return str(cell)
    if isinstance(cell, Mapping):
        return {"bytes": cell.get("bytes"), "path": cell.get("path")}
    if isinstance(cell, Image.Image):
        return encode_lossless(cell, column)
    if isinstance(cell, np.ndarray):
        return encode_lossless(_array_image(cell, column), column)
    if _is_missing(cell):
        return None
    raise ValueError(f"image column {column!r} {IMAGE_RULE}; got {type(cell).__name__}")


def _is_missing(cell: object) -> bool:
    """Whether a cell is None, NaN, NaT or pandas' NA."""
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def _array_image(pixels: NDArray[np.generic], column: str) -> Image.Image:
    """Returns an array as an image: 8 bits in 1 to 4 channels, or grey of 16 bits."""
    grey = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    is_colour = grey.ndim == 3 and grey.shape[2] in (2, 3, 4)
    is_valid = (
        (grey.dtype == np.uint8 and (grey.ndim == 2 or is_colour))
        or (grey.dtype == np.uint16 and grey.ndim == 2)
        or (grey.dtype == np.bool_ and grey.ndim == 2)
    )
    if not is_valid or not grey.size:
        raise ValueError(
            f"arrays of image column {column!r} must be [height, width] or [height, width, "
            "channels] of uint8, or [height, width] of uint16; "
            f"got {list(pixels.shape)} of {pixels.dtype}"
        )
    return Image.fromarray(np.ascontiguousarray(grey))


def encode_lossless(image: Image.Image, column: str) -> bytes:
    """Returns an image as bytes without loss, turned upright as an image file would be."""
    buffer = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in (*PNG_MODES, *TIFF_MODES):
            upright = upright.convert("RGB")
        kind = "TIFF" if upright.mode in TIFF_MODES else "PNG"
        options = {} if kind == "TIFF" else {"compress_level": 1}
        upright.save(buffer, kind, **options)
    except (OSError, ValueError, SyntaxError) as error:  # of a file that is read only now
        message = " ".join(str(error).split())
        raise ValueError(f"cannot read an image of column {column!r}: {message}") from None
    return buffer.getvalue()


def image_column_folders(
    images: Location | Mapping[str, Location] | None, columns: list[str], available: list[str]
) -> dict[str, str]:
    """Returns the folder of every image column."""
    if isinstance(images, Mapping):
        check_image_columns(list(images), columns, available, "images", "frame")
        given = {name: _folder(folder) for name, folder in images.items()}
        return {name: given.get(name) or absolute_folder(".") for name in columns}
    return dict.fromkeys(columns, absolute_folder(".") if images is None else _folder(images))


def _folder(images: Location) -> str:
    """Returns a folder of images as an absolute path or a URI, checked."""
    if not isinstance(images, str | os.PathLike):
        raise OptionError(
            f"images must be a folder, or a folder for each column; got {images!r}", "images"
        )
    return image_folder(os.fspath(images), "images")
