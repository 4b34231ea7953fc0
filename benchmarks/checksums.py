"""What it costs to check every byte of the shards that is read: the share of the time of reading.

The same training rows are read with the checksums of schema.json and without them, in turn: as
stored columns that nobody decodes, and as training reads them (row groups in a random order,
decoded by threads). The share is the difference of the first, in which other noise is small, over
the time of the second. It is CPU time, which is what counts where others use the machine too.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards
from distributed.shards.index import SplitIndex, read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.parallel import read_in_threads
from distributed.shards.reader import ShardReader, Window
from model.schema import Schema

WINDOW_ROWS, BATCH_ROWS = 4096, 64


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--pairs", type=int, default=9, help="readings of each kind")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    shards = f"{folder}/shards"
    size = make_shards(shards, args.rows, args.size)
    schema = read_manifest(shards).schema
    checked = read_index(shards, "train")
    unchecked = dataclasses.replace(checked, records=(None,) * len(checked.files))
    result: dict[str, object] = {
        "benchmark": "checksums",
        "rows": args.rows,
        "size": args.size,
        "bytes": size,
    }
    stored, more = paired(read_stored, checked, unchecked, schema, 5 * args.pairs)
    decoded, _ = paired(read_decoded, checked, unchecked, schema, args.pairs)
    return result | {
        "stored_seconds": round(stored, 5),
        "checking_seconds": round(more, 5),
        "decoded_seconds": round(decoded, 4),
        "share": round(more / decoded, 4),
        "target": 0.03,
    }


def paired(
    read: Callable[[SplitIndex, Schema], None],
    checked: SplitIndex,
    unchecked: SplitIndex,
    schema: Schema,
    pairs: int,
) -> tuple[float, float]:
    """Returns the median CPU time without checksums, and the median of what they add to it."""
    without, added = [], []
    for pair in range(pairs + 1):
        seconds = {}
        order = (checked, unchecked) if pair % 2 else (unchecked, checked)
        for index in order:
            start = time.process_time()
            read(index, schema)
            seconds[index is checked] = time.process_time() - start
        if pair:  # the first pair warms up
            without.append(seconds[False])
            added.append(seconds[True] - seconds[False])
    return statistics.median(without), statistics.median(added)


def read_decoded(index: SplitIndex, schema: Schema) -> None:
    """Reads and decodes all rows as a stream does, a window at a time."""
    groups = np.random.default_rng(0).permutation(len(index.starts_U) - 1)
    order = np.concatenate([np.arange(*index.starts_U[g : g + 2]) for g in groups])
    windows = [
        Window(rows, (*range(BATCH_ROWS, len(rows), BATCH_ROWS), len(rows)))
        for rows in np.split(order, range(WINDOW_ROWS, len(order), WINDOW_ROWS))
    ]
    for _ in read_in_threads(ShardReader(index, schema), windows):
        pass


def read_stored(index: SplitIndex, schema: Schema) -> None:
    """Reads the stored columns of all rows."""
    ShardReader(index, schema).columns(np.arange(index.rows))


if __name__ == "__main__":
    main()
