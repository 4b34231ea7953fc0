"""What the memory regime's data cost: the share of an epoch that goes into batches.

Two ways, both over whole epochs of the default model: the time that the training step waits for its
next batch; and an epoch against one that trains on the same batches, prepared beforehand, in turn.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards
from distributed.config import Config, apply_changes
from distributed.shards.batches import BatchSource, open_batches
from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.optimisation.training_state import TrainingState
from model.batch import Batch
from model.network import Network


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--pairs", type=int, default=3, help="epochs of each")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 is one a core")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    if args.threads:
        torch.set_num_threads(args.threads)
    shards = f"{folder}/shards"
    make_shards(shards, args.rows, args.size)
    config = apply_changes(Config(), {"data.cache": "memory", "optim.epochs": 2 * args.pairs + 2})
    start = time.perf_counter()
    source = open_batches(shards, "train", config, train=True)
    loading = time.perf_counter() - start
    network = Network(source.schema, config.model)
    run = loop.begin_training(network, source, config, Exchange(), torch.device("cpu"))
    ready = ReadySource(source)
    waits, ratios, seconds = [], [], []
    for pair in range(args.pairs + 1):
        ready.ready = list(source.batches(run.epoch + 1))
        with_data, waited = epoch_seconds(run, source)
        without_data, _ = epoch_seconds(run, ready)
        if pair:  # the first pair warms up
            waits.append(waited / with_data)
            ratios.append(with_data / without_data)
            seconds.append(with_data)
    return {
        "benchmark": "memory",
        "rows": args.rows,
        "size": args.size,
        "threads": torch.get_num_threads(),
        "epoch_seconds": round(statistics.median(seconds), 3),
        "load_seconds": round(loading, 3),
        "data_share": round(statistics.median(waits), 5),
        "ratio_to_ready_batches": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "target": 0.05,
    }


class ReadySource:
    """A source whose batches are in memory already, in `ready`."""

    def __init__(self, source: BatchSource) -> None:
        self.schema, self.rows, self.steps = source.schema, source.rows, source.steps
        self.ready: list[Batch] = []

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return iter(self.ready[start:])


def epoch_seconds(run: TrainingState, source: loop.TrainingSource) -> tuple[float, float]:
    """Returns the seconds of one training epoch, and of those spent waiting for batches."""
    waited = run.data_seconds
    start = time.perf_counter()
    loop.train_epoch(run, source)
    return time.perf_counter() - start, run.data_seconds - waited


if __name__ == "__main__":
    main()
