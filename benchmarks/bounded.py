"""Bounded memory: a training set four times the object store streams through. Prints one JSON line.

Memory is the proportional set size of this process and of all of Ray's on this machine (pages shared by several count once), sampled
while one epoch streams past: with a training set as large as the store, and with one four times as large. Flat means that the larger
set peaks no higher, and that the second half of its epoch peaks no higher than the first.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

MB = 1e6


def main() -> None:
    from benchmarks import command

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


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import numpy as np
    import ray
    from ray._private.internal_api import memory_summary

    from benchmarks.made import make_shards, photographs
    from benchmarks.stream import start_ray

    start_ray(f"{folder}/ray", int(args.store * MB))
    each = np.mean([len(p) for p in photographs(20, args.size, np.random.default_rng(0))])
    found: dict[str, Any] = {}
    for times in (1, 1, args.times):  # the first starts processes and is not reported
        rows = int(times * args.store * MB / each)
        shards = f"{folder}/shards{len(os.listdir(folder))}"
        size = make_shards(shards, rows, args.size, parts=4 * times)
        found[str(times)] = pass_through(shards, args) | {
            "rows": rows,
            "files_mb": round(size / MB),
        }
    stats = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    spilled = float((re.search(r"Spilled (\d+) MiB", stats) or ["", "0"])[1])
    one, many = found["1"], found[str(args.times)]
    ray.shutdown()
    return {
        "benchmark": "bounded",
        "engine": args.engine,
        "store_mb": args.store,
        "one": one,
        "many": many,
        "peak_ratio": round(many["peak_mb"] / one["peak_mb"], 3),
        "halves_ratio": round(many["second_half_mb"] / many["first_half_mb"], 3),
        "spilled_mib": spilled,
        "target": 1.1,
    }


def pass_through(shards: str, args: argparse.Namespace) -> dict[str, Any]:
    """One epoch, with the memory at its start, its peaks and the rate."""
    from distributed.config import Config, apply_changes
    from distributed.shards.batches import open_batches

    config = apply_changes(
        Config(),
        {"data.cache": "stream", "data.engine": args.engine, "data.shuffle_buffer": args.buffer},
    )
    before = memory()
    samples: list[tuple[float, float]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            samples.append((time.perf_counter(), memory()))

    source = open_batches(shards, "train", config, train=True)
    watcher = threading.Thread(target=watch, daemon=True)
    start = time.perf_counter()
    watcher.start()
    rows = sum(len(batch) for batch in source.batches(0))
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    first = [m for at, m in samples if at - start <= seconds / 2]
    second = [m for at, m in samples if at - start > seconds / 2]
    return {
        "start_mb": round(before / MB),
        "peak_mb": round(max(first + second) / MB),
        "first_half_mb": round(max(first) / MB),
        "second_half_mb": round(max(second) / MB),
        "rows_per_second": round(rows / seconds),
    }


def memory() -> float:
    """Proportional set size in bytes of this process and everything it started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    ours, total = {os.getpid()}, 0.0
    while grown := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= grown
    for pid in ours:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(
            1024.0 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return total


if __name__ == "__main__":
    main()
