"""Work in threads of this process, ahead of its use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
BatchResult = TypeVar("BatchResult")


def prefetch(
    pool: ThreadPoolExecutor, work: Callable[[Item], BatchResult], items: Iterable[Item], depth: int
) -> Iterator[BatchResult]:
    """Yields work(item) in order; up to `depth` further items are in work meanwhile."""
    waiting: deque[Future[BatchResult]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def decoding_threads(world: int = 1) -> int:
    """Returns how many threads decode for one of `world` workers on this machine.

    They are few, because what Pillow does under the interpreter lock limits more of them.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 2
    return max(2, min(4, cores // world))
