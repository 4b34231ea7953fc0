"""What the memory regime's data cost: the share of an epoch of the default model that goes into batches. Prints one JSON line.

Two ways, both over whole epochs: the time that the training step waits for its next batch; and an epoch against one that trains on the
same batches made beforehand, alternating.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--pairs", type=int, default=3, help="epochs of each")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 is one a core")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import torch

    from benchmarks.made import make_shards
    from distributed.config import Config, apply_changes
    from distributed.shards.batches import open_batches
    from distributed.training import exchange, loop
    from model.network import Network

    if args.threads:
        torch.set_num_threads(args.threads)
    shards = f"{folder}/shards"
    make_shards(shards, args.rows, args.size)
    config = apply_changes(Config(), {"data.cache": "memory", "optim.epochs": 2 * args.pairs + 2})
    start = time.perf_counter()
    source = open_batches(shards, "train", config, train=True)
    loading = time.perf_counter() - start
    run = loop.begin(
        Network(source.schema, config.model),
        source,
        config,
        exchange.Exchange(),
        torch.device("cpu"),
    )
    ready = Ready(source)
    waits, ratios, seconds = [], [], []
    for pair in range(args.pairs + 1):  # the first warms up
        ready.made = list(source.batches(run.epoch + 1))
        (with_data, waited), (without, _) = epoch(run, source), epoch(run, ready)
        if pair:
            waits.append(waited / with_data)
            ratios.append(with_data / without)
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
        "ratios": [round(r, 4) for r in ratios],
        "target": 0.05,
    }


class Ready:
    """A source whose batches lie in memory already."""

    def __init__(self, source: Any) -> None:
        self.schema, self.rows, self.steps = source.schema, source.rows, source.steps
        self.made: list[Any] = []

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        return iter(self.made[start:])


def epoch(run: Any, source: Any) -> tuple[float, float]:
    """Seconds of one training epoch, and of those spent waiting for batches."""
    from distributed.training import loop

    waited = run.data_seconds
    start = time.perf_counter()
    loop.train_epoch(run, source)
    return time.perf_counter() - start, run.data_seconds - waited


if __name__ == "__main__":
    main()
