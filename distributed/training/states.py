"""TODO"""

from __future__ import annotations

import hashlib
import io
import sys
from typing import TYPE_CHECKING, Any

from distributed.runtime.storage import PART_SUFFIX, read_file, write_file

if TYPE_CHECKING:
    pass


WEIGHTS_FORMAT = 5  # of the weights in states and checkpoints; others are refused


KEPT_STATES = 2  # the newest and the one before it, in case the newest is broken


class StateFormatError(ValueError):
    """States of another version of this project."""


class States:
    """The resumable states of one run, in a local folder or a URI; each file's name carries its own checksum."""

    def __init__(self, folder: str) -> None:
        from distributed.runtime.storage import filesystem

        self.folder = folder.rstrip("/")
        self.files, self.path = filesystem(self.folder)

    def _names(self) -> list[str]:
        """Names of the states there, newest first, with those that are only half written."""
        from pyarrow.fs import FileSelector

        found = self.files.get_file_info(FileSelector(self.path, allow_not_found=True))
        return sorted(
            (f.base_name for f in found if f.base_name.endswith((".pt", PART_SUFFIX))), reverse=True
        )

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Writes the state of an epoch and keeps the newest before it.

        All others go: older ones, what a killed writer left, and states of this epoch or later ones, which were damaged when the run
        went on from an earlier one.
        """
        import torch

        buffer = io.BytesIO()
        torch.save({"format": WEIGHTS_FORMAT, "state": state}, buffer)
        content = buffer.getvalue()
        own = f"epoch-{epoch:06d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        write_file(f"{self.folder}/{own}", content)
        names = self._names()
        before = [name for name in names if name.endswith(".pt") and name < f"epoch-{epoch:06d}"]
        for name in {*names} - {own, *before[: KEPT_STATES - 1]}:
            self.files.delete_file(f"{self.path}/{name}")

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole; damaged ones are named on stderr."""
        import torch

        names = [name for name in self._names() if name.endswith(".pt")]
        for place, name in enumerate(names, start=1):
            content = read_file(f"{self.folder}/{name}")
            if (
                hashlib.sha256(content).hexdigest()[:16]
                == name.removesuffix(".pt").rpartition("-")[2]
            ):
                saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                if saved.get("format") == WEIGHTS_FORMAT:
                    return saved["state"]  # type: ignore[no-any-return]
                raise StateFormatError(
                    f"--resume needs states of format {WEIGHTS_FORMAT}; {self.folder} has others: train anew, or use the version that wrote them"
                )
            instead = (
                "trying the one before it"
                if place < len(names)
                else "there is none before it: starting anew"
            )
            print(f"warning: the state {self.folder}/{name} is damaged; {instead}", file=sys.stderr)
        return None
