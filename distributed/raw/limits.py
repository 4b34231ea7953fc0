"""The limits of one row: what is larger is refused with its reason, and the other rows go on.

All limits of an image but its side follow from the pixels that it may have (--max-pixels), so that
whoever has larger images raises one number. With the default a process that prepares images stays
below 700 MB, whatever the files are. The limits of an ingest hold for the predictions too, so the
reasons name the command that has the option.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from PIL import Image, JpegImagePlugin, TiffImagePlugin

MAX_PIXELS = 64_000_000
MAX_SIDE = 100_000  # pixels: the filters of a resize take memory for each pixel of a side
FILE_BYTES = 4  # of an image file, for each of the pixels: those of an uncompressed one
WORKING_BYTES = 7  # for each of the pixels: the file, what its decoder needs, and the image itself
SMALLEST_BASIS = 16_000_000  # pixels from which the two are counted: small files have headers too
MAX_SCANS = 100  # of a JPEG; each costs as much time as decoding the image, and files have about 10
MAX_TIFF_VALUES = 200_000  # of a tag, such as the offsets of strips; each takes a Python object
MAX_PATH = 4096  # characters
MAX_CELL = 1_000_000  # of a table cell: characters, as UTF-8 counts them

SCAN_MARKER = b"\xff\xda"  # of a JPEG; compressed pixels never hold it
ORIENTATION = 0x0112  # the EXIF tag
TIFF_ORDERS = {b"II": "<", b"MM": ">"}
TIFF_BYTE_TYPES = (1, 2, 6, 7)  # whose values are kept together
CHANNEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
PIXEL_BYTES = 4  # of every other mode in memory, RGB included
TIFF_JPEG_BYTES = 10  # of each pixel of a strip that is a JPEG: coefficients and pixels
WEBP_BYTES = 16  # of each pixel: a canvas, the one before it, their copy, and the decoder's own


class RowRefused(Exception):
    """A row cannot be used; the message is the reason in rejected.parquet."""


@dataclass(frozen=True)
class ImageLimits:
    """The limits of one image. pixels: of an image, at most."""

    pixels: int = MAX_PIXELS

    @property
    def file_bytes(self) -> int:
        return FILE_BYTES * max(self.pixels, SMALLEST_BASIS)

    @property
    def working_bytes(self) -> int:
        return WORKING_BYTES * max(self.pixels, SMALLEST_BASIS)

    def check_file(self, size: int) -> None:
        """Refuses a file or a cell of so many bytes."""
        if size > self.file_bytes:
            raise RowRefused(
                f"image file of {size:,} bytes is over the limit of {self.file_bytes:,} "
                f"({FILE_BYTES} for each of ingest.py --max-pixels)"
            )

    def check_header(self, image: Image.Image) -> None:
        """Refuses an image by its size, before anything of it is decoded."""
        size = f"image of {image.width}x{image.height} pixels"
        if image.width * image.height > self.pixels:
            raise RowRefused(f"{size} is over the limit of {self.pixels} (ingest.py --max-pixels)")
        if max(image.size) > MAX_SIDE:
            raise RowRefused(f"{size} is over the limit of {MAX_SIDE} of a side")

    def check_memory(self, image: Image.Image, needed: int) -> None:
        """Refuses an image of which so many bytes would be in memory at a time."""
        if needed > self.working_bytes:
            raise RowRefused(
                f"image of {image.width}x{image.height} pixels ({image.format}, {image.mode}) "
                f"takes {needed:,} bytes to prepare, over the limit of {self.working_bytes:,} "
                f"({WORKING_BYTES} for each of ingest.py --max-pixels)"
            )


def check_encoded(data: bytes) -> None:
    """Refuses files that would take very long or much memory before their size is known."""
    if data.startswith(b"\xff\xd8") and (scans := data.count(SCAN_MARKER)) > MAX_SCANS:
        raise RowRefused(f"JPEG of {scans} scans is over the limit of {MAX_SCANS}")
    if data[:2] in TIFF_ORDERS:
        _check_tiff_tags(data, TIFF_ORDERS[data[:2]])


def _check_tiff_tags(data: bytes, order: str) -> None:
    """Refuses a TIFF with a tag of very many values."""
    if len(data) < 8:
        return
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    start, count, entry = ("Q", "Q", "HHQ8x") if big else ("I", "H", "HHI4x")
    try:
        (place,) = struct.unpack_from(f"{order}{start}", data, 8 if big else 4)
        (tags,) = struct.unpack_from(f"{order}{count}", data, place)
        place += struct.calcsize(f"{order}{count}")
        for number in range(min(tags, MAX_TIFF_VALUES)):
            size = struct.calcsize(f"{order}{entry}")
            _, kind, values = struct.unpack_from(f"{order}{entry}", data, place + number * size)
            if kind not in TIFF_BYTE_TYPES and values > MAX_TIFF_VALUES:
                raise RowRefused(f"TIFF tag of {values} values is over {MAX_TIFF_VALUES}")
    except (struct.error, OverflowError):  # cut short: its decoder says so
        return


def pixel_bytes(mode: str) -> int:
    """Returns how many bytes Pillow keeps for each pixel of this mode."""
    return CHANNEL_BYTES.get(mode, PIXEL_BYTES)


def image_bytes(image: Image.Image, mode: str = "") -> int:
    """Returns how many bytes an image takes in memory, in its own mode or another one."""
    return image.width * image.height * pixel_bytes(mode or image.mode)


def decoder_bytes(image: Image.Image, data: bytes, width: int, height: int) -> int:
    """Returns how many bytes a decoder takes beside the image.

    width, height: of the whole image; image may be about to be decoded at a fraction of it.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile) and data.count(SCAN_MARKER) > 1:
        # All coefficients of all channels, of 2 bytes each.
        factors = [across * down for _, across, down, _ in image.layer]
        return math.ceil(2 * width * height * sum(factors) / max(factors, default=1))
    # The decoders of TIFF and WebP take a copy of the file.
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return len(data) + _tiff_bytes(image)
    return len(data) + WEBP_BYTES * width * height if image.format == "WEBP" else 0


def _tiff_bytes(image: TiffImagePlugin.TiffImageFile) -> int:
    """Returns the bytes of one strip or tile, and those of a copy if the image has to be turned."""
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    rows = min(int(tags.get(TiffImagePlugin.ROWSPERSTRIP, image.height)), image.height)
    pixels = image.width * rows
    if TiffImagePlugin.TILEOFFSETS in tags:
        sides = (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
        pixels = math.prod(int(tags.get(side, 0)) for side in sides)
    turned = image_bytes(image) if tags.get(ORIENTATION, 1) != 1 else 0
    needed = TIFF_JPEG_BYTES if image.info.get("compression") == "jpeg" else PIXEL_BYTES
    return pixels * max(needed, -(-sum(bits) // 8)) + turned
