"""Decodes an encoded image within the limits of its memory, and turns it upright."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from distributed.raw.image_files import error_line
from distributed.raw.limits import (
    ORIENTATION,
    ImageLimits,
    RowRefused,
    check_encoded,
    decoder_bytes,
    image_bytes,
)

# Formats whose decoders are in Pillow itself: none of them starts another program or reads other
# files.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = None  # the limits are checked before a pixel is decoded
# Of damaged images, which are refused or good enough. Filters are changed here once, because
# warnings.catch_warnings() in one thread hides the warnings of all others.
warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def refusing() -> Iterator[None]:
    """Turns whatever goes wrong with one image into the refusal of its row.

    Decoders of hostile bytes raise nearly anything, and large images may not fit into memory.
    """
    try:
        yield
    except RowRefused:
        raise
    except UnidentifiedImageError:
        raise RowRefused(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except Exception as error:
        raise RowRefused(f"unreadable image: {error_line(error)}") from None


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file and the limits that it is decoded within."""

    data: bytes
    limits: ImageLimits

    def open(self) -> Image.Image:
        """Opens the image by its header: its size is checked before anything is decoded."""
        self.limits.check_file(len(self.data))
        check_encoded(self.data)
        image = Image.open(io.BytesIO(self.data), formats=FORMATS)
        self.limits.check_header(image)
        return image

    def load(self, image: Image.Image, about: int = 0) -> Image.Image:
        """Decodes the opened image.

        about: a side length that suffices, so that large JPEGs are decoded at a fraction of their
        size; 0 for the whole image.
        """
        width, height = image.size
        if about:
            image.draft(None, (2 * about, 2 * about))
        working = decoder_bytes(image, self.data, width, height)
        self.check_memory(image, image_bytes(image) + working)
        image.load()
        return image

    def upright(self, image: Image.Image) -> Image.Image:
        """Returns the decoded image turned as its EXIF data say; itself where they say nothing."""
        turn = TURNS.get(orientation(image))
        if turn is None:
            return image
        self.check_memory(image, 2 * image_bytes(image))
        upright = image.transpose(turn)
        upright.format = image.format
        return upright

    def check_memory(self, image: Image.Image, needed: int) -> None:
        """Refuses an image that takes so many bytes beside those of its file."""
        self.limits.check_memory(image, len(self.data) + needed)


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) to 8."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF: the pixels are good
        return 1
    return value if value in range(2, 9) else 1
