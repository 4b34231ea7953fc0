"""Processes of Python that print one JSON value, and are ended when their time is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence


def run_until(words: Sequence[str], until: float, processes: int = 1) -> list[dict[str, object]]:
    """Returns what so many processes beside each other print, or why one has printed nothing.

    words: the script and its arguments. until: the time of day at which they are ended.
    """
    running = [
        subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # they may start others, such as a compiler
        )
        for _ in range(processes)
    ]
    return [_outcome(process, until) for process in running]


def _outcome(process: subprocess.Popen[str], until: float) -> dict[str, object]:
    try:
        printed, errors = process.communicate(timeout=max(0.0, until - time.time()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"error": "it took longer than the time that there is"}
    if process.returncode:
        return {"error": " ".join(errors.split())[-200:]}
    lines = printed.splitlines()  # others than the last may be notes, of a compiler for example
    try:
        found: dict[str, object] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"error": "the process printed no result"}
    return found
