"""Bounded memory: a training set four times the object store streams through. Prints a JSON line.

Memory is the proportional set size of this process and of all of Ray's on this machine (pages
shared by several count once), sampled while one epoch streams past: with a training set as large as
the store, and with one four times as large. Flat means that the larger set peaks no higher, and
that the second half of its epoch peaks no higher than the first.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import ray
from ray._private.internal_api import memory_summary

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.memory_use import memory, sample_memory
from benchmarks.stream import start_ray
from benchmarks.synthetic import make_shards, photographs
from distributed.config import Config, apply_changes
from distributed.shards.batches import open_batches

MB = 1e6


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--store", type=float, default=80, help="object store, in MB")
    parser.add_argument(
        "--times", type=int, default=4, help="size of the training set's files, in object stores"
    )
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels")
    parser.add_argument(
        "--engine",
        choices=("threads", "ray"),
        default="ray",
        help="what decodes: threads here, or Ray Data tasks",
    )
    parser.add_argument("--buffer", type=int, default=1024, help="data.shuffle_buffer")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    start_ray(f"{folder}/ray", int(args.store * MB))
    row_bytes = np.mean([len(p) for p in photographs(20, args.size, np.random.default_rng(0))])
    results: dict[int, dict[str, int]] = {}
    for times in (1, 1, args.times):  # the first starts processes and is not reported
        rows = int(times * args.store * MB / row_bytes)
        shards = f"{folder}/shards{len(os.listdir(folder))}"
        size = make_shards(shards, rows, args.size, parts=4 * times)
        results[times] = stream_epoch(shards, args.engine, args.buffer)
        results[times] |= {"rows": rows, "files_mb": round(size / MB)}
    address = ray.get_runtime_context().gcs_address
    stats = memory_summary(address, stats_only=True)  # type: ignore[no-untyped-call]  # Ray's own
    spilled = re.search(r"Spilled (\d+) MiB", stats)
    ray.shutdown()
    one, many = results[1], results[args.times]
    return {
        "benchmark": "bounded",
        "engine": args.engine,
        "store_mb": args.store,
        "one": one,
        "many": many,
        "peak_ratio": round(many["peak_mb"] / one["peak_mb"], 3),
        "halves_ratio": round(many["second_half_mb"] / many["first_half_mb"], 3),
        "spilled_mib": float(spilled[1]) if spilled else 0.0,
        "target": 1.1,
    }


def stream_epoch(shards: str, engine: str, buffer: int) -> dict[str, int]:
    """Returns the memory before one epoch, its peaks during the epoch, and the rate."""
    changes = {"data.cache": "stream", "data.engine": engine, "data.shuffle_buffer": buffer}
    before = memory()
    source = open_batches(shards, "train", apply_changes(Config(), changes), train=True)
    with sample_memory(every=0.2) as samples:
        start = time.perf_counter()
        rows = sum(len(batch) for batch in source.batches(0))
        seconds = time.perf_counter() - start
    first = max(used for at, used in samples if at - start <= seconds / 2)
    second = max(used for at, used in samples if at - start > seconds / 2)
    return {
        "start_mb": round(before / MB),
        "peak_mb": round(max(first, second) / MB),
        "first_half_mb": round(first / MB),
        "second_half_mb": round(second / MB),
        "rows_per_second": round(rows / seconds),
    }


if __name__ == "__main__":
    main()
