"""The files by which processes ask for an output folder: one each, in a folder of their own.

They need no more of the storage than that a listing shows what was written before it, so they work
on disks and in buckets alike.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from distributed.runtime.holder import Holder
from distributed.runtime.storage import filesystem, list_folder, naming_full_disk

LEASE = ".lease"  # the folder of these files, in the output folder
ASKED, HELD = "asked", "held"  # suffixes: of a process that asks for the folder, or holds it
WRITE_ATTEMPTS = 10  # each fails if another process has just removed the empty folder


@dataclass
class LeaseFile:
    """The file of a process as the storage lists it.

    renewed: when, in seconds by the storage's clock.
    paths: two while a bucket renames the file.
    """

    is_held: bool = False
    renewed: float = 0.0
    paths: list[str] = field(default_factory=list)


class LeaseFiles:
    """The files of all processes that ask for a folder or hold it, and this process's own.

    token: names the file of this process.
    beside: keep the files next to the folder, for a folder that is renamed into its place.
    """

    def __init__(self, folder: str, *, beside: bool = False) -> None:
        self.files, path = filesystem(folder)
        parent, name = os.path.split(path)
        self.place = f"{parent}/.{name}{LEASE}" if beside else f"{path}/{LEASE}"
        self.is_local = self.files.type_name == "local"
        self.token = uuid.uuid4().hex
        self.path = f"{self.place}/{self.token}.{ASKED}"
        self.content = Holder.of_this_process().content()
        self.created: list[Path] = []  # local folders that were missing, the innermost first

    def write(self) -> None:
        """Writes the own file, on a disk with the folders that are missing."""
        for attempt in range(WRITE_ATTEMPTS):
            if self.is_local:
                self._create_folders()
            try:
                with (
                    naming_full_disk(self.path),
                    self.files.open_output_stream(self.path) as stream,
                ):
                    stream.write(self.content)
            except FileNotFoundError:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
            else:
                return

    def _create_folders(self) -> None:
        place = Path(self.place)
        missing = [folder for folder in place.parents if not folder.exists()]
        place.mkdir(parents=True, exist_ok=True)
        self.created += [folder for folder in missing if folder not in self.created]

    def renew(self) -> None:
        """Makes the storage note the present time; does nothing on a disk if the file has gone."""
        if not self.is_local:
            self.write()
            return
        with suppress(FileNotFoundError):
            os.utime(self.path)  # needs no room on a full disk

    def mark_held(self) -> None:
        """Marks the own file as the one of the holder."""
        held = f"{self.place}/{self.token}.{HELD}"
        self.files.move(self.path, held)
        self.path = held

    def listed(self) -> dict[str, LeaseFile]:
        """Returns the files of all processes by token."""
        listed: dict[str, LeaseFile] = {}
        for entry in list_folder(self.files, self.place):
            token, _, state = entry.base_name.partition(".")
            if entry.is_file and state in (ASKED, HELD):
                file = listed.setdefault(token, LeaseFile())
                file.is_held |= state == HELD
                file.renewed = max(file.renewed, entry.mtime_ns / 1e9)
                file.paths.append(entry.path)
        return listed

    def holder(self, file: LeaseFile) -> Holder | None:
        """Reads whose file it is; None where it has gone or is just being written."""
        try:
            with self.files.open_input_stream(file.paths[0]) as stream:
                return Holder.parse(bytes(stream.read()))
        except OSError:  # of a bucket no FileNotFoundError, if the file goes just then
            return None

    def delete(self, file: LeaseFile) -> None:
        """Deletes a file, which another process may delete at the same time."""
        for path in file.paths:
            with suppress(FileNotFoundError):
                self.files.delete_file(path)

    def withdraw(self) -> None:
        """Deletes the own file, and on a disk the folders that it has created in vain."""
        with suppress(OSError):
            self.files.delete_file(self.path)
        if self.is_local:
            with suppress(OSError):  # not empty, or gone
                for folder in (Path(self.place), *self.created):
                    folder.rmdir()
