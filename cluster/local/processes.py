"""Finds and ends the processes of one local cluster, and nothing else: each carries the cluster's mark in its environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

CLUSTER_MARK = "LONGTAIL_CLUSTER"
NODE_MARK = "LONGTAIL_NODE"


def marked(variable: str, value: str) -> list[int]:
    """Ids of the processes that were started with VARIABLE=value. Children inherit it, so daemons that left their parent are found too."""
    needle = f"{variable}={value}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        # A zombie or another user's process has no readable environment.
        with contextlib.suppress(OSError):
            if needle in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_gone(variable: str, value: str, seconds: float) -> list[int]:
    """Waits until no marked process is left; returns those that are."""
    end = time.monotonic() + seconds
    while (left := marked(variable, value)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def stop(variable: str, value: str, first: list[int], seconds: float = 10.0) -> list[int]:
    """SIGTERM to `first` (their own shutdown ends their children), then SIGKILL to every marked process that stays. Returns survivors."""
    alive = set(marked(variable, value))
    send([pid for pid in first if pid in alive], signal.SIGTERM)
    if wait_gone(variable, value, seconds):
        kill(variable, value)
    return wait_gone(variable, value, 5.0)


def kill(variable: str, value: str) -> None:
    """SIGKILL, repeated until none is left: a process may start a child between the look and the blow."""
    for _ in range(20):
        if not (pids := marked(variable, value)):
            return
        send(pids, signal.SIGKILL)
        time.sleep(0.1)
