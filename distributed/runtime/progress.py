"""Shows on stderr how far long work has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5


@contextmanager
def show_progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yields advance(n), which shows that n more units are done.

    On a terminal it is a bar, elsewhere a plain line every few seconds. total is the number of
    units to do, None where it is not known.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda n: bar.advance(task, n)
    else:
        yield ProgressLines(title, total).advance


class ProgressLines:
    """Progress as plain lines, for logs."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total = title, total
        self.done = 0
        self.started = self.last_line = time.monotonic()

    def advance(self, n: int) -> None:
        """Adds n units; prints a line when the last one is a few seconds old."""
        self.done += n
        now = time.monotonic()
        if now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        of_total = f" of {self.total:,}" if self.total else ""
        rate = self.done / (now - self.started)
        line = f"{self.title}: {self.done:,}{of_total} ({rate:,.0f} a second)"
        print(line, file=sys.stderr, flush=True)
