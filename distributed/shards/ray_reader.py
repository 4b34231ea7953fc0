"""Decodes the batches of a split with Ray Data, anywhere in the cluster."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import ray
import ray.data

from distributed.shards.decode import Arrays, decoded_row_bytes
from distributed.shards.reader import READY_BATCHES, Columns, idle_cpus

if TYPE_CHECKING:
    from distributed.shards.reader import ShardReader, Window

BLOCK_BYTES = 8 << 20  # that one task hands over at a time, at most


def read_in_ray(reader: ShardReader, windows: list[Window], world: int = 1) -> Iterator[Arrays]:
    """Yields batches that Ray Data tasks decode, one window a task.

    Every window except the last must hold whole batches of one size.
    """
    # It reports every epoch's start, plan and end.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    shared = ray.put((reader, windows))
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    memory = resources.get("object_store_memory", 0) / (4 * world)
    window_bytes = decoded_row_bytes(reader.schema) * len(windows[0].rows)
    block_bytes = int(min(BLOCK_BYTES, memory / 8))
    # The order is kept, so a task's batches wait in the object store for those of earlier tasks:
    # there must be no more tasks than fit into it.
    tasks = max(1, min(idle_cpus(world), int(memory / window_bytes)))
    data = ray.data.range(len(windows), override_num_blocks=len(windows)).map_batches(
        decode_windows,  # type: ignore[arg-type]  # Ray's type omits fn_args
        fn_args=(shared, block_bytes),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.TaskPoolStrategy(size=tasks),
    )
    data.context.enable_progress_bars = False
    data.context.target_max_block_size = 2 * block_bytes
    data.context.execution_options.preserve_order = True
    data.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=memory
    )
    for batch in data.iter_batches(
        batch_size=windows[0].ends[0], batch_format="numpy", prefetch_batches=READY_BATCHES
    ):
        writable = {
            name: values if values.flags.writeable else values.copy()
            for name, values in batch.items()
        }
        yield reader.arrays_without_columns(len(batch["labels"])) | writable


def decode_windows(
    numbers: Columns, shared: ray.ObjectRef[tuple[ShardReader, list[Window]]], block_bytes: int
) -> Iterator[Arrays]:
    """Decodes the windows of these numbers, as a Ray Data task; yields a few batches per block.

    Arrays without columns are left out, for the object store keeps none.
    """
    reader, windows = ray.get(shared)
    for window in (windows[int(number)] for number in numbers["id"]):
        row_bytes = decoded_row_bytes(reader.schema)
        batches_in_block = max(1, block_bytes // (window.ends[0] * row_bytes))
        batches = window.batches(reader.columns(window.rows))
        while block := [reader.decode(b) for b in itertools.islice(batches, batches_in_block)]:
            yield {
                name: np.concatenate([arrays[name] for arrays in block])
                for name, values in block[0].items()
                if values.size
            }
