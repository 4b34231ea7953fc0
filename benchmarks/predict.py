"""`predict` against a plain PyTorch inference loop: rows per second over the same shards, one core.

The plain loop is what one writes by hand: all rows decoded beforehand and in memory, then network
and softmax over slices of 512, the probabilities kept. `predict` reads the Parquet parts, decodes,
predicts, calibrates, and writes its part files. Two figures, each the median of the ratios of
alternating passes, in processor seconds:
ratio: what predict does with batches against the loop, over the same decoded rows;
ratio_files: from files to files, against a loop that also reads and decodes (one after the other)
and writes nothing. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if hasattr(os, "sched_setaffinity"):
    # One core for everything, decoding threads too: before any library starts its threads.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards
from benchmarks.untrained import make_checkpoint
from distributed.inference.batches.part_files import PartWriter, PredictionSettings
from distributed.inference.rows.tables import open_input
from distributed.inference.weighing import FixedAggregation
from distributed.shards.batches import arrays_to_batch

TARGET = 0.9


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--pairs", type=int, default=7)
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    make_shards(f"{folder}/shards", args.rows, args.size)
    checkpoint = make_checkpoint(f"{folder}/checkpoint", f"{folder}/shards")
    schema, batch_size = checkpoint.network.schema, checkpoint.config.inference.batch_size
    rows, _ = open_input(
        checkpoint, f"{folder}/shards", images={}, split="train", batch_size=batch_size
    )
    task_group = next(rows.task_groups(1))
    recipe = PredictionSettings(
        rows=rows, aggregation=FixedAggregation((1 / 3,) * 3), out=f"{folder}/out"
    )
    writer = PartWriter(checkpoint, recipe, threads=1)
    prepared = [
        rows.prepare(raw) for task in task_group.tasks for raw in rows.batches(task_group, task)
    ]
    batches = [arrays_to_batch(batch.arrays, schema) for batch in prepared]

    @torch.inference_mode()
    def loop() -> None:
        torch.cat([checkpoint.network(batch).logits_BEC.mean(1).softmax(1) for batch in batches])

    def ours() -> None:
        for batch in prepared:
            writer.predictor.predict(batch)

    @torch.inference_mode()
    def loop_files() -> None:
        probabilities = []
        for task in task_group.tasks:
            for raw in rows.batches(task_group, task):
                batch = arrays_to_batch(rows.prepare(raw).arrays, schema)
                probabilities.append(checkpoint.network(batch).logits_BEC.mean(1).softmax(1))
        torch.cat(probabilities)

    def ours_files() -> None:
        for part, task in enumerate(task_group.tasks):
            writer.write_task(task_group, task, part)
        shutil.rmtree(f"{folder}/out")

    memory = compare(ours, loop, args.pairs)
    files = compare(ours_files, loop_files, args.pairs)
    return {
        "benchmark": "predict",
        "ratio": round(memory.ratio, 3),
        "ratio_files": round(files.ratio, 3),
        "rows_per_second": round(args.rows / memory.ours),
        "loop_rows_per_second": round(args.rows / memory.theirs),
        "files_rows_per_second": round(args.rows / files.ours),
        "loop_files_rows_per_second": round(args.rows / files.theirs),
        "rows": args.rows,
        "size": args.size,
        "pairs": args.pairs,
        "target": TARGET,
        "met": memory.ratio >= TARGET and files.ratio >= TARGET,
    }


class Timing(NamedTuple):
    """Medians over alternating passes."""

    ratio: float  # of their seconds over ours
    ours: float  # seconds
    theirs: float


def compare(ours: Callable[[], None], theirs: Callable[[], None], pairs: int) -> Timing:
    """Runs both in turn and compares processor seconds, which other processes do not change."""
    our_seconds: list[float] = []
    their_seconds: list[float] = []
    for turn in range(pairs + 1):
        order = [(ours, our_seconds), (theirs, their_seconds)]
        for work, seconds in order if turn % 2 else reversed(order):
            started = time.process_time()
            work()
            if turn:  # the first warms up
                seconds.append(time.process_time() - started)
    ratios = [b / a for a, b in zip(our_seconds, their_seconds, strict=True)]
    return Timing(
        statistics.median(ratios), statistics.median(our_seconds), statistics.median(their_seconds)
    )


if __name__ == "__main__":
    main()
