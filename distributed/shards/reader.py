"""Reads chosen rows of a split in a chosen order: an index of where each row lies, and batches decoded in parallel, ahead of their use.

Row groups are the unit of reading. Ray Data runs the decoding where the cluster has CPUs to spare; otherwise threads of this process do
(Pillow and Arrow work outside the interpreter lock). Which of the two runs never changes what comes out.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distributed.runtime.storage import filesystem
from distributed.shards.corruption import apply_corruption
from distributed.shards.decode import (
    Arrays,
    decode_columns,
    decoded_row_bytes,
    empty_arrays,
    numpy_columns,
    shard_columns,
)
from distributed.shards.manifest import part_files
from distributed.shards.sampling import IntArray
from model.schema import Schema

Columns = dict[str, np.ndarray[Any, Any]]
T = TypeVar("T")
U = TypeVar("U")
READY_BATCHES = 2  # batches that are ready before they are asked for
RAY_BLOCK_BYTES = 8 << 20  # most bytes that a Ray Data task hands over at a time
MIN_RAY_BYTES = (
    1 << 30
)  # decoded bytes from which Ray Data's start (seconds for its processes, 0.4 s an epoch) is soon made good


@dataclass(frozen=True)
class SplitIndex:
    """Every row of a split in storage order: its label and rank, and the row group that holds it. 8 bytes a row."""

    shards: str
    split: str
    files: tuple[str, ...]
    file_U: IntArray  # file of each unit (row group)
    group_U: IntArray  # its number in that file
    starts_U: IntArray  # position of its first row; one more entry at the end
    bytes_U: IntArray
    labels_R: np.ndarray[Any, Any]
    ranks_R: np.ndarray[Any, Any]

    @property
    def rows(self) -> int:
        return int(self.starts_U[-1])

    def units(self, rows_B: IntArray) -> IntArray:
        """The unit of each row."""
        return np.searchsorted(self.starts_U, rows_B, side="right") - 1


def read_index(shards: str, split: str) -> SplitIndex:
    """The index of a split, from the Parquet footers and two small columns."""
    system, _ = filesystem(shards)
    files = part_files(shards, split)
    if not files:
        raise ValueError(f"a split must have Parquet parts; {shards} has none in {split}/")

    def look(path: str) -> tuple[list[int], list[int], pa.Table]:
        with system.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
            names = [name for name in ("label", "rank") if name in file.schema_arrow.names]
            return (
                [g.num_rows for g in groups],
                [g.total_byte_size for g in groups],
                file.read(names, use_threads=False),
            )

    with ThreadPoolExecutor(min(16, len(files))) as pool:
        parts = list(pool.map(look, files))
    sizes = np.array([n for rows, _, _ in parts for n in rows], dtype=np.int64)
    columns = numpy_columns(pa.concat_tables([table for _, _, table in parts]))
    unknown_R = np.full(int(sizes.sum()), -1, dtype=np.int32)
    return SplitIndex(
        shards=shards,
        split=split,
        files=tuple(files),
        file_U=np.repeat(np.arange(len(files)), [len(rows) for rows, _, _ in parts]),
        group_U=np.concatenate([np.arange(len(rows)) for rows, _, _ in parts]),
        starts_U=np.concatenate(([0], np.cumsum(sizes))),
        bytes_U=np.array([n for _, sizes, _ in parts for n in sizes], dtype=np.int64),
        labels_R=columns.get("label", unknown_R).astype(np.int32),
        ranks_R=columns.get("rank", unknown_R).astype(np.int32),
    )


@dataclass
class ShardReader:
    """Turns row positions into decoded arrays of the schema's modalities."""

    index: SplitIndex
    schema: Schema
    corruption: str = ""
    seed: int = 0
    recent: dict[int, pa.Table] = field(
        default_factory=dict
    )  # units of the last window: the next one often begins in them

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "recent": {}}

    def columns(self, rows_B: IntArray) -> Columns:
        """Raw columns of these rows, in this order; every row group is read once."""
        units = np.unique(self.index.units(rows_B))
        names, recent = shard_columns(self.schema), self.recent
        tables = {int(u): recent[u] for u in units if u in recent}
        system, _ = filesystem(self.index.shards)
        for file in np.unique(self.index.file_U[units]):
            wanted = [
                int(u) for u in units if self.index.file_U[u] == file and int(u) not in tables
            ]
            if not wanted:
                continue
            with system.open_input_file(self.index.files[file]) as source:
                parquet = pq.ParquetFile(source, pre_buffer=True)
                tables |= {
                    u: parquet.read_row_group(
                        int(self.index.group_U[u]), columns=names, use_threads=False
                    )
                    for u in wanted
                }
        self.recent = tables
        table = pa.concat_tables([tables[int(u)] for u in units])
        sizes = np.diff(self.index.starts_U)[units]
        offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        place = np.searchsorted(units, self.index.units(rows_B))
        local_B = rows_B - self.index.starts_U[units][place] + offsets[place]
        found = {name: values[local_B] for name, values in numpy_columns(table).items()}
        return {**found, "label": self.index.labels_R[rows_B], "rank": self.index.ranks_R[rows_B]}

    def blank(self, rows: int) -> Arrays:
        """The arrays that have no columns."""
        return {
            name: values
            for name, values in empty_arrays(self.schema, rows).items()
            if not values.size
        }

    def decode(self, columns: Columns) -> Arrays:
        arrays = decode_columns(columns, self.schema)
        return (
            apply_corruption(
                arrays, self.corruption, self.schema, seed=self.seed, split=self.index.split
            )
            if self.corruption
            else arrays
        )


