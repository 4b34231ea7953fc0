"""Writes a SHARDS folder that appears whole or not at all, and its Parquet parts."""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType

from distributed.runtime import errors, lease
from distributed.runtime.errors import OptionError
from distributed.runtime.lease_files import LEASE
from distributed.runtime.storage import filesystem, is_uri, join
from distributed.shards.checksums import BLOCK_CHECKSUMS, ChecksumStream, PartRecord
from distributed.shards.layout import MANIFEST, REJECTED, SPLITS
from distributed.shards.manifest import Manifest, write_manifest

# The manifest comes first, also when the entries are deleted: a folder without it is no SHARDS
# folder.
SHARDS_ENTRIES = (MANIFEST, REJECTED, *SPLITS)
ROW_GROUP = 1024  # rows; what a stream holds of one file at a time
POSITION_COLUMN = "position"  # the order of the rows in a part; not written
LOST_AND_FOUND = "lost+found"  # in the root of many a new volume


class OutputFolder:
    """The folder that an ingest writes.

    On a disk the shards are written beside it and then renamed. In an object store, or where a
    volume is mounted, they are written in place, and schema.json comes last.
    """

    def __init__(self, uri: str, overwrite: bool = False) -> None:
        self.uri = _location(uri)
        self.remote = is_uri(self.uri)
        self.mounted = not self.remote and is_mount(self.uri)
        self.in_place = self.remote or self.mounted
        self.overwrite = overwrite
        self.existing = self._existing_names()
        self._check_existing()
        self.work = self.uri  # the folder to write into
        self.written_to = False  # whether the work folder is ours to delete
        self.committed = False

    def _existing_names(self) -> list[str]:
        """Returns the names of what is in the folder already."""
        system, path = filesystem(self.uri)
        try:
            if system.get_file_info(path).type == FileType.File:
                raise OptionError(f"out must be a folder; {self.uri!r} is a file", "out")
            entries = system.get_file_info(FileSelector(path, allow_not_found=True))
        except OSError as error:
            reason = " ".join(str(error).split())
            raise OptionError(f"cannot use out {self.uri!r}: {reason}", "out") from None
        names = [entry.base_name for entry in entries]
        ignored = {LEASE, LOST_AND_FOUND} if self.mounted else {LEASE}
        return [name for name in names if name not in ignored]

    def _check_existing(self) -> None:
        if self.existing and not self.overwrite:
            raise OptionError(
                "out must be a new or an empty folder, or add overwrite; "
                f"{self.uri!r} is there already",
                "out",
                "overwrite",
            )
        others = sorted(set(self.existing) - set(SHARDS_ENTRIES))
        if others:
            raise OptionError(
                "overwrite replaces a SHARDS folder only; "
                f"{self.uri!r} also holds {', '.join(others[:3])}",
                "overwrite",
            )

    @contextmanager
    def writing(self) -> Iterator[str]:
        """Yields the folder to write into.

        What was written is deleted when anything fails before commit().
        """
        self.committed, self.written_to = False, not self.in_place
        self._create_work_folder()
        try:
            yield self.work
        except Exception as error:
            raise as_failure(error, self.uri) from error
        finally:
            if self.written_to and not self.committed and not lease.is_lost(self.uri):
                self._remove(self.work)

    def _create_work_folder(self) -> None:
        """Creates the folder beside the final one; in place, only checks that it is writable."""
        if self.remote:
            return
        parent, name = (self.uri, "") if self.mounted else os.path.split(self.uri)
        try:
            os.makedirs(parent, exist_ok=True)
            self.work = tempfile.mkdtemp(prefix=f".{name}.incomplete.", dir=parent)
        except OSError as error:
            raise ValueError(f"cannot write to {parent!r}: {error.strerror}") from None
        if self.mounted:
            os.rmdir(self.work)
            self.work = self.uri
            return
        # mkdtemp lets only its owner in; the shards have the permissions of any new folder.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self.work, 0o777 & ~mask)
        self._create_split_folders()

    def _create_split_folders(self) -> None:
        for split in SPLITS:
            os.mkdir(os.path.join(self.work, split))

    def clear(self) -> None:
        """Deletes the old shards where the new ones are written in place.

        It is the last step before the parts are written.
        """
        if self.in_place:
            self.written_to = True
            self._remove(self.uri)
        if self.mounted:
            self._create_split_folders()

    def commit(self, manifest: Manifest) -> None:
        """Completes the shards: writes the manifest and replaces the old folder by the new one."""
        write_manifest(manifest, self.work)
        if not self.in_place:
            self._replace_old_folder()
        self.committed = True

    def _replace_old_folder(self) -> None:
        if not self.existing:
            os.rename(self.work, self.uri)
            return
        parent, name = os.path.split(self.uri)
        old = tempfile.mkdtemp(prefix=f".{name}.old.", dir=parent)
        os.rename(self.uri, os.path.join(old, "shards"))
        os.rename(self.work, self.uri)
        shutil.rmtree(old, ignore_errors=True)

    def _remove(self, uri: str) -> None:
        """Deletes a folder; in place only the entries of a SHARDS folder."""
        if not self.in_place:
            shutil.rmtree(uri, ignore_errors=True)
            return
        system, path = filesystem(uri)
        for name in SHARDS_ENTRIES:
            entry = system.get_file_info(posixpath.join(path, name))
            if entry.type == FileType.File:
                system.delete_file(entry.path)
            elif entry.type == FileType.Directory:
                system.delete_dir(entry.path)


