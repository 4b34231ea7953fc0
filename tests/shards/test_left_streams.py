"""Streams that are left before their end: what they read with has ended when they are closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from ray.data._internal.execution.execution_callback import ExecutionCallback

from distributed.shards import ray_reader, reader
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.ray_blocks import STEP_SECONDS, Blocks
from distributed.shards.ray_rows import RowFeed, StreamLeft


@pytest.fixture
def reads(shards: str) -> reader.ShardReader:
    return reader.ShardReader(read_index(shards, "train"), read_manifest(shards).schema)


def windows_of(rows: int, size: int) -> list[reader.Window]:
    return [reader.Window(np.arange(low, low + size), (size,)) for low in range(0, rows, size)]


@pytest.mark.parametrize("decodes", ["threads", "tasks"])
def test_no_thread_of_ray_data_outlives_its_stream(
    reads: reader.ShardReader, ray_local: None, decodes: str
) -> None:
    windows = windows_of(600, 8)

    def stream() -> Iterator[object]:
        if decodes == "tasks":
            return iter(ray_reader.decode_in_tasks(reads, windows))
        return iter(ray_reader.encoded_rows(reads, windows, 1))

    assert len(list(stream())) > 1  # starts what Ray keeps for as long as it runs
    before = set(threading.enumerate())
    left = stream()
    next(left)
    assert any(t.name.startswith("StreamingExecutor") for t in threading.enumerate())
    del left
    assert set(threading.enumerate()) <= before


def test_a_stream_can_be_left_while_ray_data_starts(
    reads: reader.ShardReader, ray_local: None
) -> None:
    list(ray_reader.encoded_rows(reads, windows_of(600, 8), 1))
    before = set(threading.enumerate())
    for seconds in (0.0, 0.01, 0.05, 0.2):
        batches = ray_reader.read_in_ray(reads, windows_of(600, 8))
        next(batches)
        time.sleep(seconds)
        del batches
        assert set(threading.enumerate()) <= before


class OneBlock:
    """Gives one block, and then waits until it is stopped."""

    def __init__(self, block: pa.Table) -> None:
        self.block, self.stopped = block, threading.Event()

    def __iter__(self) -> Iterator[pa.Table]:
        yield self.block
        self.stopped.wait()

    def stop(self) -> None:
        self.stopped.set()


def test_who_waits_for_rows_is_told_that_the_stream_was_left(reads: reader.ShardReader) -> None:
    windows = windows_of(24, 8)
    table, places = reads.locate(windows[1].rows)
    feed = RowFeed(reads, windows, lambda: OneBlock(table.take(places[:4])))
    while feed.waiting_blocks() == 0:
        time.sleep(0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(feed.read_window, 1)  # half of its rows have come
        feed.stop()
        with pytest.raises(StreamLeft):
            waiting.result(timeout=20)
    assert not any(thread.name == "ray data" for thread in threading.enumerate())


class CountedSteps(ExecutionCallback):
    steps = 0

    def on_execution_step(self, executor: object) -> None:
        CountedSteps.steps += 1


def test_the_executor_rests_while_its_blocks_are_not_taken(
    reads: reader.ShardReader, ray_local: None
) -> None:
    data = ray_reader.windows_dataset(
        reads, windows_of(600, 8), ray_reader.read_windows, world=10_000, tasks=2, cpus=0
    )
    data.context.custom_execution_callback_classes.append(CountedSteps)
    blocks = iter(Blocks(data))
    next(blocks)
    CountedSteps.steps, seconds = 0, 1.0
    time.sleep(seconds)
    assert 0 < CountedSteps.steps <= seconds / STEP_SECONDS + 1
    del blocks
