"""Images: modes, orientation, fitting, what is refused, and what a path may reach."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from distributed.ingestion.image_specs import inspect_image_column
from distributed.ingestion.options import IngestOptions
from distributed.raw import images
from distributed.raw.decoding import EncodedImage, orientation
from distributed.raw.image_files import ImageFolder
from distributed.raw.images import ImageSpec
from distributed.raw.limits import ORIENTATION, ImageLimits, RowRefused
from distributed.raw.rows import load_images
from distributed.raw.table import open_raw_table


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def spec(size: tuple[int, int] = (8, 8), channels: int = 3, **changes: object) -> ImageSpec:
    return ImageSpec(name="x", height=size[0], width=size[1], channels=channels, **changes)  # type: ignore[arg-type]


def noise(height: int, width: int, *, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_bytes_of_the_right_size_and_mode_are_kept(kind: str) -> None:
    data = stored(Image.fromarray(noise(8, 8)), kind)
    assert images.prepare_image(data, spec()).data == data
    grey = stored(Image.fromarray(noise(8, 8, channels=1)), kind)
    assert images.prepare_image(grey, spec(channels=1)).data == grey
    assert images.prepare_image(grey, spec()).data != grey


def test_a_resized_jpeg_stays_jpeg_and_anything_else_becomes_png() -> None:
    big = Image.fromarray(noise(20, 20))
    assert opened(images.prepare_image(stored(big, "JPEG"), spec()).data).format == "JPEG"
    for kind in ("PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"):
        assert opened(images.prepare_image(stored(big, kind), spec()).data).format == "PNG"


def test_a_large_jpeg_decoded_at_a_fraction_is_not_kept_whole() -> None:
    data = stored(Image.fromarray(noise(128, 128)), "JPEG")
    result = images.prepare_image(data, spec((16, 16)))
    assert opened(result.data).size == (16, 16)


def test_exif_orientation_turns_the_image_and_is_gone_afterwards() -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255  # left half white
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn a quarter clockwise: the left half goes on top
    for kind in ("PNG", "JPEG"):
        upright = opened(
            images.prepare_image(
                stored(
                    Image.fromarray(pixels),
                    kind,
                    exif=exif,
                    **({"quality": 95} if kind == "JPEG" else {}),
                ),
                spec(),
            ).data
        )
        values = np.asarray(upright).astype(int)
        assert values[:3].min() > 200
        assert values[5:].max() < 50
        assert orientation(upright) == 1
    assert (images.inspect_image(stored(Image.new("RGB", (10, 20)), exif=exif)).height, 10) == (
        10,
        10,
    )


def test_the_size_of_a_turned_image_is_that_of_its_pixels_in_every_format() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        data = stored(Image.new("RGB", (20, 40)), kind, exif=exif)
        encoded = EncodedImage(data, ImageLimits())
        seen, pixels = images.inspect_image(data), encoded.upright(encoded.load(encoded.open()))
        assert (seen.width, seen.height) == pixels.size == (40, 20)


def test_transparency_goes_onto_white_and_palettes_to_rgb() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert np.asarray(opened(images.prepare_image(stored(clear), spec()).data)).min() == 255
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert (
        abs(int(np.asarray(opened(images.prepare_image(stored(half), spec()).data)).mean()) - 127)
        <= 1
    )
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    result = opened(images.prepare_image(stored(palette), spec()).data)
    assert result.mode == "RGB"
    assert np.asarray(result)[0, 0].tolist() == [10, 200, 30]
    see_through = Image.new("P", (8, 8))
    see_through.putpalette([0, 0, 0, 9, 9, 9])
    assert (
        np.asarray(
            opened(images.prepare_image(stored(see_through, transparency=0), spec()).data)
        ).min()
        == 255
    )
    shadow = Image.new("LA", (8, 8), (0, 0))
    assert (
        np.asarray(opened(images.prepare_image(stored(shadow), spec(channels=1)).data)).min() == 255
    )


def test_cmyk_becomes_rgb() -> None:
    data = stored(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    assert opened(images.prepare_image(data, spec()).data).mode == "RGB"


def test_sixteen_bit_grey_goes_through_its_window() -> None:
    values = np.tile(np.linspace(1000, 3000, 8).astype(np.uint16), (8, 1))
    data = stored(Image.fromarray(values))
    seen = np.asarray(
        opened(images.prepare_image(data, spec(channels=1, window=(1000.0, 3000.0))).data)
    )
    assert seen[0].tolist() == [round(255 * (int(v) - 1000) / 2000) for v in values[0]]
    dark = np.asarray(
        opened(images.prepare_image(data, spec(channels=1)).data)
    )  # the full range without a window
    assert dark.max() == round(255 * 3000 / 65535)
    look = images.inspect_image(data)
    assert look.grey
    assert look.values is not None
    assert look.values.max() == 3000
    floats = np.full((8, 8), np.nan, dtype=np.float32)
    floats[:4] = 2000
    assert (
        np.asarray(
            opened(
                images.prepare_image(
                    stored(Image.fromarray(floats), "TIFF"), spec(channels=1, window=(1000, 3000))
                ).data
            )
        ).max()
        == 128
    )


def test_a_sample_without_a_finite_grey_has_no_window(tmp_path: Path) -> None:
    dead = stored(Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)), "TIFF")
    good = stored(Image.fromarray(np.linspace(-5, 5, 81, dtype=np.float32).reshape(9, 9)), "TIFF")
    pq.write_table(
        pa.table({"y": ["a", "b"] * 64, "dead": [dead] * 128, "one": [dead, good] * 64}),
        tmp_path / "t.parquet",
    )
    options = IngestOptions(table=str(tmp_path / "t.parquet"), label="y", out="o")
    table = open_raw_table(options.table)
    assert inspect_image_column(options, table, "dead", "").spec.window is None
    assert inspect_image_column(options, table, "one", "").spec.window == pytest.approx((-5, 5))


def test_fits_pad_crop_and_stretch() -> None:
    wide = Image.new("RGB", (40, 20), (255, 255, 255))
    padded = np.asarray(images.fit_image(wide, 8, 8, "pad"))
    assert padded[:2].max() == padded[6:].max() == 0
    assert padded[2:6].min() == 255
    striped = np.zeros((20, 40, 3), dtype=np.uint8)
    striped[:, 10:30] = 255  # the middle square
    assert np.asarray(images.fit_image(Image.fromarray(striped), 8, 8, "crop"))[:, 1:7].min() > 240
    assert np.asarray(images.fit_image(wide, 8, 8, "stretch")).min() == 255
    for fit in ("pad", "crop", "stretch"):
        assert images.fit_image(Image.new("L", (5000, 1)), 8, 16, fit).size == (16, 8)


def test_pixel_sums_are_exact() -> None:
    pixels = noise(8, 8)
    sums = images.prepare_image(stored(Image.fromarray(pixels)), spec()).sums
    wide = pixels.reshape(-1, 3).astype(int)
    assert sums == (*wide.sum(0), *(wide**2).sum(0))


def test_the_same_pixels_have_the_same_digest_whatever_the_file() -> None:
    image = Image.fromarray(noise(9, 7))
    one, two = (images.prepare_image(stored(image, kind), spec()).digest for kind in ("PNG", "BMP"))
    assert one == two
    assert one != images.prepare_image(stored(Image.fromarray(noise(9, 7, seed=1))), spec()).digest


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a huge size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not an image", "not an image of a known format"),
        (stored(Image.fromarray(noise(64, 64)), "JPEG")[:900], "unreadable image"),
        (stored(Image.fromarray(noise(64, 64)))[:900], "unreadable image"),
        (bomb(60_000, 60_000), "60000x60000 pixels is over the limit of 64000000"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RowRefused, match=reason):
        images.prepare_image(data, spec())


def test_a_mode_that_cannot_become_grey_is_refused() -> None:
    data = stored(Image.new("LAB", (8, 8)), "TIFF")
    assert opened(images.prepare_image(data, spec()).data).mode == "RGB"
    with pytest.raises(RowRefused, match="unreadable image: conversion from LAB"):
        images.prepare_image(data, spec(channels=1))


def test_every_truncation_is_refused_or_decoded_never_a_crash() -> None:
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"):
        data = stored(Image.fromarray(noise(16, 16)), kind)
        for cut in range(0, len(data), max(1, len(data) // 40)):
            try:
                result = images.prepare_image(data[:cut] + bytes(cut % 7), spec())
            except RowRefused:
                continue
            assert opened(result.data).size == (8, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "images"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "a.png").write_bytes(b"a")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "images_evil").mkdir()  # begins with the folder's name and is another one
    (tmp_path / "images_evil" / "a.png").write_bytes(b"secret")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "up").symlink_to(tmp_path)
    (inside / "good.png").symlink_to(inside / "deep" / "a.png")
    os.mkfifo(inside / "pipe.png")
    return inside


def test_files_inside_the_folder_are_read(folder: Path) -> None:
    reader = ImageFolder(str(folder), ImageLimits())
    for name in (
        "deep/a.png",
        "deep/../deep/a.png",
        str(folder / "deep" / "a.png"),
        f"file://{folder}/deep/a.png",
        "good.png",
    ):
        assert reader.read(name) == b"a"
    assert reader.read({"bytes": b"b", "path": "x"}) == b"b"
    assert reader.read({"bytes": None, "path": "deep/a.png"}) == b"a"


@pytest.mark.parametrize("cell", [None, "", "  ", b"", {"bytes": None, "path": None}])
def test_an_empty_cell_is_no_image(folder: Path, cell: object) -> None:
    assert ImageFolder(str(folder), ImageLimits()).read(cell) is None


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "link.png",
        "up/secret.png",
        "../images_evil/a.png",
        "up/images_evil/a.png",
        "/etc/passwd",
        "s3://b/x.png",
        "http://h/x.png",
        "a\0b",
    ],
)
def test_paths_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(RowRefused, match="path leaves the folder"):
        ImageFolder(str(folder), ImageLimits()).read(name)


def test_a_folder_whose_name_only_begins_alike_is_another_one(folder: Path) -> None:
    reader = ImageFolder(str(folder), ImageLimits())
    with pytest.raises(RowRefused, match="path leaves the folder"):
        reader.read(str(folder.parent / "images_evil" / "a.png"))


def test_names_in_a_bucket_stay_below_the_folder(folder: Path) -> None:
    reader = ImageFolder(str(folder), ImageLimits())
    # A folder of this machine in place of the bucket: the same checks, the same file systems.
    reader.remote, reader.uri, reader.system = True, "s3://b/images", fs.LocalFileSystem()
    assert reader.read("deep/a.png") == reader.read("s3://b/images/deep/a.png") == b"a"
    for name in (
        "../images_evil/a.png",
        "deep/../../images_evil/a.png",
        "s3://b/images_evil/a.png",
        "s3://b/images/../secret.png",
        "gs://b/images/deep/a.png",
    ):
        with pytest.raises(RowRefused, match="path leaves the folder"):
            reader.read(name)


def test_missing_files_folders_and_pipes_are_refused(folder: Path) -> None:
    reader = ImageFolder(str(folder), ImageLimits())
    with pytest.raises(RowRefused, match=r"no such file: 'gone\.png'"):
        reader.read("gone.png")
    for name in ("deep", "pipe.png"):
        with pytest.raises(RowRefused, match="not a file"):
            reader.read(name)
    with pytest.raises(RowRefused, match="no path: it may have 4096"):
        reader.read("x" * 5000)


def test_columns_of_records_and_of_dictionary_words_are_read(folder: Path) -> None:
    data = stored(Image.fromarray(noise(8, 8)))
    (folder / "b.png").write_bytes(data)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    records = pa.chunked_array(
        [[{"bytes": data, "path": None}], [{"bytes": None, "path": "b.png"}, None]], kind
    )
    words = pa.chunked_array([["b.png", None, "b.png"]]).dictionary_encode()
    for cells, there in ((records, [True, True, False]), (words, [True, False, True])):
        reasons: list[str | None] = [None] * 3
        found = load_images(cells, spec(), str(folder), reasons)
        assert [p is not None and p.data == data for p in found] == there
        assert reasons == [None] * 3
