"""A table of 2,000 columns against one of 50 columns with as many cells: what a cell costs.

Both are CSV files of random numbers with a label, ingested in this process and trained for an epoch
on one core, with the evaluations and the end of the run. Processor microseconds a cell:

  ingest: from the CSV to the shards
  training: the epoch alone
  run: all of the training, from the shards to the end (no page)

ratios: of the wide table to the narrow one. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.startup import write_wide_table
from distributed.ingestion import pipeline
from distributed.ingestion.options import IngestOptions
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.shards.manifest import read_manifest
from distributed.training.run import run_training
from distributed.training.spec import RunSpec

NARROW_COLUMNS = 50
DIGITS = 6  # so many that nearly all values differ in both tables


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--columns", type=int, default=2000, help="of the wide table")
    parser.add_argument("--rows", type=int, default=2000, help="of the wide table")
    parser.add_argument("--no-training", action="store_true", help="only ingest")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as trainings do
    pipeline.SMALL_SECONDS = float("inf")
    tables = {
        "narrow": (args.rows * args.columns // NARROW_COLUMNS, NARROW_COLUMNS),
        "wide": (args.rows, args.columns),
    }
    costs = {
        name: microseconds_of_cell(f"{folder}/{name}", rows, columns, not args.no_training)
        for name, (rows, columns) in tables.items()
    }
    ratios = {work: round(costs["wide"][work] / costs["narrow"][work], 3) for work in costs["wide"]}
    return {"benchmark": "wide", "tables": tables, **costs, "ratios": ratios, "target": 1.0}


def microseconds_of_cell(folder: str, rows: int, columns: int, train: bool) -> Mapping[str, float]:
    """Returns what a cell of a table of this size costs, by the kind of work."""
    write_wide_table(f"{folder}.csv", rows, columns, DIGITS)
    start = time.process_time()
    pipeline.ingest(IngestOptions(table=f"{folder}.csv", label="y", out=folder))
    costs = {"ingest": (time.process_time() - start) / (rows * columns)}
    if train:
        trained_cells = read_manifest(folder).rows["train"] * columns
        start = time.process_time()
        metrics = run_training(RunSpec(shards=folder, settings={"optim.epochs": 1})).metrics
        costs["training"] = (metrics.cpu_seconds or 0.0) / trained_cells
        costs["run"] = (time.process_time() - start) / trained_cells
    return {work: round(1e6 * seconds, 3) for work, seconds in costs.items()}


if __name__ == "__main__":
    main()
