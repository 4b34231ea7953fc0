"""Decodes whole splits into memory, and decides whether they fit.

No torch here: decoding tasks start faster without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np

from distributed.config import Config, split_list
from distributed.shards.decode import Arrays, decoded_row_bytes, empty_arrays
from distributed.shards.folds import count_stored_rows, stored_rows
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.parallel import read_batches
from distributed.shards.reader import ShardReader, Window
from model.schema import Schema

RAY_STORE_SHARE = 0.3  # of a machine's memory: what Ray gives an object store by default
WINDOW_ROWS = 4096  # rows that are read together
DECODE_ROWS = 256  # rows that one thread decodes at a time


def decide_cache(schema: Schema, rows: int, config: Config) -> str:
    """Returns "memory" or "stream".

    That is data.cache where it says so; for "auto" it is "memory" if the decoded rows fit into
    the share data.memory_share of a node's object store.
    """
    if config.data.cache != "auto":
        return config.data.cache
    limit = config.data.memory_share * object_store_bytes()
    return "memory" if rows * decoded_row_bytes(schema) <= limit else "stream"


def object_store_bytes() -> float:
    """Returns the size of the smallest object store of the cluster's nodes.

    Without Ray it is the share of this machine's memory that Ray would give to one.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        stores = [
            node["Resources"].get("object_store_memory", 0.0)
            for node in ray.nodes()
            if node["Alive"]
        ]
        return min((size for size in stores if size), default=0.0)
    return RAY_STORE_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_arrays(shards: str, split: str, schema: Schema) -> Arrays:
    """Decodes a whole split, in storage order.

    The arrays are contiguous: after ray.put every process of a node reads them without a copy.
    """
    index = read_index(shards, split)
    arrays = empty_arrays(schema, index.rows)
    windows = [
        Window(rows, (*range(DECODE_ROWS, len(rows), DECODE_ROWS), len(rows)))
        for rows in np.split(np.arange(index.rows), range(WINDOW_ROWS, index.rows, WINDOW_ROWS))
    ]
    done = 0
    for batch in read_batches(ShardReader(index, schema), windows):
        size = len(batch["labels"])
        for name, values in batch.items():
            arrays[name][done : done + size] = values
        done += size
    assert done == index.rows
    return arrays


def load_splits(shards: str, config: Config, splits: Sequence[str]) -> dict[str, Arrays] | None:
    """Decodes those of the splits that have rows; None where they are to be streamed instead.

    With data.folds training and validation rows lie together, under the name POOL.
    """
    manifest = read_manifest(shards)
    schema = manifest.schema.keep(split_list(config.data.modalities))
    stored = dict.fromkeys(stored_rows(split, config) for split in splits)
    rows = {name: count for name in stored if (count := count_stored_rows(manifest, name))}
    if decide_cache(schema, sum(rows.values()), config) != "memory":
        return None
    return {split: load_arrays(shards, split, schema) for split in rows}


def select_arrays(arrays: Arrays, loaded: Schema, kept: Schema) -> Arrays:
    """Returns the arrays of the kept modalities only.

    loaded: the data set's schema; the arrays hold some or all of its modalities, in its order.
    """
    available = [
        name
        for name in loaded.modalities
        if f"images/{name}" in arrays or f"numbers/{name}" in arrays
    ]
    wanted = empty_arrays(kept, 0)
    chosen = {name: values for name, values in arrays.items() if name in wanted}
    assert set(wanted) == set(chosen), (
        f"loaded: {', '.join(available)}; wanted: {', '.join(kept.modalities)}"
    )
    if tuple(available) == kept.modalities:
        return chosen
    places = [available.index(name) for name in kept.modalities]
    return chosen | {"present": arrays["present"][:, places]}
