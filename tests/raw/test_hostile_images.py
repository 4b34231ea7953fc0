"""Files and cells that are made to take all memory or all time: each is refused with its reason."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, PngImagePlugin

from distributed.raw import images
from distributed.raw.image_files import ImageFolder
from distributed.raw.images import ImageSpec
from distributed.raw.limits import MAX_CELL, MAX_SCANS, ImageLimits, RowRefused
from distributed.raw.rows import REASON, RowPlan, prepare_rows
from tests.conftest import ROOT
from tests.raw.test_images import stored

LIMITS = ImageLimits()
PEAK_BYTES = 700_000_000  # of a process that prepares images with the default limits


def spec(channels: int = 3, **changes: object) -> ImageSpec:
    return ImageSpec(name="x", height=16, width=16, channels=channels, **changes)  # type: ignore[arg-type]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def blank_png(width: int, height: int, depth: int, colour: int, *extra: bytes) -> bytes:
    """A whole black PNG, which compresses to a thousandth. colour: 0 grey, 2 RGB, 6 RGBA."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    packer = zlib.compressobj(1)
    line = bytes(1 + width * channels * depth // 8)
    rows = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + b"".join(extra)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def many_scans() -> bytes:
    data = stored(Image.new("RGB", (64, 64), "red"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (2 * MAX_SCANS) + data[-2:]


def tiff_of_many_strips() -> bytes:
    """A TIFF of 4 pixels that says where 64 million strips are."""
    tags = [(256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 64_000_000, 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(1000)


def tiff_of_a_huge_tile() -> bytes:
    """A TIFF of 256 pixels in one tile of four billion."""
    data = bytearray(stored(Image.new("RGB", (16, 16)), "TIFF", compression="tiff_lzw"))
    (place,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, place)
    new = {273: (324, 4, 1), 278: (323, 4, 1), 279: (325, 4, 1)}
    for at in range(place + 2, place + 2 + 12 * tags, 12):
        tag, _, _, value = struct.unpack_from("<HHII", data, at)
        if tag in new:
            value = 65536 if tag == 278 else value
            struct.pack_into("<HHII", data, at, *new[tag], value)
        if tag == 284:
            struct.pack_into("<HHII", data, at, 322, 4, 1, 65536)
    return bytes(data)


def text_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "0" * 50_000_000, zip=True)
    return stored(Image.new("RGB", (8, 8)), "PNG", pnginfo=info)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: blank_png(60_000_000, 1, 8, 0), "60000000x1 pixels is over the limit of 100000"),
        (lambda: blank_png(1, 200_000, 8, 0), "1x200000 pixels is over the limit of 100000"),
        (many_scans, rf"JPEG of \d+ scans is over the limit of {MAX_SCANS}"),
        (tiff_of_many_strips, "TIFF tag of 64000000 values is over"),
        (text_bomb, "unreadable image: .*text chunk|unreadable image: Decompressed data too large"),
        (lambda: bytes(LIMITS.file_bytes + 1), "image file of 256,000,001 bytes is over the limit"),
    ],
)
def test_what_would_take_all_memory_or_time_is_refused(
    make: Callable[[], bytes], reason: str
) -> None:
    data = make()
    for prepare in (lambda: images.prepare_image(data, spec()), lambda: images.inspect_image(data)):
        with pytest.raises(RowRefused, match=reason):
            prepare()


def test_a_huge_tile_of_a_small_tiff_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(RowRefused, match="takes 17,179,.* bytes to prepare, over the limit of 448"):
        images.prepare_image(tiff_of_a_huge_tile(), spec())


def test_animations_count_by_their_first_frame() -> None:
    frames = [Image.new("RGB", (16, 16), (i, 0, 0)) for i in range(250)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = stored(frames[200], kind, save_all=True, append_images=frames)
        pixels = images.prepare_image(data, spec()).sums[0]
        assert abs(pixels / 256 - 200) < 3


def test_a_larger_limit_of_pixels_raises_those_of_bytes() -> None:
    larger = ImageLimits(256_000_000)
    assert (larger.file_bytes, larger.working_bytes) == (1_024_000_000, 1_792_000_000)
    assert ImageLimits(100).file_bytes == 64_000_000


def test_a_large_image_converts_as_its_parts_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of rows give the pixels, the digest and the sample of grey of the whole image."""
    rng = np.random.default_rng(0)
    deep = Image.fromarray(rng.integers(0, 65536, (50, 31), dtype=np.uint16))
    clear = Image.fromarray(rng.integers(0, 256, (50, 31, 4), dtype=np.uint8), "RGBA")
    palette = Image.fromarray(rng.integers(0, 256, (50, 31, 3), dtype=np.uint8)).quantize(9)
    for image in (deep, clear, palette, clear.convert("LA"), clear.convert("RGB")):
        data = stored(image, transparency=3) if image is palette else stored(image)
        for channels in (1, 3):
            wanted = spec(channels, window=(100.0, 60_000.0))
            whole = images.prepare_image(data, wanted)
            sample = images.inspect_image(data).values
            with monkeypatch.context() as patch:
                patch.setattr(images, "BAND_PIXELS", 4 * 31)
                assert images.prepare_image(data, wanted) == whole
                again = images.inspect_image(data).values
            assert (sample is None) == (again is None) == (image is not deep)
            assert sample is None or np.array_equal(sample, again)


def test_anything_that_fails_in_preparing_refuses_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(Image.new("RGB", (20, 20)))
    for name in ("convert_mode", "fit_image", "encode_image"):
        with monkeypatch.context() as patch:
            patch.setattr(images, name, raise_memory_error)
            with pytest.raises(RowRefused, match="unreadable image: MemoryError"):
                images.prepare_image(data, spec())


def raise_memory_error(*_: object) -> None:
    raise MemoryError


def test_files_that_are_no_images_are_refused_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(30 << 30)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    reader = ImageFolder(str(tmp_path), LIMITS)
    for name, reason in (
        ("sparse.png", "image file of 32,212,254,720 bytes is over the limit of 256,000,000"),
        ("folder.png", "not a file: 'folder.png'"),
        ("loop.png", "unreadable file|no such file"),
        ("gone.png", "no such file: 'gone.png'"),
        ("pipe.png", "not a file: 'pipe.png'"),
        ("pipe.png/x.png", "unreadable file: .*Not a directory"),
        ("x" * 300, "unreadable file: .*File name too long"),
        ("x" * 10_000_000, "a cell of 10,000,000 characters is no path: it may have 4096"),
    ):
        with pytest.raises(RowRefused, match=reason) as caught:
            reader.read(name)
        assert len(str(caught.value)) < 500


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch(mode=0)
    with pytest.raises(RowRefused, match="unreadable file: 'a.png' .*Permission denied"):
        ImageFolder(str(tmp_path), LIMITS).read("a.png")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_a_cell_of_ten_million_characters_refuses_its_row(kind: pa.DataType) -> None:
    long, words = "x" * 10_000_000, ["a", "b", "c"]
    plan = RowPlan(label="y", id="key", group=None, split=None, features=("note",), images=())
    for column in ("note", "y", "key"):
        cells = {name: pa.array(words) for name in ("note", "y", "key")}
        if kind == pa.string_view():
            cells[column] = pa.chunked_array([["a", long, "c"]]).dictionary_encode()
        else:
            cells[column] = pa.array(["a", long, "c"], kind)
        prepared = prepare_rows(pa.table(cells), plan)
        assert prepared[REASON].to_pylist() == [
            None,
            f"{column}: cell of 10,000,000 characters is over the limit of {MAX_CELL:,}",
            None,
        ]
        assert prepared.nbytes < 10_000


HOSTILE: dict[str, Callable[[], bytes]] = {
    "deep": lambda: blank_png(8000, 8000, 16, 0),
    "colour": lambda: blank_png(8000, 8000, 8, 2),
    "clear": lambda: blank_png(8000, 8000, 8, 6),
    "deep colour": lambda: blank_png(8000, 8000, 16, 6),
    "thin": lambda: blank_png(60_000_000, 1, 8, 0),
    "wide": lambda: blank_png(100_000, 640, 8, 2),
    "progressive": lambda: stored(Image.new("RGB", (8000, 8000)), "JPEG", progressive=True),
    "webp": lambda: stored(Image.new("RGB", (8000, 8000)), "WEBP", method=0, quality=1),
    "webp of 18 million": lambda: stored(Image.new("RGB", (4300, 4300)), "WEBP", method=0),
    "tiff": lambda: stored(
        Image.new("RGB", (6900, 6900)), "TIFF", compression="tiff_lzw", tiffinfo={278: 6900}
    ),
    "turned tiff": lambda: stored(
        Image.new("CMYK", (8000, 8000)), "TIFF", compression="tiff_lzw", tiffinfo={274: 6}
    ),
    "gif": lambda: stored(Image.new("P", (8000, 8000)), "GIF"),
    "bmp": lambda: stored(Image.new("RGB", (7000, 7000)), "BMP"),
    "cmyk": lambda: stored(Image.new("CMYK", (7400, 7400)), "JPEG"),
    "float": lambda: stored(
        Image.new("F", (6000, 6000)), "TIFF", compression="tiff_lzw", tiffinfo={278: 6000}
    ),
}
PROCESS = """
import sys
from distributed.raw import images, rows
from distributed.raw.limits import RowRefused
from tests.raw.test_hostile_images import peak_bytes, spec
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    for channels in (1, 3):
        for prepare in (lambda: images.prepare_image(data, spec(channels)),
                        lambda: images.inspect_image(data)):
            try:
                prepare()
                print(path, "done", peak_bytes())
            except RowRefused as refused:
                print(path, refused, peak_bytes())
"""


def peak_bytes(process: int | str = "self") -> int:
    """Returns the most memory that a process has had; ru_maxrss counts its parent's too."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no VmHWM")


def peak(paths: list[Path]) -> tuple[int, str]:
    """Returns the most memory that a process has while it prepares the files, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1]), done.stdout


@pytest.mark.slow
def test_a_process_that_prepares_hostile_images_stays_below_its_limit(tmp_path: Path) -> None:
    paths = []
    for name, make in HOSTILE.items():
        paths.append(tmp_path / name.replace(" ", "_"))
        paths[-1].write_bytes(make())
    most, lines = peak(paths)
    assert most < PEAK_BYTES, lines


def test_a_large_deep_image_is_prepared_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(blank_png(8000, 4000, 16, 0))
    most, lines = peak([tmp_path / "deep.png"])
    assert "done" in lines and most < 500_000_000, lines
