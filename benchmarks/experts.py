"""A training step with eight experts against one with a single expert, on the default network. Prints one JSON line."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--size", type=int, default=48, help="side of an image in pixels")
    parser.add_argument("--experts", type=int, default=8, help="experts of the larger network")
    parser.add_argument("--pairs", type=int, default=30, help="steps of each, in turn")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import torch

    from benchmarks.made import make_shards
    from distributed import config
    from distributed.shards.batches import open_batches
    from distributed.training import exchange, loop
    from model.network import Network

    torch.set_num_threads(1)
    make_shards(f"{folder}/shards", 256, args.size)
    runs = []
    for count in (args.experts, 1):
        settings = config.load_config(sets=["data.cache=memory", f"experts.count={count}"])
        source = open_batches(f"{folder}/shards", "train", settings, train=True)
        runs.append(
            loop.begin(
                Network(source.schema, settings.model),
                source,
                settings,
                exchange.Exchange(),
                torch.device(args.device),
            )
        )
        runs[-1].network.train()
    batches = list(source.batches(0))
    seconds: list[tuple[float, ...]] = []
    for pair in range(args.pairs + 3):
        times = []
        for run in runs:
            start = time.perf_counter()
            loop.train_step(run, [batches[pair % len(batches)]])
            if args.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        seconds.append(tuple(times))
    seconds = seconds[3:]  # the first warm up
    return {
        "benchmark": "experts",
        "experts": args.experts,
        "many_ms": round(1000 * statistics.median(a for a, _ in seconds), 2),
        "one_ms": round(1000 * statistics.median(b for _, b in seconds), 2),
        "ratio": round(statistics.median(a / b for a, b in seconds), 4),
        "target": 1.5,
    }


if __name__ == "__main__":
    main()
