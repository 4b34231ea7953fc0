"""The resumable states that a run writes while it trains."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys

import torch
from pyarrow.fs import FileSelector

from distributed.config import flatten
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import PART_SUFFIX, filesystem, read_file, write_file
from distributed.shards.manifest import read_manifest, shards_digest
from distributed.training.optimisation.training_state import StateDict
from distributed.training.spec import RunSpec

WEIGHTS_FORMAT = 7  # version of the weights in states and checkpoints; others are refused
KEPT_STATES = 2  # the newest and the one before it, in case the newest is damaged


class OtherRunError(OptionError):
    """The states are of another version of this project, of other settings, or of other data."""


def run_digest(spec: RunSpec) -> str:
    """Digest of what a run trains: its settings and its rows.

    Not among them are scaling.*, which a resumed run may change.
    """
    settings = {
        name: value
        for name, value in flatten(spec.config).items()
        if not name.startswith("scaling.")
    }
    rows = shards_digest(spec.shards, read_manifest(spec.shards))
    return _checksum(json.dumps([settings, rows], sort_keys=True).encode())


def states_of(spec: RunSpec) -> States | None:
    """The states of a run; None where it keeps none."""
    files = spec.state_files
    if files is None:
        return None
    return States(files.folder, run_digest(spec), restart=files.restart_if_of_another_run)


class States:
    """The resumable states of one run, in a local folder or at a URI.

    The name of each file holds its epoch and the checksum of its content.

    run: digest of the run's settings and data, which each state carries: another run never
        continues from it.
    restart: start anew, with a warning, where the states are of another run.
    """

    def __init__(self, folder: str, run: str, *, restart: bool = False) -> None:
        self.folder, self.run, self.restart = folder.rstrip("/"), run, restart
        self.files, self.path = filesystem(self.folder)

    def save(self, epoch: int, state: StateDict) -> None:
        """Writes the state of an epoch and keeps the newest one before it.

        Deletes all others: older ones, half-written ones of a killed process, and those of this
        epoch or later ones, which were damaged when the run went on from an earlier epoch.
        """
        buffer = io.BytesIO()
        torch.save({"format": WEIGHTS_FORMAT, "run": self.run, "state": state}, buffer)
        content = buffer.getvalue()
        name = f"epoch-{epoch:06d}-{_checksum(content)}.pt"
        write_file(f"{self.folder}/{name}", content)
        names = self._names()
        earlier = [
            other for other in names if other.endswith(".pt") and other < f"epoch-{epoch:06d}"
        ]
        kept = {name, *earlier[: KEPT_STATES - 1]}
        for other in {*names} - kept:
            self.files.delete_file(f"{self.path}/{other}")

    def exist(self) -> bool:
        """Whether there is a state, damaged or not."""
        return bool(self._names())

    def load(self) -> StateDict | None:
        """The newest undamaged state; damaged ones are named on stderr. None if there is none.

        Raises OtherRunError for a state of another run, unless the run then starts anew.
        """
        names = [name for name in self._names() if name.endswith(".pt")]
        for position, name in enumerate(names, start=1):
            content = read_file(f"{self.folder}/{name}")
            if _checksum(content) == name.removesuffix(".pt").rpartition("-")[2]:
                return self._parse_or_restart(content)
            instead = "there is none before it: starting anew"
            if position < len(names):
                instead = "trying the one before it"
            print(f"warning: the state {self.folder}/{name} is damaged; {instead}", file=sys.stderr)
        return None

    def _parse_or_restart(self, content: bytes) -> StateDict | None:
        try:
            return self._parse(content)
        except OtherRunError as error:
            if not self.restart:
                raise
            print(f"warning: {error}; this training starts anew", file=sys.stderr)
            return None

    def _parse(self, content: bytes) -> StateDict:
        """The state in the content of a file."""
        try:
            saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise OtherRunError(
                f"resume needs states that this project wrote; {self.folder} has others"
                f" ({type(error).__name__})",
                "resume",
            ) from None
        if saved.get("format") != WEIGHTS_FORMAT or "run" not in saved:
            raise OtherRunError(
                f"resume needs states of format {WEIGHTS_FORMAT} with the digest of their run; "
                f"{self.folder} has others: train anew, or use the version that wrote them",
                "resume",
            )
        if saved["run"] != self.run:
            raise OtherRunError(
                "resume needs states of the same settings, defaults and data;"
                f" {self.folder} has those of another run or version: train anew in another folder",
                "resume",
            )
        state: StateDict = saved["state"]
        return state

    def _names(self) -> list[str]:
        """Names of the states, newest first, half-written ones among them."""
        entries = self.files.get_file_info(FileSelector(self.path, allow_not_found=True))
        names = [entry.base_name for entry in entries]
        return sorted((name for name in names if name.endswith((".pt", PART_SUFFIX))), reverse=True)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
