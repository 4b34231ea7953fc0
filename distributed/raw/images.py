"""Images from bytes or files to the size and mode of a modality: safe decoding, orientation, fitting, encoding."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from distributed.runtime.storage import filesystem, is_uri

# Formats whose decoders are in Pillow itself: nothing that starts another program, nothing that reads other files.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
FITS = ("pad", "crop", "stretch")
MAX_PIXELS = 64_000_000
FULL_RANGE = (0.0, 65535.0)
ORIENTATION = 0x0112  # the EXIF tag
GREYS = np.arange(256, dtype=np.int64)
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked on the header, before any pixel is decoded


class RowRefused(Exception):
    """A row cannot be used; the message is the reason that rejected.parquet states."""


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How one image modality is prepared. window: the grey values of 16-bit images that become 0 and 255."""

    name: str
    height: int
    width: int
    channels: int
    fit: str = "pad"
    window: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class PreparedImage:
    """One image, ready for a shard. sums: per channel the sum, then the sum of squares, of its pixels (0..255, exact)."""

    data: bytes
    digest: int
    sums: tuple[int, ...]
    was_colour: bool
    was_deep: bool


class ImageFolder:
    """Reads the files that an image column names, and none outside its folder."""

    def __init__(self, uri: str):
        self.uri = uri.removeprefix("file://") or "."
        self.remote = is_uri(self.uri)
        if self.remote:
            self.system, self.root = filesystem(self.uri)
        else:
            self.root = os.path.realpath(self.uri)

    def read(self, cell: Any) -> bytes | None:
        """The bytes behind a cell (bytes, a path, or a record of both); None for an empty cell."""
        if isinstance(cell, dict):
            return self.read(cell.get("bytes") or cell.get("path"))
        if cell is None or cell == b"" or (isinstance(cell, str) and not cell.strip()):
            return None
        if isinstance(cell, bytes):
            return cell
        return self._read_remote(str(cell)) if self.remote else self._read_local(str(cell))

    def _read_local(self, name: str) -> bytes:
        plain = name.removeprefix("file://")
        if is_uri(plain) or "\0" in plain:
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        path = os.path.realpath(os.path.join(self.root, plain))  # symbolic links resolved
        if os.path.commonpath([path, self.root]) != self.root:
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        if not os.path.isfile(path):  # a pipe or a device would never end
            raise RowRefused(
                f"no such file: {name!r}" if not os.path.exists(path) else f"not a file: {name!r}"
            )
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise RowRefused(f"unreadable file: {name!r} ({error.strerror})") from None

    def _read_remote(self, name: str) -> bytes:
        prefix = self.uri.rstrip("/") + "/"
        if is_uri(name) and not name.startswith(prefix):
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        path = posixpath.normpath(posixpath.join(self.root, name.removeprefix(prefix)))
        if not path.startswith(self.root.rstrip("/") + "/"):
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        try:
            with self.system.open_input_file(path) as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise RowRefused(f"no such file: {name!r}") from None
        except OSError as error:
            raise RowRefused(f"unreadable file: {name!r} ({_line(error)})") from None


