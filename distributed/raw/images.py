"""Prepares images: from bytes or files to the size and mode of a modality.

It includes safe decoding, orientation, fitting and encoding.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from distributed.raw.image_files import RowRefused, error_line

# Formats whose decoders are in Pillow itself: none of them starts another program or reads other
# files.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 64_000_000
FULL_RANGE = (0.0, 65535.0)
ORIENTATION = 0x0112  # the EXIF tag
GREYS = np.arange(256, dtype=np.int64)
JPEG_QUALITY = 95
PNG_COMPRESSION = 6
WHITE = (255, 255, 255, 255)
GREY_SAMPLE = 4096  # grey values of an image that are looked at
Image.MAX_IMAGE_PIXELS = None  # prepare_image checks its own limit before a pixel is decoded


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How one image modality is prepared.

    fit: how an image of another shape is fitted: pad, crop or stretch.
    window: the grey values of 16-bit images that become 0 and 255.
    max_pixels: larger images are refused.
    """

    name: str
    height: int
    width: int
    channels: int
    fit: str = "pad"
    window: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class PreparedImage:
    """One image, ready for a shard.

    digest: of its pixels before fitting.
    sums: the sum of every channel's pixels (0..255), then the sums of squares; exact.
    was_deep: it had more than 8 bits of grey.
    """

    data: bytes
    digest: int
    sums: tuple[int, ...]
    was_colour: bool
    was_deep: bool


def load_upright_image(data: bytes, max_pixels: int = MAX_PIXELS, about: int = 0) -> Image.Image:
    """Returns a decoded, upright image.

    about: a side length that suffices, so that large JPEGs are decoded at a fraction of their
    size; 0 for the whole image.
    """
    return _load(_open(data, max_pixels), about)


def _load(image: Image.Image, about: int) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if about:
                image.draft(None, (2 * about, 2 * about))
            image.load()
            return _upright(image)
        except Exception as error:  # decoders of hostile bytes raise nearly anything
            raise RowRefused(f"unreadable image: {error_line(error)}") from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Opens an image by its header: its size is checked before anything is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise RowRefused(f"not an image of a known format ({', '.join(FORMATS)})") from None
        except Exception as error:
            raise RowRefused(f"unreadable image: {error_line(error)}") from None
    if image.width * image.height > max_pixels:
        raise RowRefused(
            f"image of {image.width}x{image.height} pixels is over the limit of {max_pixels} "
            "(--max-pixels)"
        )
    return image


@dataclass(frozen=True)
class ImageHeader:
    """What a header says of an image.

    values: a sample of its grey values where it has more than 8 bits of them.
    """

    height: int
    width: int
    grey: bool
    values: NDArray[np.float32] | None


def inspect_image(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Returns the upright shape and the kind of an image.

    It is decoded only if it has more than 8 bits of grey.
    """
    image = _open(data, max_pixels)
    height, width = image.height, image.width
    # Pillow turns a TIFF itself, and its size too.
    if orientation(image) >= 5 and image.format != "TIFF":
        height, width = width, height
    values = None
    if has_more_than_8_bits(image):
        values = np.asarray(load_upright_image(data, max_pixels), dtype=np.float32).ravel()
        values = values[:: max(1, len(values) // GREY_SAMPLE)]
    return ImageHeader(height, width, is_grey(image), values)


def _upright(image: Image.Image) -> Image.Image:
    if orientation(image) == 1:
        return image
    upright = ImageOps.exif_transpose(image)
    upright.format = image.format
    return upright


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) to 8."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF: the pixels are good
        return 1
    return value if value in range(2, 9) else 1


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Returns whether the image has more than 8 bits of grey."""
    return image.mode == "F" or image.mode.startswith("I")


def is_grey(image: Image.Image) -> bool:
    return has_more_than_8_bits(image) or image.mode in ("1", "L", "LA", "La")


def convert_mode(
    image: Image.Image, channels: int, window: tuple[float, float] | None
) -> Image.Image:
    """Returns the image as 8-bit grey or RGB.

    16-bit grey values are rescaled by the window; transparent pixels become white.
    """
    if has_more_than_8_bits(image):
        low, high = window or FULL_RANGE
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low)
        scaled = np.clip((values - low) * (255.0 / (high - low)), 0, 255)
        image = Image.fromarray((scaled + 0.5).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, WHITE)
        image = Image.alpha_composite(white, layer).convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def fit_image(image: Image.Image, height: int, width: int, fit: str) -> Image.Image:
    """Returns the image at exactly this size; pad and crop keep its aspect, centred."""
    size = (width, height)
    if image.size == size:
        return image
    if fit == "stretch":
        return image.resize(size, Image.Resampling.LANCZOS)
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    scale = min(width / image.width, height / image.height)
    inner_width = min(width, max(1, round(image.width * scale)))
    inner_height = min(height, max(1, round(image.height * scale)))
    inner = image.resize((inner_width, inner_height), Image.Resampling.LANCZOS)
    canvas = Image.new(image.mode, size)  # black
    canvas.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return canvas


def prepare_image(data: bytes, spec: ImageSpec) -> PreparedImage:
    """Returns an image in the modality's size and mode.

    Bytes that already have them are kept as they are.
    """
    opened = _open(data, spec.max_pixels)
    # Of the file: loading may shrink, convert or turn the image.
    stored = (opened.size, opened.mode, orientation(opened))
    raw = _load(opened, max(spec.height, spec.width))
    try:
        image = convert_mode(raw, spec.channels, spec.window)
    except Exception as error:  # a mode, such as LAB, that Pillow cannot turn into this one
        raise RowRefused(f"unreadable image: {error_line(error)}") from None
    digest = hashlib.blake2b(image.tobytes(), digest_size=8, key=repr(image.size).encode()).digest()
    fitted = fit_image(image, spec.height, spec.width, spec.fit)
    counts = np.array(fitted.histogram(), dtype=np.int64).reshape(spec.channels, 256)
    sums = (*(counts @ GREYS).tolist(), *(counts @ GREYS**2).tolist())
    keeps = fitted is raw and raw.format in ("JPEG", "PNG") and stored == (raw.size, raw.mode, 1)
    encoded = data if keeps else encode_image(fitted, "JPEG" if raw.format == "JPEG" else "PNG")
    return PreparedImage(
        encoded, int.from_bytes(digest, "little"), sums, not is_grey(raw), has_more_than_8_bits(raw)
    )


def encode_image(image: Image.Image, kind: str) -> bytes:
    """Returns a JPEG or PNG file, without profiles, comments or GPS data.

    Chroma subsampling is off, because it blurs colour in small images.
    """
    buffer = io.BytesIO()
    image.info = {}
    if kind == "JPEG":
        image.save(buffer, kind, quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, kind, compress_level=PNG_COMPRESSION)
    return buffer.getvalue()
