"""The train loop against a minimal hand-written PyTorch loop of the same model and tensors.

Both run the same network, loss terms, augmentation, schedule and optimiser on the same arrays in
memory, one epoch each in turn. The hand-written one has nothing else: no accumulation, no average
of the weights, no check for divergence, no timing, no global-batch bookkeeping. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.plain_loop import PlainLoop
from benchmarks.synthetic import make_shards
from distributed.config import load_config
from distributed.shards.batches import open_batches
from distributed.training import loop
from distributed.training.exchange import Exchange
from model.network import Network


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1280, help="training rows")
    parser.add_argument("--size", type=int, default=48, help="side of an image in pixels")
    parser.add_argument(
        "--pairs", type=int, default=5, help="epochs of each, after one of each to warm up"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the run"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    make_shards(f"{folder}/shards", args.rows, args.size)
    settings = load_config(sets=["data.cache=memory", f"optim.epochs={args.pairs + 1}", *args.set])
    source = open_batches(f"{folder}/shards", "train", settings, train=True)
    device = torch.device(args.device)
    torch.manual_seed(0)
    run = loop.begin_training(
        Network(source.schema, settings.model), source, settings, Exchange(), device
    )
    torch.manual_seed(0)
    plain = PlainLoop(Network(source.schema, settings.model), source, settings, device)
    seconds: list[tuple[float, float]] = []
    for _ in range(args.pairs + 1):
        ours = seconds_of(lambda: loop.train_epoch(run, source), device)
        theirs = seconds_of(plain.epoch, device)
        seconds.append((ours, theirs))
    measured = seconds[1:]  # the first epochs warm up
    ratios = [ours / theirs for ours, theirs in measured]
    return {
        "benchmark": "loop",
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "rows": source.steps * settings.data.batch_size,
        "size": args.size,
        "loop_seconds": round(statistics.median(ours for ours, _ in measured), 3),
        "plain_seconds": round(statistics.median(theirs for _, theirs in measured), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "target": 1.05,
    }


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds of a call, with the work that it left to the GPU."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
