"""A stream on one core against decoding alone: processor time a row, same pictures.

alone: Pillow decodes the JPEGs of a window, which are in memory, one after the other. stream: the
window is read from the shards, checked, brought into its order, and decoded into whole batches with
their tables. Alternating; medians. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
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
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.shards.decode import decode_stored_image
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.reader import ShardReader, Window


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=4096, help="of one window")
    parser.add_argument("--size", type=int, default=48, help="side of an image in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keep_freed_memory()  # as trainings do
    shards = f"{folder}/shards"
    make_shards(shards, args.rows, args.size)
    schema = read_manifest(shards).schema
    reader = ShardReader(read_index(shards, "train"), schema)
    rows = np.random.default_rng(0).permutation(args.rows)
    window = Window(rows, (*range(args.batch_size, args.rows, args.batch_size), args.rows))
    encoded = reader.columns(rows)["image.photo"]

    def alone() -> None:
        for picture in encoded:
            decode_stored_image(picture, schema.images[0])

    def stream() -> None:
        reader.recent = {}
        for batch in window.batches(reader.columns(rows)):
            reader.decode(batch)

    pairs = [(seconds_of(stream), seconds_of(alone)) for _ in range(args.pairs + 1)][1:]
    return {
        "benchmark": "decoding",
        "rows": args.rows,
        "size": args.size,
        "stream_microseconds_per_row": round(
            statistics.median(a for a, _ in pairs) / args.rows * 1e6, 1
        ),
        "alone_microseconds_per_row": round(
            statistics.median(b for _, b in pairs) / args.rows * 1e6, 1
        ),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "ratios": [round(a / b, 3) for a, b in pairs],
        "target": 1.1,
    }


def seconds_of(work: Callable[[], None]) -> float:
    """Returns the processor seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
