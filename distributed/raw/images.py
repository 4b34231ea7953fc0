"""Prepares images: from bytes or files to the size and mode of a modality.

It includes conversion, fitting and encoding; decoding.py decodes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from distributed.raw.decoding import EncodedImage, orientation, refusing
from distributed.raw.limits import MAX_PIXELS, ImageLimits, image_bytes

FULL_RANGE = (0.0, 65535.0)
GREYS = np.arange(256, dtype=np.int64)
JPEG_QUALITY = 95
PNG_COMPRESSION = 6
WHITE = (255, 255, 255, 255)
GREY_SAMPLE = 4096  # grey values of an image that are looked at
BAND_PIXELS = 1 << 18  # of a large image that are converted together


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

    It is decoded only if it is a PNG or has more than 8 bits of grey.
    """
    encoded = EncodedImage(data, ImageLimits(max_pixels))
    with refusing():
        image = encoded.open()
        height, width = image.height, image.width
        if image.format == "PNG":  # whose orientation may come after its pixels
            encoded.load(image)
        # Pillow turns a TIFF itself, and its size too.
        if orientation(image) >= 5 and image.format != "TIFF":
            height, width = width, height
        values = None
        if has_more_than_8_bits(image):
            values = _grey_sample(encoded.load(image))
        return ImageHeader(height, width, is_grey(image), values)


def _grey_sample(image: Image.Image) -> NDArray[np.float32]:
    """Returns some grey values, evenly spread."""
    step = max(1, image.width * image.height // GREY_SAMPLE)
    pieces = []
    for (_, top, *_), band in _bands(image):
        first = -(top * image.width) % step
        pieces.append(np.asarray(band).ravel()[first::step].astype(np.float32))
    return np.concatenate(pieces)


def _bands(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """Yields the image in bands of whole rows with their boxes, so that copies of it are small."""
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield box, image if rows >= image.height else image.crop(box)


def has_more_than_8_bits(image: Image.Image) -> bool:
    """Returns whether the image has more than 8 bits of grey."""
    return image.mode == "F" or image.mode.startswith("I")


def is_grey(image: Image.Image) -> bool:
    return has_more_than_8_bits(image) or image.mode in ("1", "L", "LA", "La")


def needs_conversion(image: Image.Image, mode: str) -> bool:
    return image.mode != mode or "transparency" in image.info


def convert_mode(
    image: Image.Image, channels: int, window: tuple[float, float] | None
) -> Image.Image:
    """Returns the image as 8-bit grey or RGB, itself if it is.

    16-bit grey values are rescaled by the window; transparent pixels become white.
    """
    mode = "L" if channels == 1 else "RGB"
    if not needs_conversion(image, mode):
        return image
    converted = Image.new(mode, image.size)
    for box, band in _bands(image):
        converted.paste(_convert_band(band, mode, window), box)
    return converted


def _convert_band(image: Image.Image, mode: str, window: tuple[float, float] | None) -> Image.Image:
    if has_more_than_8_bits(image):
        low, high = window or FULL_RANGE
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low)
        scaled = np.clip((values - low) * (255.0 / (high - low)), 0, 255)
        image = Image.fromarray((scaled + 0.5).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, WHITE)
        image = Image.alpha_composite(white, layer).convert("RGB")
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
    with refusing():
        return _prepare(EncodedImage(data, ImageLimits(spec.max_pixels)), spec)


def _prepare(encoded: EncodedImage, spec: ImageSpec) -> PreparedImage:
    opened = encoded.open()
    stored = (opened.size, opened.mode)  # of the file: loading may shrink or convert the image
    encoded.load(opened, about=max(spec.height, spec.width))
    raw = encoded.upright(opened)
    is_as_stored = raw is opened and stored == (raw.size, raw.mode)
    del opened  # of an image that was turned
    kind, was_colour, was_deep = raw.format, not is_grey(raw), has_more_than_8_bits(raw)
    mode = "L" if spec.channels == 1 else "RGB"
    if needs_conversion(raw, mode):
        encoded.check_memory(raw, image_bytes(raw) + image_bytes(raw, mode))
    image = convert_mode(raw, spec.channels, spec.window)
    is_as_stored = is_as_stored and image is raw
    del raw
    hashed = hashlib.blake2b(digest_size=8, key=repr(image.size).encode())
    for _, band in _bands(image):
        hashed.update(band.tobytes())
    fitted = fit_image(image, spec.height, spec.width, spec.fit)
    counts = np.array(fitted.histogram(), dtype=np.int64).reshape(spec.channels, 256)
    sums = (*(counts @ GREYS).tolist(), *(counts @ GREYS**2).tolist())
    if is_as_stored and fitted is image and kind in ("JPEG", "PNG"):
        content = encoded.data
    else:
        content = encode_image(fitted, "JPEG" if kind == "JPEG" else "PNG")
    digest = int.from_bytes(hashed.digest(), "little")
    return PreparedImage(content, digest, sums, was_colour, was_deep)


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
