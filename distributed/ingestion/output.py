"""Where the shards go: a folder that appears whole or not at all, and one Parquet part of it."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from distributed.runtime import errors
from distributed.runtime.storage import filesystem, is_uri, join
from distributed.shards.layout import MANIFEST, REJECTED, SPLITS
from distributed.shards.manifest import Manifest, write_manifest

SHARDS_ENTRIES = {MANIFEST, REJECTED, *SPLITS}
ROW_GROUP = 1024  # rows; what a stream holds of one file at a time
POSITION_COLUMN = "position"
LOST = "lost+found"  # in the root of many a new volume


class OutputFolder:
    """The --out folder. On a disk the shards are written beside it and renamed; in an object store, or where a volume is mounted, they
    are written in place and schema.json comes last."""

    def __init__(self, uri: str, overwrite: bool = False):
        self.uri = uri.removeprefix("file://")
        self.remote = is_uri(self.uri)
        self.uri = self.uri if self.remote else os.path.realpath(self.uri)
        self.mounted = not self.remote and is_mount(self.uri)
        self.in_place = self.remote or self.mounted
        self.overwrite = overwrite
        self.there = self._names()
        self._check()
        self.work = self.uri

    def _names(self) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        system, path = filesystem(self.uri)
        try:
            if system.get_file_info(path).type == FileType.File:
                raise ValueError(f"--out must be a folder; {self.uri!r} is a file")
            names = [
                f.base_name for f in system.get_file_info(FileSelector(path, allow_not_found=True))
            ]
            return [name for name in names if not (self.mounted and name == LOST)]
        except OSError as error:
            raise ValueError(
                f"cannot use --out {self.uri!r}: {' '.join(str(error).split())}"
            ) from None

    def _check(self) -> None:
        others = sorted(set(self.there) - SHARDS_ENTRIES)
        if self.there and not self.overwrite:
            raise ValueError(
                f"--out must be a new or an empty folder, or add --overwrite; {self.uri!r} is there already"
            )
        if others:
            raise ValueError(
                f"--overwrite replaces a SHARDS folder only; {self.uri!r} also holds {', '.join(others[:3])}"
            )

    @contextmanager
    def writing(self) -> Iterator[str]:
        """The folder to write into; what it holds is thrown away when anything fails before commit()."""
        self.done, self.begun = False, not self.in_place
        self._begin()
        try:
            yield self.work
        except Exception as error:
            raise as_failure(error, self.uri) from error
        finally:
            if self.begun and not self.done:
                self._remove(self.work)

    def _begin(self) -> None:
        if self.remote:
            return
        place, name = (self.uri, "") if self.mounted else os.path.split(self.uri)
        try:
            os.makedirs(place, exist_ok=True)
            self.work = tempfile.mkdtemp(prefix=f".{name}.incomplete.", dir=place)
        except OSError as error:
            raise ValueError(f"cannot write to {place!r}: {error.strerror}") from None
        if self.mounted:  # it can be written to
            os.rmdir(self.work)
            self.work = self.uri
            return
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self.work, 0o777 & ~mask)
        self._make_splits()

    def _make_splits(self) -> None:
        for split in SPLITS:
            os.mkdir(os.path.join(self.work, split))

    def clear(self) -> None:
        """Makes room for the new parts where there is no second folder to rename. The last step before they are written."""
        if self.in_place:
            self.begun = True
            self._remove(self.uri)
        if self.mounted:
            self._make_splits()

    def commit(self, manifest: Manifest) -> None:
        write_manifest(manifest, self.work)
        if not self.in_place:
            old = None
            if self.there:
                old = tempfile.mkdtemp(
                    prefix=f".{os.path.basename(self.uri)}.old.", dir=os.path.dirname(self.uri)
                )
                os.rename(self.uri, os.path.join(old, "shards"))
            os.rename(self.work, self.uri)
            if old:
                shutil.rmtree(old, ignore_errors=True)
        self.done = True

    def _remove(self, uri: str) -> None:
        if not self.in_place:
            shutil.rmtree(uri, ignore_errors=True)
            return
        from pyarrow.fs import FileType

        system, path = filesystem(uri)
        for name in (
            MANIFEST,
            REJECTED,
            *SPLITS,
        ):  # the manifest first: without it nobody takes the rest for shards
            info = system.get_file_info(posixpath.join(path, name))
            if info.type == FileType.File:
                system.delete_file(info.path)
            elif info.type == FileType.Directory:
                system.delete_dir(info.path)


def is_mount(path: str) -> bool:
    """Whether a volume is mounted here, which cannot be renamed. os.path.ismount overlooks another folder of the same disk."""
    try:
        with open("/proc/self/mountinfo") as lines:
            there = {line.split()[4] for line in lines}
    except OSError:  # not Linux
        there = set()
    return os.path.ismount(path) or path.replace(" ", "\\040") in there


def as_failure(error: Exception, uri: str) -> Exception:
    """A full disk as one line; other errors as they are."""
    why = errors.disk_full(error)
    return errors.Failure(f"{why} while writing {uri!r}; nothing was left there") if why else error


def part_path(folder: str, split: str, number: int) -> str:
    return join(folder, split, f"part-{number:05d}.parquet")


@dataclass(frozen=True)
class WrittenFile:
    """A file as it was written."""

    uri: str
    size: int
    digest: str  # of its bytes


def write_part(uri: str, *pieces: pa.Table) -> WrittenFile:
    """One part file from its pieces, sorted by position."""
    table = (
        pa.concat_tables(pieces)
        .sort_by(POSITION_COLUMN)
        .drop_columns([POSITION_COLUMN])
        .combine_chunks()
    )
    return write_table(uri, table)


class _Hashed(io.RawIOBase):
    """Counts and digests what goes through to a stream."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.size, self.hash = stream, 0, hashlib.blake2b(digest_size=8)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.stream.write(data)
        self.size += len(data)
        return len(data)


def write_table(uri: str, table: pa.Table) -> WrittenFile:
    """A Parquet file; images are compressed already."""
    import pyarrow.parquet as pq

    system, path = filesystem(uri)
    compression = {
        n: "none" if pa.types.is_binary(t) else "zstd"
        for n, t in zip(table.schema.names, table.schema.types)
    }
    dictionary = [
        n
        for n, t in zip(table.schema.names, table.schema.types)
        if not pa.types.is_binary(t) and n != "id"
    ]
    with system.open_output_stream(path) as stream:
        out = _Hashed(stream)
        pq.write_table(
            table,
            out,
            row_group_size=ROW_GROUP,
            compression=compression,
            use_dictionary=dictionary,
            store_schema=True,
        )
    return WrittenFile(uri, out.size, out.hash.hexdigest())


def parts_digest(written: Sequence[WrittenFile]) -> str:
    """A digest of all parts, whatever order they were written in."""
    parts = sorted(f"{'/'.join(w.uri.split('/')[-2:])} {w.digest}" for w in written)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def verify_parts(written: Sequence[WrittenFile]) -> None:
    """Every part must be seen from here: on a cluster, a path of one machine's own disk is not."""
    for part in written:
        system, path = filesystem(part.uri)
        if system.get_file_info(path).size != part.size:
            raise ValueError(
                f"--out must be on storage that every machine of the cluster shares; {part.uri!r} was written elsewhere"
            )
