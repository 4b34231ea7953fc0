"""What an ingest costs, about: how many seconds the rows of a table take on one CPU."""

from __future__ import annotations

from collections.abc import Sequence

from distributed.raw.table import RawTable

IMAGE_SECONDS, PIXEL_SECONDS = 2.5e-4, 8e-9  # an image, and each of its pixels
CELL_SECONDS = 3e-6
# Guesses where the number of rows is not known.
CSV_ROW_BYTES, CSV_CELL_BYTES = 100, 7


def row_count(table: RawTable) -> int:
    """Returns the number of rows; a guess for a CSV."""
    return table.rows or table.size // CSV_ROW_BYTES


def image_seconds(pixels: Sequence[float]) -> float:
    """Returns the seconds of a row's images. pixels: the number of pixels of each."""
    return sum(IMAGE_SECONDS + PIXEL_SECONDS * p for p in pixels)


def table_seconds(table: RawTable, pixels: Sequence[float]) -> float:
    """Returns the seconds of all rows. pixels: number of pixels of each image in a row."""
    if table.rows is None:
        cells = table.size / CSV_CELL_BYTES
    else:
        cells = table.rows * len(table.schema.names)
    return CELL_SECONDS * cells + row_count(table) * image_seconds(pixels)
