"""Ingest of small images: rows per second with one core and with all, start of Ray left out.

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import photographs
from distributed.ingestion.options import IngestOptions
from distributed.ingestion.pipeline import ingest
from distributed.runtime.ray_session import start_ray

DISTINCT_IMAGES = 2000
ROWS_PER_GROUP = 10_000
COLUMNS = pa.schema(
    [("id", "string"), ("y", "int64"), ("age", "float64"), ("site", "string"), ("photo", "binary")]
)


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--source", type=int, default=64, help="side of the source images")
    parser.add_argument("--size", type=int, default=48, help="side of the shards' images")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    allowed = sorted(os.sched_getaffinity(0))
    cores = len(allowed)
    table = write_photograph_table(folder, args.rows, args.source)
    rates = {}
    for n in sorted({1, cores}):
        os.sched_setaffinity(0, allowed[:n])  # Ray's processes and threads inherit it
        seconds = ingest_seconds(table, os.path.join(folder, f"shards{n}"), n, args.size)
        rates[n] = round(args.rows / seconds)
    return {
        "benchmark": "ingest",
        "rows": args.rows,
        "cores": cores,
        "rows_per_second": rates[cores],
        "one_core": rates[1],
        "scaling": round(rates[cores] / rates[1], 2),
    }


def write_photograph_table(folder: str, rows: int, size: int) -> str:
    """Writes a Parquet table of JPEGs with three columns and a long-tailed label."""
    rng = np.random.default_rng(0)
    images = photographs(DISTINCT_IMAGES, size, rng)
    path = os.path.join(folder, "table.parquet")
    labels = np.minimum(rng.geometric(0.4, rows), 10)
    with pq.ParquetWriter(path, COLUMNS) as writer:
        for low in range(0, rows, ROWS_PER_GROUP):
            n = min(ROWS_PER_GROUP, rows - low)
            columns = {
                "id": [f"r{i}" for i in range(low, low + n)],
                "y": labels[low : low + n],
                "age": rng.normal(50, 10, n),
                "site": rng.choice(["arm", "leg", "back"], n),
                "photo": pa.array(
                    [images[i] for i in rng.integers(0, len(images), n)], pa.binary()
                ),
            }
            writer.write_table(pa.table(columns))
    return path


def import_ingestion() -> str:
    """Loads in a Ray worker what its first task would load otherwise."""
    # In the function, so that it runs in the worker.
    from distributed.raw import rows

    return rows.__name__


def ingest_seconds(table: str, out: str, cpus: int, size: int) -> float:
    """Returns the seconds of one ingest on a local Ray of so many CPUs."""
    options = IngestOptions(
        table=table, label="y", id="id", image=("photo",), image_size=str(size), out=out
    )
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        start_ray(cpus=cpus, temp_dir=folder)
        warm = ray.remote(import_ingestion)
        ray.get([warm.remote() for _ in range(2 * cpus)])
        start = time.monotonic()
        ingest(options)
        seconds = time.monotonic() - start
        ray.shutdown()
    return seconds


if __name__ == "__main__":
    main()
