"""A training step with eight experts against one with a single expert, on the default network.

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards
from distributed.config import load_config
from distributed.shards.batches import open_batches
from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.optimisation import step
from model.network import Network

WARM_UP_STEPS = 3


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--size", type=int, default=48, help="side of an image in pixels")
    parser.add_argument("--experts", type=int, default=8, help="experts of the larger network")
    parser.add_argument("--pairs", type=int, default=30, help="steps of each, in turn")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    make_shards(f"{folder}/shards", 256, args.size)
    runs = []
    for count in (args.experts, 1):
        settings = load_config(sets=["data.cache=memory", f"experts.count={count}"])
        source = open_batches(f"{folder}/shards", "train", settings, train=True)
        network = Network(source.schema, settings.model)
        run = loop.begin_training(network, source, settings, Exchange(), torch.device(args.device))
        run.network.train()
        runs.append(run)
    batches = list(source.batches(0))
    seconds: list[tuple[float, float]] = []
    for pair in range(args.pairs + WARM_UP_STEPS):
        times = []
        for run in runs:
            start = time.perf_counter()
            step.train_step(run, [batches[pair % len(batches)]])
            if args.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        seconds.append((times[0], times[1]))
    measured = seconds[WARM_UP_STEPS:]
    return {
        "benchmark": "experts",
        "experts": args.experts,
        "many_ms": round(1000 * statistics.median(many for many, _ in measured), 2),
        "one_ms": round(1000 * statistics.median(one for _, one in measured), 2),
        "ratio": round(statistics.median(many / one for many, one in measured), 4),
        "target": 1.5,
    }


if __name__ == "__main__":
    main()
