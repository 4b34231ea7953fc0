"""Streams the rows of a split through Ray Data: read anywhere in the cluster, in a given order.

The rows pass through the object store as they are stored, encoded, a tenth of the bytes of decoded
ones, and threads of this process decode them as they are needed. Tasks decode instead where the
first batches show that this process waits for its own decoding while CPUs of the cluster lie idle.
Who reads and who decodes never changes the batches.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockAccessor

from distributed.shards.decode import Arrays, decoded_row_bytes
from distributed.shards.prefetching import decoding_threads, prefetch
from distributed.shards.ray_blocks import Blocks, PacedExecutor
from distributed.shards.ray_rows import RowFeed
from distributed.shards.reader import READY_BATCHES, Columns, idle_cpus

if TYPE_CHECKING:
    from distributed.shards.reader import ShardReader, Window

BLOCK_BYTES = 8 << 20  # that one task hands over at a time, at most
READING_TASKS = 2  # reading costs a twentieth of decoding
MEASURED_BATCHES = 16  # after which it is decided who decodes
LONG_WAIT = 0.25  # share of the time spent waiting from which on tasks decode


def read_in_ray(reader: ShardReader, windows: list[Window], world: int = 1) -> Iterator[Arrays]:
    """Yields the decoded batches of all windows.

    Every window except the last must hold whole batches of one size.
    """
    # It reports every epoch's start, plan and end.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    done = 0
    if not reader.tasks_decode:
        done = yield from decode_here(reader, windows, world)
    if done < len(windows):
        yield from decode_in_tasks(reader, windows[done:], world)


class Pace:
    """How long the user of the batches waited for them, after the first ones."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.batches, self.waited, self.elapsed = 0, 0.0, 0.0
        self.decided = False

    def add(self, waited: float, elapsed: float) -> None:
        """Counts a batch: the seconds waited for it, of those since the last one."""
        self.batches += 1
        if self.batches > READY_BATCHES:
            self.waited += waited
            self.elapsed += elapsed

    def asks_for_tasks(self) -> bool:
        """Whether tasks are to decode from here on. It is decided once."""
        if self.decided or self.batches < MEASURED_BATCHES:
            return False
        self.decided = True
        is_slow = self.waited > LONG_WAIT * self.elapsed
        return is_slow and idle_cpus(self.world) > decoding_threads(self.world)


def decode_here(
    reader: ShardReader, windows: list[Window], world: int
) -> Generator[Arrays, None, int]:
    """Yields batches that Ray Data reads and threads of this process decode.

    Returns how many windows it has finished: fewer than all where tasks are to decode the others.
    """
    threads, pace = decoding_threads(world), Pace(world)
    reading, decoding = (ThreadPoolExecutor(n, thread_name_prefix="decode") for n in (1, threads))
    feed = RowFeed(reader, windows, lambda: encoded_rows(reader, windows[1:], world))
    finished = 0

    def raw_batches() -> Iterator[Columns]:
        nonlocal finished
        for batches in prefetch(reading, feed.read_window, range(len(windows)), 1):
            if pace.asks_for_tasks():
                reader.tasks_decode = True
                return
            yield from batches
            finished += 1

    try:
        batches = prefetch(decoding, reader.decode, raw_batches(), threads + READY_BATCHES)
        last = time.perf_counter()
        while True:
            requested = time.perf_counter()
            arrays = next(batches, None)
            if arrays is None:
                return finished
            now = time.perf_counter()
            pace.add(now - requested, now - last)
            last = now
            yield arrays
    finally:
        try:
            feed.stop()
        finally:
            for pool in (reading, decoding):
                pool.shutdown(wait=True, cancel_futures=True)


def encoded_rows(reader: ShardReader, windows: list[Window], world: int) -> Blocks:
    """Returns the rows of all windows as Ray Data tasks read them, some batches at a time."""
    # Reading waits more than it computes, and where workers and trials hold every CPU, a task that
    # asks for one would wait for ever.
    return Blocks(windows_dataset(reader, windows, read_windows, world, READING_TASKS, cpus=0))