@dataclass(frozen=True)
class Window:
    """Rows read together, and where its batches end."""

    rows: IntArray
    ends: tuple[int, ...]

    def pieces(self, columns: Columns) -> Iterator[Columns]:
        for low, high in zip((0, *self.ends[:-1]), self.ends):
            yield {name: values[low:high] for name, values in columns.items()}


def prefetch(
    pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], depth: int
) -> Iterator[U]:
    """work(item) in order, `depth` items ahead of what has been taken."""
    waiting: deque[Future[U]] = deque()
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
    """Decoding threads of one of `world` workers: few, because what Pillow does under the interpreter lock limits more."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    )
    return max(2, min(4, cores // world))


def idle_cpus(world: int = 1) -> int:
    """CPUs of the cluster that nobody has claimed, for each of `world` workers; 0 where Ray is not in use."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    return int(ray.available_resources().get("CPU", 0)) // world


def read_batches(
    reader: ShardReader, windows: list[Window], world: int = 1, engine: str = "auto"
) -> Iterator[Arrays]:
    """The windows' batches in order; by auto in Ray Data where there is much to decode and more CPUs lie idle than threads would use."""
    windows = [window for window in windows if len(window.rows)]
    if not windows:
        return iter(())
    decoded = decoded_row_bytes(reader.schema) * sum(len(window.rows) for window in windows)
    if engine == "auto":
        engine = (
            "ray"
            if decoded > MIN_RAY_BYTES and idle_cpus(world) > decoding_threads(world)
            else "threads"
        )
    return {"ray": read_in_ray, "threads": read_in_threads}[engine](reader, windows, world)


def read_in_threads(reader: ShardReader, windows: list[Window], world: int = 1) -> Iterator[Arrays]:
    """Batches decoded by threads of this process."""
    pool = ThreadPoolExecutor(decoding_threads(world) + 1, thread_name_prefix="decode")
    turn = threading.Lock()  # windows are read one after another, so that each finds the row groups that the last one left

    def pieces(window: Window) -> Iterator[Columns]:
        with turn:
            return window.pieces(reader.columns(window.rows))

    try:
        raw = (piece for window in prefetch(pool, pieces, windows, 1) for piece in window)
        yield from prefetch(pool, reader.decode, raw, decoding_threads(world) + READY_BATCHES)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_in_ray(reader: ShardReader, windows: list[Window], world: int = 1) -> Iterator[Arrays]:
    """Batches decoded by Ray Data tasks anywhere in the cluster, one window a task; every window but the last has whole batches."""
    import ray.data

    logging.getLogger("ray.data").setLevel(
        logging.ERROR
    )  # it reports every epoch's start, plan and end
    shared = ray.put((reader, windows))
    memory = ray.cluster_resources().get("object_store_memory", 0) / (4 * world)
    decoded, block = (
        decoded_row_bytes(reader.schema) * len(windows[0].rows),
        int(min(RAY_BLOCK_BYTES, memory / 8)),
    )
    data = ray.data.range(len(windows), override_num_blocks=len(windows))
    # Order is kept, so a task's batches wait in the store for those of the tasks before it: no more tasks than it has room for.
    tasks = ray.data.TaskPoolStrategy(size=max(1, min(idle_cpus(world), int(memory / decoded))))
    data = data.map_batches(
        decode_windows,
        fn_args=(shared, block),
        batch_size=None,
        batch_format="numpy",
        compute=tasks,
    )
    data.context.enable_progress_bars = False
    data.context.target_max_block_size = 2 * block
    data.context.execution_options.preserve_order = True
    data.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=memory
    )
    for batch in data.iter_batches(
        batch_size=windows[0].ends[0], batch_format="numpy", prefetch_batches=READY_BATCHES
    ):
        yield reader.blank(len(batch["labels"])) | {
            name: v if v.flags.writeable else v.copy() for name, v in batch.items()
        }


def decode_windows(numbers: Columns, shared: Any, block_bytes: int) -> Iterator[Arrays]:
    """A Ray Data task: the named windows, a few batches a block. The store keeps no array without columns."""
    import ray

    reader, windows = ray.get(shared)
    for window in (windows[int(i)] for i in numbers["id"]):
        together = max(1, block_bytes // (window.ends[0] * decoded_row_bytes(reader.schema)))
        pieces = window.pieces(reader.columns(window.rows))
        while block := [reader.decode(piece) for piece in itertools.islice(pieces, together)]:
            yield {
                name: np.concatenate([b[name] for b in block])
                for name, v in block[0].items()
                if v.size
            }
