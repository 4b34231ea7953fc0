"""`predict` against a plain PyTorch inference loop: rows per second over the same shards, same network, on one core. Prints one JSON line.

The plain loop is what one writes by hand: all rows decoded beforehand and in memory, then network and softmax over slices of 512, the
probabilities kept. `predict` reads the Parquet parts, decodes, predicts, calibrates, and writes its part files. Two figures, each the
median of the ratios of alternating passes, in processor seconds:
ratio: what predict does with batches against the loop, over the same decoded rows;
ratio_files: from files to files, against a loop that also reads and decodes (one after the other) and writes nothing.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.training.checkpoint import Checkpoint

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--pairs", type=int, default=7)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(
            0, {min(os.sched_getaffinity(0))}
        )  # one core for everything, decoding threads too
    command.run(parser, measure)


def make_checkpoint(folder: str, shards: str) -> Checkpoint:
    """The default network, not trained: it takes as long."""
    from distributed.config import Config
    from distributed.shards.manifest import read_manifest
    from distributed.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from model.decisions.calibration import Calibration
    from model.network import Network

    manifest, config = read_manifest(shards), Config()
    network = Network(manifest.schema, config.model).eval()
    plain = Calibration.identity(config.experts.count, len(manifest.schema.classes))
    save_checkpoint(folder, Checkpoint(network, config, manifest, plain))
    return load_checkpoint(folder)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import torch

    from benchmarks.made import make_shards
    from distributed.inference import inputs, predictor
    from distributed.inference.weighing import FixedAggregation
    from distributed.shards.batches import arrays_to_batch

    torch.set_num_threads(1)
    make_shards(f"{folder}/shards", args.rows, args.size)
    checkpoint = make_checkpoint(f"{folder}/checkpoint", f"{folder}/shards")
    schema, batch_size = checkpoint.network.schema, checkpoint.config.inference.batch_size
    rows, _ = inputs.open_input(
        checkpoint, f"{folder}/shards", images={}, split="train", batch_size=batch_size
    )
    wave = next(rows.waves(1))
    recipe = predictor.PredictionSettings(
        rows=rows, weighing=FixedAggregation((1 / 3,) * 3), out=f"{folder}/out"
    )
    worker = predictor.Predictor(checkpoint, recipe, threads=1)
    prepared = [batch for task in wave.tasks for batch in worker.prepared(wave, task)]
    batches = [arrays_to_batch(one.arrays, schema) for one in prepared]

    @torch.inference_mode()
    def loop() -> None:
        torch.cat([checkpoint.network(batch).logits_BEC.mean(1).softmax(1) for batch in batches])

    def ours() -> None:
        for one in prepared:
            worker.predict(one)

    @torch.inference_mode()
    def loop_files() -> None:
        found = []
        for task in wave.tasks:
            for raw, piece, first in rows.batches(wave, task):
                batch = arrays_to_batch(rows.prepare(raw, piece, first).arrays, schema)
                found.append(checkpoint.network(batch).logits_BEC.mean(1).softmax(1))
        torch.cat(found)

    def ours_files() -> None:
        for part, task in enumerate(wave.tasks):
            worker.work(wave, task, part)
        shutil.rmtree(f"{folder}/out")

    memory, files = paired(ours, loop, args.pairs), paired(ours_files, loop_files, args.pairs)
    return {
        "benchmark": "predict",
        "ratio": round(memory[0], 3),
        "ratio_files": round(files[0], 3),
        "rows_per_second": round(args.rows / memory[1]),
        "loop_rows_per_second": round(args.rows / memory[2]),
        "files_rows_per_second": round(args.rows / files[1]),
        "loop_files_rows_per_second": round(args.rows / files[2]),
        "rows": args.rows,
        "size": args.size,
        "pairs": args.pairs,
        "target": 0.9,
        "met": memory[0] >= 0.9 and files[0] >= 0.9,
    }


def paired(
    ours: Callable[[], None], theirs: Callable[[], None], pairs: int
) -> tuple[float, float, float]:
    """Median of their seconds over ours, and the medians of both; processor seconds, which other processes of the machine do not change."""
    seconds: dict[Callable[[], None], list[float]] = {ours: [], theirs: []}
    for turn in range(pairs + 1):  # the first warms up
        for work in (ours, theirs) if turn % 2 else (theirs, ours):
            started = time.process_time()
            work()
            if turn:
                seconds[work].append(time.process_time() - started)
    ratios = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    return (
        statistics.median(ratios),
        statistics.median(seconds[ours]),
        statistics.median(seconds[theirs]),
    )


if __name__ == "__main__":
    main()