def decode_in_tasks(reader: ShardReader, windows: list[Window], world: int = 1) -> Iterator[Arrays]:
    """Yields batches that Ray Data tasks decode, one window a task."""
    window_bytes = decoded_row_bytes(reader.schema) * len(windows[0].rows)
    # The order is kept, so a task's batches wait in the object store for those of earlier tasks:
    # there must be no more tasks than fit into it.
    tasks = max(1, min(idle_cpus(world), int(store_share(world) / window_bytes)))
    blocks = Blocks(windows_dataset(reader, windows, decode_windows, world, tasks, cpus=1))
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        try:
            decoded = prefetch(pool, fetch_arrays, blocks.references(), 1)
            for batch in cut_batches(decoded, windows[0].ends[0]):
                yield reader.arrays_without_columns(len(batch["labels"])) | batch
        finally:
            blocks.stop()


def fetch_arrays(block: ray.ObjectRef[Any]) -> Arrays:
    """Returns the columns of a block, which can be written to."""
    columns = BlockAccessor.for_block(ray.get(block)).to_numpy()
    assert isinstance(columns, dict)
    return {name: v if v.flags.writeable else v.copy() for name, v in columns.items()}


def cut_batches(blocks: Iterable[Arrays], size: int) -> Iterator[Arrays]:
    """Yields the rows of the blocks in batches of so many; the last one may have fewer."""
    rest: Arrays = {}
    for block in blocks:
        held = {name: np.concatenate([rest[name], block[name]]) for name in rest} or block
        rows = len(held["labels"])
        whole = rows // size * size
        for low in range(0, whole, size):
            yield {name: values[low : low + size] for name, values in held.items()}
        rest = {name: values[whole:] for name, values in held.items()} if whole < rows else {}
    if rest:
        yield rest


def store_share(world: int) -> float:
    """Returns how much of the object store one of `world` workers may fill, in bytes."""
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    return float(resources.get("object_store_memory", 0)) / (4 * world)


def windows_dataset(
    reader: ShardReader,
    windows: list[Window],
    work: Callable[..., Iterator[Any]],
    world: int,
    tasks: int,
    cpus: int,
) -> ray.data.Dataset:
    """Returns what `work` makes of the windows, in their order, not computed yet."""
    memory = store_share(world)
    block_bytes = int(min(BLOCK_BYTES, memory / 8))
    numbers = [{"window": number} for number in range(len(windows))]
    # Unlike other sources, this one starts no tasks, which would wait for a CPU.
    data = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        work,
        fn_args=(ray.put((reader, windows)), block_bytes),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.TaskPoolStrategy(size=min(tasks, len(windows))),
        num_cpus=cpus,
    )
    data.context.enable_progress_bars = False
    data.context.custom_execution_callback_classes = [PacedExecutor]
    data.context.target_max_block_size = 2 * block_bytes
    data.context.execution_options.preserve_order = True
    data.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=memory
    )
    return data


Shared = ray.ObjectRef[tuple["ShardReader", "list[Window]"]]


def read_windows(numbers: Columns, shared: Shared, block_bytes: int) -> Iterator[pa.Table]:
    """Reads the windows of these numbers, as a Ray Data task; yields a few batches per block."""
    # Arrow's usual allocator keeps what other threads of the process have freed: the memory of
    # the reading tasks would grow for a long time.
    pa.set_memory_pool(pa.system_memory_pool())
    reader, windows = ray.get(shared)
    for window in (windows[int(number)] for number in numbers["window"]):
        table, places = reader.locate(window.rows)
        row_bytes = max(1, table.nbytes // max(1, table.num_rows))
        size = max(1, block_bytes // (window.ends[0] * row_bytes)) * window.ends[0]
        for low in range(0, len(places), size):
            rows = window.rows[low : low + size]
            block = table.take(places[low : low + size])
            yield block.append_column("label", pa.array(reader.index.labels_R[rows])).append_column(
                "rank", pa.array(reader.index.ranks_R[rows])
            )


def decode_windows(numbers: Columns, shared: Shared, block_bytes: int) -> Iterator[Arrays]:
    """Decodes the windows of these numbers, as a Ray Data task; yields a few batches per block.

    Arrays without columns are left out, for the object store keeps none.
    """
    reader, windows = ray.get(shared)
    for window in (windows[int(number)] for number in numbers["window"]):
        row_bytes = decoded_row_bytes(reader.schema)
        batches_in_block = max(1, block_bytes // (window.ends[0] * row_bytes))
        batches = window.batches(reader.columns(window.rows))
        while block := [reader.decode(b) for b in itertools.islice(batches, batches_in_block)]:
            yield {
                name: np.concatenate([arrays[name] for arrays in block])
                for name, values in block[0].items()
                if values.size
            }
