"""Memory and processor time of this process and everything that it started."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def memory() -> float:
    """Returns the proportional set size, in bytes, of this process and all its descendants."""
    return memory_of({os.getpid(), *descendants(os.getpid())})


def memory_of(pids: Iterable[int]) -> float:
    """Returns the proportional set size of these processes, in bytes."""
    return sum(_proportional_set_size(pid) for pid in pids)


def cpu_seconds() -> float:
    """Returns the processor seconds of this process, its descendants, and those that have ended."""
    total = 0.0
    for pid in {os.getpid(), *descendants(os.getpid())}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # the process has ended
            continue
        total += sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return total


def descendants(ancestor: int) -> set[int]:
    """Returns the ids of the processes that a process started, and of those that these started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    ours = {ancestor}
    while children := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= children
    return ours - {ancestor}


def _proportional_set_size(pid: int) -> float:
    """Returns the bytes of a process; pages that several processes share count in proportion."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0.0
    return sum(1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextmanager
def sample_memory(every: float) -> Iterator[list[tuple[float, float]]]:
    """Yields a list that grows by (time, memory) while the block runs.

    every: seconds between samples; time is that of time.perf_counter.
    """
    samples: list[tuple[float, float]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(every):
            samples.append((time.perf_counter(), memory()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
