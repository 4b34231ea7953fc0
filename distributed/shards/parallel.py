"""Decodes the batches of a split in parallel, ahead of their use.

Ray Data decodes where the cluster has CPUs to spare, else threads of this process do (Pillow and
Arrow work outside the interpreter lock). Which of the two it is never changes the result.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from distributed.shards.decode import (
    Arrays,
    decoded_row_bytes,
)
from distributed.shards.reader import READY_BATCHES, Columns, ShardReader, Window, idle_cpus

Item = TypeVar("Item")
BatchResult = TypeVar("BatchResult")

# Ray Data takes seconds to start its processes and 0.4 s per epoch; from so many decoded bytes on
# that is soon regained.
MIN_RAY_BYTES = 1 << 30


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


def read_batches(
    reader: ShardReader, windows: list[Window], world: int = 1, engine: str = "auto"
) -> Iterator[Arrays]:
    """Returns the batches of all windows, in order.

    engine: ray, threads, or auto, which is Ray Data where there is much to decode and the
    cluster has more idle CPUs than the threads would use.
    """
    windows = [window for window in windows if len(window.rows)]
    if not windows:
        return iter(())
    if engine == "auto":
        rows = sum(len(window.rows) for window in windows)
        much = decoded_row_bytes(reader.schema) * rows > MIN_RAY_BYTES
        engine = "ray" if much and idle_cpus(world) > decoding_threads(world) else "threads"
    if engine == "threads":
        return read_in_threads(reader, windows, world)
    # Imported here because a model that is loaded for prediction alone needs no Ray.
    from distributed.shards.ray_reader import read_in_ray

    return read_in_ray(reader, windows, world)


def read_in_threads(reader: ShardReader, windows: list[Window], world: int = 1) -> Iterator[Arrays]:
    """Yields batches that threads of this process decode."""
    pool = ThreadPoolExecutor(decoding_threads(world) + 1, thread_name_prefix="decode")
    # Windows are read one after another, so that each can use the row groups that the last one
    # kept.
    reading = threading.Lock()

    def read_window(window: Window) -> Iterator[Columns]:
        with reading:
            return window.batches(reader.columns(window.rows))

    try:
        read_windows = prefetch(pool, read_window, windows, 1)
        raw_batches = (batch for window in read_windows for batch in window)
        yield from prefetch(
            pool, reader.decode, raw_batches, decoding_threads(world) + READY_BATCHES
        )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
