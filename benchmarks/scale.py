"""A large set on two cores: ingested, streamed and trained for an epoch, in bounded memory.

The table has random numbers and categories, a label that depends on them, and with --size a small
JPEG in every row. Rows per second, processor microseconds a row (of all processes) and the peak of
the proportional set size of this process and all of Ray's. Training runs in this process and
streams; --set changes its settings. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.memory_use import cpu_seconds, sample_memory
from benchmarks.synthetic import photographs
from distributed.config import apply_changes, load_config
from distributed.ingestion.options import IngestOptions
from distributed.ingestion.pipeline import ingest
from distributed.runtime.ray_session import start_ray
from distributed.shards.batches import open_batches
from distributed.training.driver import fit
from distributed.training.options import FitOptions

DISTINCT_IMAGES = 2000
ROWS_PER_GROUP = 20_000


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=8, help="numeric columns")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--split", default="", help="TRAIN,VAL,TEST shares, as ingest.py's")
    parser.add_argument("--size", type=int, default=0, help="side of an image; 0: table only")
    parser.add_argument("--store", type=float, default=1000, help="object store, in MB")
    parser.add_argument("--no-training", action="store_true", help="only ingest and stream")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="K=V")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    table = write_table(folder, args)
    start_ray(cpus=2, object_store=int(args.store * 1e6), temp_dir=f"{folder}/ray")
    result: dict[str, object] = {
        "benchmark": "scale",
        "rows": args.rows,
        "columns": args.columns,
        "classes": args.classes,
        "size": args.size,
        "table_mb": round(os.path.getsize(table) / 1e6),
    }
    shards = f"{folder}/shards"
    options = IngestOptions(table=table, label="y", id="id", split=args.split or None, out=shards)
    if args.size:
        options = replace(options, image=("photo",), image_size=str(args.size))
    result["ingest"] = measured(lambda: ingest(options), args.rows)
    settings = load_config(sets=args.set)
    stream = apply_changes(settings, {"data.cache": "stream"})
    source = open_batches(shards, "train", stream, train=True)
    result["stream"] = measured(lambda: sum(len(batch) for batch in source.batches(0)), source.rows)
    if not args.no_training:
        fixed = ("data.cache=stream", "optim.epochs=1", *args.set)
        training = FitOptions(data=shards, out=f"{folder}/run", set=fixed, no_page=True)
        result["training"] = measured(lambda: fit(training), source.rows)
    ray.shutdown()
    return result


def measured(work: Callable[[], object], rows: int) -> dict[str, float]:
    """Returns what a piece of work on so many rows costs."""
    cpu, start = cpu_seconds(), time.perf_counter()
    with sample_memory(every=0.5) as samples:
        work()
    seconds = time.perf_counter() - start
    return {
        "rows_per_second": round(rows / seconds),
        "cpu_microseconds_per_row": round(1e6 * (cpu_seconds() - cpu) / rows, 1),
        "peak_mb": round(max((used for _, used in samples), default=0.0) / 1e6),
    }


def write_table(folder: str, args: argparse.Namespace) -> str:
    """Writes a Parquet table, a part at a time; class c has rows in proportion to 1 / (c + 10)."""
    rows, size = args.rows, args.size
    rng = np.random.default_rng(0)
    shares_C = 1 / (np.arange(args.classes) + 10)
    images = photographs(DISTINCT_IMAGES, size, rng) if size else []
    path = os.path.join(folder, "table.parquet")
    writer: pq.ParquetWriter | None = None
    for low in range(0, rows, ROWS_PER_GROUP):
        n = min(ROWS_PER_GROUP, rows - low)
        labels = rng.choice(args.classes, n, p=shares_C / shares_C.sum())
        cells: dict[str, object] = {
            "id": [f"r{i}" for i in range(low, low + n)],
            "y": [f"class {label}" for label in labels],
            "site": rng.choice(["arm", "leg", "back"], n),
        }
        cells |= {f"c{i}": rng.normal(labels % 10 * (i % 3), 2.0) for i in range(args.columns)}
        if size:
            chosen = rng.integers(0, len(images), n)
            cells["photo"] = pa.array([images[i] for i in chosen], pa.binary())
        part = pa.table(cells)
        writer = writer or pq.ParquetWriter(path, part.schema)
        writer.write_table(part)
    assert writer is not None
    writer.close()
    return path


if __name__ == "__main__":
    main()