def load_upright_image(data: bytes, max_pixels: int = MAX_PIXELS, about: int = 0) -> Image.Image:
    """A decoded, upright image. `about`: a side length that suffices, so that large JPEGs are decoded at a fraction of their size."""
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
            raise RowRefused(f"unreadable image: {_line(error)}") from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """The image by its header: nothing is decoded before its size is known to be within the limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise RowRefused(f"not an image of a known format ({', '.join(FORMATS)})") from None
        except Exception as error:
            raise RowRefused(f"unreadable image: {_line(error)}") from None
    if image.width * image.height > max_pixels:
        raise RowRefused(
            f"image of {image.width}x{image.height} pixels is over the limit of {max_pixels} (--max-pixels)"
        )
    return image


@dataclass(frozen=True)
class ImageHeader:
    """What a header says of an image; values are a sample of its greys where it has more than 8 bits of them."""

    height: int
    width: int
    grey: bool
    values: np.ndarray | None


def inspect_image(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """The upright shape and the kind of an image, without decoding it unless it is deep grey."""
    image = _open(data, max_pixels)
    turned = (
        orientation(image) >= 5 and image.format != "TIFF"
    )  # Pillow turns a TIFF itself, its size too
    height, width = (image.width, image.height) if turned else (image.height, image.width)
    values = None
    if is_deep(image):
        values = np.asarray(load_upright_image(data, max_pixels), dtype=np.float32).ravel()
        values = values[:: max(1, len(values) // 4096)]
    return ImageHeader(height, width, is_grey(image), values)


def _upright(image: Image.Image) -> Image.Image:
    if orientation(image) == 1:
        return image
    upright = ImageOps.exif_transpose(image)
    upright.format = image.format
    return upright


def orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF: the pixels are good
        return 1
    return value if value in range(2, 9) else 1


def is_deep(image: Image.Image) -> bool:
    """Whether the image has more than 8 bits of grey."""
    return image.mode == "F" or image.mode.startswith("I")


def is_grey(image: Image.Image) -> bool:
    return is_deep(image) or image.mode in ("1", "L", "LA", "La")


def convert_mode(
    image: Image.Image, channels: int, window: tuple[float, float] | None
) -> Image.Image:
    """8-bit grey or RGB: deep grey goes through the window, transparency onto white."""
    if is_deep(image):
        low, high = window or FULL_RANGE
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low)
        scaled = np.clip((values - low) * (255.0 / (high - low)), 0, 255)
        image = Image.fromarray((scaled + 0.5).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layer).convert("RGB")
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def fit_image(image: Image.Image, height: int, width: int, fit: str) -> Image.Image:
    """The image at exactly this size; pad and crop keep its aspect, centred."""
    size = (width, height)
    if image.size == size:
        return image
    if fit == "stretch":
        return image.resize(size, Image.Resampling.LANCZOS)
    if fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    scale = min(width / image.width, height / image.height)
    inner = (
        min(width, max(1, round(image.width * scale))),
        min(height, max(1, round(image.height * scale))),
    )
    canvas = Image.new(image.mode, size)  # black
    canvas.paste(
        image.resize(inner, Image.Resampling.LANCZOS),
        ((width - inner[0]) // 2, (height - inner[1]) // 2),
    )
    return canvas


def prepare_image(data: bytes, spec: ImageSpec) -> PreparedImage:
    """Bytes of any accepted image as bytes of the modality's size and mode. Bytes that already fit are kept as they are."""
    opened = _open(data, spec.max_pixels)
    stored = (
        opened.size,
        opened.mode,
        orientation(opened),
    )  # of the file: loading may shrink, convert or turn the image
    raw = _load(opened, max(spec.height, spec.width))
    try:
        image = convert_mode(raw, spec.channels, spec.window)
    except Exception as error:  # a mode, such as LAB, that Pillow cannot turn into this one
        raise RowRefused(f"unreadable image: {_line(error)}") from None
    digest = hashlib.blake2b(image.tobytes(), digest_size=8, key=repr(image.size).encode()).digest()
    fitted = fit_image(image, spec.height, spec.width, spec.fit)
    counts = np.array(fitted.histogram(), dtype=np.int64).reshape(spec.channels, 256)
    sums = (*(counts @ GREYS).tolist(), *(counts @ GREYS**2).tolist())
    keeps = fitted is raw and raw.format in ("JPEG", "PNG") and stored == (raw.size, raw.mode, 1)
    encoded = data if keeps else encode_image(fitted, "JPEG" if raw.format == "JPEG" else "PNG")
    return PreparedImage(
        encoded, int.from_bytes(digest, "little"), sums, not is_grey(raw), is_deep(raw)
    )


def encode_image(image: Image.Image, kind: str) -> bytes:
    """JPEG at quality 95 without chroma subsampling (it blurs colour at these sizes), or PNG."""
    buffer = io.BytesIO()
    options: dict[str, Any] = (
        {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"compress_level": 6}
    )
    image.info = {}  # no profiles, comments or positions in the shards
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