def hold(out: str) -> AbstractContextManager[None]:
    """Keeps other processes from writing the shards of this folder or URI during the block."""
    place = _location(out)
    return lease.hold(place, beside=not is_uri(place) and not is_mount(place))


def _location(out: str) -> str:
    """A URI as it is, a local folder as the absolute path without links."""
    location = out.removeprefix("file://")
    return location if is_uri(location) else os.path.realpath(location)


def is_mount(path: str) -> bool:
    """Whether a volume is mounted here, which cannot be renamed.

    os.path.ismount does not recognise bind mounts.
    """
    try:
        with open("/proc/self/mountinfo") as lines:
            mount_points = {line.split()[4] for line in lines}
    except OSError:  # not Linux
        mount_points = set()
    return os.path.ismount(path) or path.replace(" ", "\\040") in mount_points


def as_failure(error: Exception, uri: str) -> Exception:
    """Returns the one-line error of a full disk; other errors as they are."""
    reason = errors.disk_full(error)
    if not reason:
        return error
    return errors.Failure(f"{reason} while writing {uri!r}; nothing was left there")


def part_path(folder: str, split: str, number: int) -> str:
    return join(folder, split, f"part-{number:05d}.parquet")


@dataclass(frozen=True)
class WrittenFile:
    """A file as it was written. digest: of its bytes. record: what schema.json says of it."""

    uri: str
    digest: str
    record: PartRecord


def write_part(uri: str, *pieces: pa.Table) -> WrittenFile:
    """Writes one part file from its pieces, sorted by position."""
    rows = pa.concat_tables(pieces).sort_by(POSITION_COLUMN)
    return write_table(uri, rows.drop_columns([POSITION_COLUMN]).combine_chunks())


def write_table(uri: str, table: pa.Table, row_group: int = ROW_GROUP) -> WrittenFile:
    """Writes a Parquet file with checksums. Columns of images are compressed already.

    row_group: rows of a row group.
    """
    system, path = filesystem(uri)
    is_binary = {field.name: pa.types.is_binary(field.type) for field in table.schema}
    with system.open_output_stream(path) as stream:
        out = ChecksumStream(stream)
        with pq.ParquetWriter(
            out,
            table.schema,
            compression={name: "none" if binary else "zstd" for name, binary in is_binary.items()},
            use_dictionary=[n for n, binary in is_binary.items() if not binary and n != "id"],
            store_schema=True,
        ) as writer:
            writer.write_table(table, row_group_size=row_group)
            writer.add_key_value_metadata({BLOCK_CHECKSUMS: out.end_blocks()})
    return WrittenFile(uri, out.hash.hexdigest(), out.record)


def parts_digest(written: Sequence[WrittenFile]) -> str:
    """Returns a digest of all parts, whatever the order in which they were written."""
    parts = sorted(f"{'/'.join(part.uri.split('/')[-2:])} {part.digest}" for part in written)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def verify_parts(written: Sequence[WrittenFile]) -> None:
    """Checks that this machine has every part: another one's own disk is of no use."""
    for part in written:
        system, path = filesystem(part.uri)
        if system.get_file_info(path).size != part.record.size:
            raise OptionError(
                "out must be on storage that every machine of the cluster shares; "
                f"{part.uri!r} was written elsewhere",
                "out",
            )
