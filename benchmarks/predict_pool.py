"""predict.py on all cores against as many independent plain loops, one process a core.

A plain loop reads and decodes its own share of the shards, runs the network and the softmax, and
writes nothing; it starts with a loaded model. `predict` reads, decodes, predicts, calibrates and
writes its part files in a pool of actors. Both are measured at two sizes, and the difference
counts, so that the start of Ray and of the processes is left out. ratio: rows per second of predict
over those of the loops. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ray
import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards
from benchmarks.untrained import make_checkpoint
from distributed.config import Config, apply_changes
from distributed.inference.batches.batch_prediction import predict
from distributed.inference.options import PredictOptions
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.runtime.ray_session import start_ray
from distributed.shards.batches import StreamSource, open_batches
from distributed.training.checkpoint import load_checkpoint


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="of the small size, for each core")
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--pairs", type=int, default=3)
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    cores = sorted(os.sched_getaffinity(0))
    small, large = args.rows * len(cores), 3 * args.rows * len(cores)
    for rows in (small, large):
        make_shards(f"{folder}/{rows}", rows, args.size)
    make_checkpoint(f"{folder}/checkpoint", f"{folder}/{small}")
    start_ray(cpus=len(cores), temp_dir=f"{folder}/ray")

    def pool(rows: int) -> float:
        out = f"{folder}/out{time.monotonic_ns()}"
        options = PredictOptions(
            checkpoint=f"{folder}/checkpoint",
            data=f"{folder}/{rows}",
            split="train",
            out=out,
            concurrency=len(cores),
        )
        start = time.perf_counter()
        predict(options)
        return time.perf_counter() - start

    def loops(rows: int) -> float:
        context = multiprocessing.get_context("spawn")
        start = time.perf_counter()
        processes = [
            context.Process(
                target=plain_loop,
                args=(f"{folder}/checkpoint", f"{folder}/{rows}", rank, len(cores)),
            )
            for rank in range(len(cores))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return time.perf_counter() - start

    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(args.pairs):
        ours.append(marginal(pool, small, large))
        theirs.append(marginal(loops, small, large))
    ray.shutdown()
    return {
        "benchmark": "predict_pool",
        "cores": len(cores),
        "rows": large - small,
        "size": args.size,
        "rows_per_second": round(1 / statistics.median(ours)),
        "loops_rows_per_second": round(1 / statistics.median(theirs)),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, theirs)), 3),
        "ratios": [round(b / a, 3) for a, b in zip(ours, theirs)],
        "target": 0.9,
    }


def marginal(work: Callable[[int], float], small: int, large: int) -> float:
    """Returns the seconds of one row more."""
    return (work(large) - work(small)) / (large - small)


@torch.inference_mode()
def plain_loop(checkpoint: str, shards: str, rank: int, world: int) -> None:
    """Predicts one share of the training rows."""
    torch.set_num_threads(1)
    keep_freed_memory()
    network = load_checkpoint(checkpoint).network.eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
    config = apply_changes(Config(), {"data.cache": "stream", "data.engine": "threads"})
    source = open_batches(shards, "train", config, train=False, rank=rank, world=world)
    assert isinstance(source, StreamSource)
    torch.cat([network(b).logits_BEC.mean(1).softmax(1) for b in source.batches(0)])


if __name__ == "__main__":
    main()
