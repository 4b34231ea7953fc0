"""The process that holds an output folder: how others name it, and whether it still runs."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from distributed.runtime.errors import OptionError


class FolderHeld(OptionError):
    """Another process holds the output folder."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that asks for an output folder or holds it.

    machine: names one start of a system and one numbering of its processes, which a container has
        for itself; empty where the system does not tell.
    started: when the process started, in the system's unit. A later process with the same pid
        differs in it.
    command: the name of the script. Its arguments may hold secrets.
    since: when the process asked for the folder.
    """

    host: str
    machine: str
    pid: int
    started: str
    command: str
    since: str

    @classmethod
    def of_this_process(cls) -> Holder:
        _, started = _state_and_start(os.getpid())
        return cls(
            host=os.uname().nodename,
            machine=_machine(),
            pid=os.getpid(),
            started=started,
            command=Path(sys.argv[0]).name or "python",
            since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )

    @classmethod
    def parse(cls, content: bytes) -> Holder | None:
        """Reads what `content` returns; None where it is cut, as while it is being written."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def content(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"{self.command}, process {self.pid} on {self.host}, since {self.since}"

    def is_running(self) -> bool | None:
        """Whether the process runs; None where that cannot be seen from this machine."""
        if not self.machine or self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)  # sends nothing
        except ProcessLookupError:
            return False
        except PermissionError:  # the process of another user
            return True
        state, started = _state_and_start(self.pid)
        has_ended = state in ("Z", "X")  # ended, and not yet waited for by its parent
        return not has_ended and started in ("", self.started)


def _machine() -> str:
    """The start of this system, and the namespace in which its process ids are valid."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _state_and_start(pid: int) -> tuple[str, str]:
    """The state of a process and when it started; empty where the system does not tell."""
    try:
        # The name, in parentheses, may hold blanks: the fields after it are counted.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""
