"""Ingest of small images: rows per second with one core and with all, start of Ray left out; prints one JSON line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def make_table(folder: str, rows: int, size: int) -> str:
    """A Parquet table of JPEG photographs with three columns and a long-tailed label."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.made import photographs

    lot = np.random.default_rng(0)
    pool = photographs(2000, size, lot)
    path = os.path.join(folder, "table.parquet")
    labels = np.minimum(lot.geometric(0.4, rows), 10)
    with pq.ParquetWriter(
        path,
        pa.schema(
            [
                ("id", "string"),
                ("y", "int64"),
                ("age", "float64"),
                ("site", "string"),
                ("photo", "binary"),
            ]
        ),
    ) as out:
        for low in range(0, rows, 10_000):
            n = min(10_000, rows - low)
            columns = {
                "id": [f"r{i}" for i in range(low, low + n)],
                "y": labels[low : low + n],
                "age": lot.normal(50, 10, n),
                "site": lot.choice(["arm", "leg", "back"], n),
                "photo": pa.array([pool[i] for i in lot.integers(0, len(pool), n)], pa.binary()),
            }
            out.write_table(pa.table(columns))
    return path


def _imports() -> str:
    from distributed.raw import rows

    return rows.__name__


def seconds(table: str, out: str, cpus: int, size: int) -> float:
    import contextlib

    import ray

    ingest = importlib.import_module(
        "distributed.ingest"
    )  # the script: distributed.ingest is the function
    from distributed.runtime import ray_session

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray_session.start_ray(cpus=cpus, temp_dir=folder)
        warm = ray.remote(_imports)  # a worker's first task imports the libraries
        ray.get([warm.remote() for _ in range(2 * cpus)])
        words = [
            "--table",
            table,
            "--label",
            "y",
            "--id",
            "id",
            "--image",
            "photo",
            "--image-size",
            str(size),
            "--out",
            out,
        ]
        start = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):
            ingest.main(words)
        spent = time.monotonic() - start
        ray.shutdown()
    return spent


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--source", type=int, default=64, help="side of the source images")
    parser.add_argument("--size", type=int, default=48, help="side of the shards' images")
    command.run(parser, measure)


def measure(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    allowed = sorted(os.sched_getaffinity(0))
    cores = len(allowed)
    table = make_table(folder, options.rows, options.source)
    spent = {}
    for n in sorted({1, cores}):
        os.sched_setaffinity(0, allowed[:n])  # Ray's processes, threads and all, inherit it
        spent[n] = seconds(table, os.path.join(folder, f"shards{n}"), n, options.size)
    rates = {n: round(options.rows / s) for n, s in spent.items()}
    result = {
        "benchmark": "ingest",
        "rows": options.rows,
        "cores": cores,
        "rows_per_second": rates[cores],
        "one_core": rates[1],
    }
    return {**result, "scaling": round(rates[cores] / rates[1], 2)}


if __name__ == "__main__":
    main()
