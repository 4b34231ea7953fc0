"""Finds and ends the processes of one local cluster, and no others.

Each carries the cluster's mark in its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

CLUSTER_MARK = "LONGTAIL_CLUSTER"
NODE_MARK = "LONGTAIL_NODE"


def marked(variable: str, value: str) -> list[int]:
    """Returns the ids of the processes that were started with VARIABLE=value.

    Children inherit it, so daemons that left their parent are among them.
    """
    mark = f"{variable}={value}".encode()
    pids = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        # A zombie or another user's process has no readable environment.
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return pids


def send(pids: list[int], number: signal.Signals) -> None:
    """Sends a signal to each of these processes that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_gone(variable: str, value: str, seconds: float) -> list[int]:
    """Waits until no marked process is left; returns those that remain after the seconds."""
    end = time.monotonic() + seconds
    while (remaining := marked(variable, value)) and time.monotonic() < end:
        time.sleep(0.1)
    return remaining


def stop(variable: str, value: str, first: list[int], seconds: float = 10.0) -> list[int]:
    """Ends every marked process; returns those that did not end.

    The processes in `first` get SIGTERM, and their own shutdown ends their children. What remains
    after the seconds gets SIGKILL.
    """
    alive = set(marked(variable, value))
    send([pid for pid in first if pid in alive], signal.SIGTERM)
    if wait_gone(variable, value, seconds):
        kill(variable, value)
    return wait_gone(variable, value, 5.0)


def kill(variable: str, value: str) -> None:
    """Sends SIGKILL to every marked process until none is left.

    It repeats, because a process may start a child after the list was read.
    """
    for _ in range(20):
        if not (pids := marked(variable, value)):
            return
        send(pids, signal.SIGKILL)
        time.sleep(0.1)
