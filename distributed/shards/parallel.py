"""Reads and decodes the batches of a split in parallel, ahead of their use.

Ray Data reads where Ray runs, else this process does; threads of this process decode (Pillow and
Arrow work outside the interpreter lock). Which of the two it is never changes the result.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from distributed.runtime import ray_session
from distributed.shards.decode import Arrays
from distributed.shards.prefetching import decoding_threads, prefetch
from distributed.shards.reader import READY_BATCHES, Columns, ShardReader, Window

# Two windows a worker has read itself before Ray Data has begun, which takes 0.1 s and more.
MIN_RAY_WINDOWS = 3


def read_batches(
    reader: ShardReader, windows: list[Window], world: int = 1, engine: str = "auto"
) -> Iterator[Arrays]:
    """Returns the batches of all windows, in order.

    engine: ray, threads, or auto, which is Ray Data where Ray runs and there is enough to read.
    """
    windows = [window for window in windows if len(window.rows)]
    if not windows:
        return iter(())
    if engine == "auto":
        engine = (
            "ray" if ray_session.is_running() and len(windows) >= MIN_RAY_WINDOWS else "threads"
        )
    if engine == "threads":
        return read_in_threads(reader, windows, world)
    # Imported here because a model that is loaded for prediction alone needs no Ray.
    from distributed.shards.ray_reader import read_in_ray

    return read_in_ray(reader, windows, world)


def read_in_threads(reader: ShardReader, windows: list[Window], world: int = 1) -> Iterator[Arrays]:
    """Yields batches that threads of this process read and decode."""
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
