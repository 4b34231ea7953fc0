"""Checksums of a part file, so that no damaged byte of it is ever used.

A part is a Parquet file. Its first bytes, which hold the rows, are divided into blocks, and the
checksum of every block (CRC-32) is kept as metadata in the footer of the same file. The rest, the
footer with its length and the bytes that end a Parquet file, has one checksum, which is kept in
schema.json with the size of the file. A reader reads whole blocks and checks each of them: it costs
about a nanosecond for every three bytes. Parquet's own checksums of pages would leave out the
headers of the pages and the footer.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from distributed.runtime.errors import UnreadableData
from distributed.runtime.parquet import open_parquet

BLOCK_BYTES = 64 << 10
BLOCK_CHECKSUMS = b"block checksums"  # key in the metadata of the footer
HEX_DIGITS = 8  # of the checksum of a block


class PartRecord(NamedTuple):
    """What schema.json says of a part file.

    size: bytes of the file. tail: where the blocks end and the rest begins. checksum: of the rest.
    """

    size: int
    tail: int
    checksum: int


class ChecksumStream(io.RawIOBase):
    """Passes the bytes of a part on to a stream, and computes its checksums and its digest."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream = stream
        self.size = 0
        self.hash = hashlib.blake2b(digest_size=8)
        self._checksum = 0  # of the block or of the tail that is being written
        self._blocks: list[int] = []
        self._tail: int | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # Arrow writes bytes only
        self.hash.update(data)
        self.stream.write(data)
        view = memoryview(data)
        while len(view):
            # The tail is no block, however long it is.
            room = len(view) if self._tail is not None else BLOCK_BYTES - self.size % BLOCK_BYTES
            piece = view[:room]
            self._checksum = zlib.crc32(piece, self._checksum)
            self.size += len(piece)
            view = view[room:]
            if self._tail is None and self.size % BLOCK_BYTES == 0:
                self._end_block()
        return len(data)

    def _end_block(self) -> None:
        self._blocks.append(self._checksum)
        self._checksum = 0

    def end_blocks(self) -> str:
        """Returns the checksums of all blocks as text; what is written from here on is the tail."""
        if self.size % BLOCK_BYTES:
            self._end_block()
        self._tail = self.size
        return "".join(f"{checksum:0{HEX_DIGITS}x}" for checksum in self._blocks)

    @property
    def record(self) -> PartRecord:
        """What schema.json is to say of the file, which is complete."""
        assert self._tail is not None
        return PartRecord(self.size, self._tail, self._checksum)


class VerifiedFile:
    """A part file that is open for Arrow, of which every byte is checked before it is handed over.

    It has the methods that Arrow calls of a file of Python's.
    """

    def __init__(self, source: pa.NativeFile, record: PartRecord) -> None:
        self.source, self.record = source, record
        self.position = 0
        self.closed = False
        size = source.size()
        if size != record.size:
            raise ValueError(f"it has {size:,} bytes and was written with {record.size:,}")
        self._tail = bytes(source.read_at(size - record.tail, record.tail))
        if zlib.crc32(self._tail) != record.checksum:
            raise ValueError(f"bytes {record.tail} to {size - 1} are not as they were written")
        self.metadata = pq.read_metadata(pa.BufferReader(self._tail))
        digits = self.metadata.metadata[BLOCK_CHECKSUMS].decode()
        starts = range(0, len(digits), HEX_DIGITS)
        self._blocks = [int(digits[start : start + HEX_DIGITS], 16) for start in starts]

    def read(self, size: int) -> bytes | memoryview:
        start, end = self.position, min(self.position + size, self.record.size)
        self.position = end
        if end <= self.record.tail:
            return self._read_blocks(start, end)
        rows = bytes(self._read_blocks(start, self.record.tail))
        return rows + self._tail[max(0, start - self.record.tail) : end - self.record.tail]

    def _read_blocks(self, start: int, end: int) -> memoryview:
        """Returns these bytes, whose blocks are as they were written."""
        if start >= end:
            return memoryview(b"")
        first = start // BLOCK_BYTES
        low = first * BLOCK_BYTES
        high = min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, self.record.tail)
        view = memoryview(self.source.read_at(high - low, low))
        for number, place in enumerate(range(0, high - low, BLOCK_BYTES), first):
            if zlib.crc32(view[place : place + BLOCK_BYTES]) != self._blocks[number]:
                begin = low + place
                last = min(begin + BLOCK_BYTES, self.record.tail) - 1
                raise ValueError(f"bytes {begin} to {last} are not as they were written")
        return view[start - low : end - low]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.record.size}
        self.position = begin[whence] + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def close(self) -> None:
        self.closed = True


@contextmanager
def open_part(system: FileSystem, path: str, record: PartRecord | None) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file; whatever is wrong with it is an UnreadableData that names it.

    record: of a part whose bytes are checked as they are read; None for parts that are older than
    the checksums and for Parquet files of the user.
    """
    try:
        with system.open_input_file(path) as source:
            if record is None:
                yield open_parquet(source, pre_buffer=True)
            else:
                file = VerifiedFile(source, record)
                yield open_parquet(file, metadata=file.metadata, pre_buffer=True)
    except FileNotFoundError:
        raise UnreadableData(f"{path!r} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        if record is None:
            raise UnreadableData(f"cannot read {path!r}: {reason}") from None
        raise UnreadableData(
            f"{path!r} is damaged: {reason}; copy it again, or ingest again"
        ) from None


def record_key(path: str) -> str:
    """Returns the name of a part in schema.json: its split and its file name."""
    folder, name = posixpath.split(path)
    return posixpath.join(posixpath.basename(folder), name)
