"""Runs a command and writes what it cost: python jobs.py COSTS.json LOG COMMAND...

Processor time is that of the command and of every process that comes from it, also of those that
outlive the one that started them. The memory is the largest of the sums over its processes, read
every three seconds; pages that processes share count in proportion. The exit code is the command's.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.memory_use import descendants, memory_of

PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
GRACE = 60.0  # seconds that processes have to end after the command's own has ended
MEMORY_EVERY = 3.0  # seconds
STILL_THERE = 3  # the exit code if some have not ended then


class JobFailed(Exception):
    """A command that ended with an error; the message names its log."""


def run_job(words: Sequence[str], environment: Mapping[str, str], log: Path) -> dict[str, float]:
    """Runs a command to its end and returns cpu_seconds, wall_seconds and peak_memory_mib.

    It runs below a process of its own, which counts what it costs and nothing else. Raises
    JobFailed if it fails.
    """
    costs = log.with_name(f"{log.name}-costs.json")
    script = str(Path(__file__).resolve())
    done = subprocess.run([sys.executable, script, str(costs), str(log), *words], env=environment)
    if done.returncode:
        raise JobFailed(f"{' '.join(words)}: exit code {done.returncode}; see {log}")
    measured: dict[str, float] = json.loads(costs.read_text())
    return measured


def main(costs: str, log: str, *words: str) -> int:
    # Processes whose parent has ended become children of this one, so that they are counted too.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start, peak, ended = time.monotonic(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(MEMORY_EVERY):
            peak[0] = max(peak[0], memory_of(descendants(os.getpid())))

    watcher = threading.Thread(target=watch)
    with open(log, "wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
        watcher.start()
        code = process.wait()
    wall = time.monotonic() - start
    ended.set()
    watcher.join()
    if left := _wait_for_the_rest():
        print(f"processes were still there after {GRACE:.0f} s: {left}", file=sys.stderr)
        return STILL_THERE
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "wall_seconds": round(wall, 1),
        "peak_memory_mib": round(peak[0] / 2**20),
    }
    Path(costs).write_text(json.dumps(measured))
    return code


def _wait_for_the_rest() -> list[int]:
    """Waits until no process is left, so that its time is known; returns those that are there."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if not pid:
            time.sleep(0.1)
    return sorted(descendants(os.getpid()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
