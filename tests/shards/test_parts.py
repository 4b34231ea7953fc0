"""Part files with checksums, byte by byte: what is written, and what is read back."""

from __future__ import annotations

import hashlib
import io
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from distributed.shards import checksums
from distributed.shards.checksums import ChecksumStream, PartRecord, VerifiedFile, open_part

BLOCK = 64
LOCAL = fs.LocalFileSystem()
TABLE = pa.table({"id": [f"row {number}" for number in range(40)], "label": list(range(40))})


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checksums.BLOCK_BYTES == 65_536, "part files depend on it"
    monkeypatch.setattr(checksums, "BLOCK_BYTES", BLOCK)


@pytest.fixture
def part(tmp_path: Path) -> tuple[Path, PartRecord]:
    """A part file as ingest writes it."""
    path = tmp_path / "part.parquet"
    with LOCAL.open_output_stream(str(path)) as file:
        stream = ChecksumStream(file)
        with pq.ParquetWriter(pa.PythonFile(stream, mode="w"), TABLE.schema) as writer:
            for low in (0, 20):
                writer.write_table(TABLE.slice(low, 20))
            writer.add_key_value_metadata({checksums.BLOCK_CHECKSUMS: stream.end_blocks()})
    return path, stream.record


@pytest.mark.parametrize("rows", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("piece", [7, BLOCK, 1000])
def test_every_block_and_the_rest_have_their_crc(rows: int, piece: int) -> None:
    content = bytes(number * 7 % 256 for number in range(rows + 100))
    sink = pa.BufferOutputStream()
    stream = ChecksumStream(sink)
    assert stream.writable()
    for low in range(0, rows, piece):
        part = content[low : min(low + piece, rows)]
        assert stream.write(part) == len(part)
    blocks = [content[low : min(low + BLOCK, rows)] for low in range(0, rows, BLOCK)]
    assert stream.end_blocks() == "".join(f"{zlib.crc32(block):08x}" for block in blocks)
    stream.write(content[rows : rows + 80])
    stream.write(content[rows + 80 :])
    assert stream.record == (rows + 100, rows, zlib.crc32(content[rows:]))
    assert sink.getvalue().to_pybytes() == content
    assert stream.hash.digest() == hashlib.blake2b(content, digest_size=8).digest()


def test_a_verified_file_reads_as_the_file_itself(part: tuple[Path, PartRecord]) -> None:
    path, record = part
    with open(path, "rb") as plain, LOCAL.open_input_file(str(path)) as source:
        verified = VerifiedFile(source, record)
        assert record.tail > 3 * BLOCK
        places = (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 5, record.tail - 3, record.tail, record.size)
        for place in places:
            assert verified.seek(place) == plain.seek(place)
            for size in (0, 1, 3, BLOCK, 3 * BLOCK, 10_000):
                assert bytes(verified.read(size)) == plain.read(size), (place, size)
                assert verified.tell() == plain.tell()
        for offset, whence in ((5, io.SEEK_SET), (BLOCK, io.SEEK_CUR), (-9, io.SEEK_END)):
            assert verified.seek(offset, whence) == plain.seek(offset, whence)
            assert bytes(verified.read(4)) == plain.read(4)
        assert not verified.closed
        verified.close()
        assert verified.closed


def test_a_changed_byte_is_found_where_it_is(part: tuple[Path, PartRecord]) -> None:
    path, record = part
    whole = path.read_bytes()
    for place in range(0, record.size, 3):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        low, high = place // BLOCK * BLOCK, min((place // BLOCK + 1) * BLOCK, record.tail)
        if place >= record.tail:
            low, high = record.tail, record.size
        with pytest.raises(ValueError) as caught, open_part(LOCAL, str(path), record):
            VerifiedFile(LOCAL.open_input_file(str(path)), record).read(record.tail)
        assert str(caught.value) == (
            f"{str(path)!r} is damaged: bytes {low} to {high - 1} are not as they were written;"
            " copy it again, or ingest again"
        )


def test_a_part_is_read_with_and_without_its_record(part: tuple[Path, PartRecord]) -> None:
    path, record = part
    for known in (record, None):
        with open_part(LOCAL, str(path), known) as file:
            assert file.read().equals(TABLE)
    path.write_bytes(path.read_bytes() + b"x")
    longer = f"it has {record.size + 1:,} bytes and was written with {record.size:,}"
    with (
        pytest.raises(ValueError, match=rf"^'{path}' is damaged: {longer}; copy it again, or"),
        open_part(LOCAL, str(path), record),
    ):
        pass
    with (
        pytest.raises(ValueError, match=f"^cannot read '{path}': "),
        open_part(LOCAL, str(path), None),
    ):
        pass
    path.unlink()
    with (
        pytest.raises(ValueError, match=f"^'{path}' is missing$"),
        open_part(LOCAL, str(path), None),
    ):
        pass


def test_a_part_is_listed_by_its_split_and_name() -> None:
    assert checksums.record_key("/a/b/train/part-1.parquet") == "train/part-1.parquet"
