"""TODO"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Shows long work on stderr: a bar on a terminal, else a plain line every few seconds. Yields advance(n)."""
    if sys.stderr.isatty():
        from rich import progress as bars
        from rich.console import Console

        shown = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*shown, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.advance(task, n)
        return
    start = said = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        now = time.monotonic()
        if now - said >= 5:
            said = now
            of = f" of {total:,}" if total else ""
            print(
                f"{what}: {done:,}{of} ({done / (now - start):,.0f} a second)",
                file=sys.stderr,
                flush=True,
            )

    yield advance
