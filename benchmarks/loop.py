"""The train loop against a minimal hand-written PyTorch loop of the same model on the same tensors. Prints one JSON line.

Both run the same network, loss terms, augmentation, schedule and optimiser on the same arrays in memory, one epoch each in turn; the
hand-written one has nothing else: no accumulation, no average, no watch for divergence, no timing, no global-batch bookkeeping.
"""

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


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import torch

    from benchmarks.made import make_shards
    from distributed import config
    from distributed.shards.batches import open_batches
    from distributed.training import exchange, loop
    from model.network import Network

    torch.set_num_threads(1)
    make_shards(f"{folder}/shards", args.rows, args.size)
    settings = config.load_config(
        sets=["data.cache=memory", f"optim.epochs={args.pairs + 1}", *args.set]
    )
    source = open_batches(f"{folder}/shards", "train", settings, train=True)
    torch.manual_seed(0)
    run = loop.begin(
        Network(source.schema, settings.model),
        source,
        settings,
        exchange.Exchange(),
        torch.device(args.device),
    )
    torch.manual_seed(0)
    plain = Plain(Network(source.schema, settings.model), source, settings, args.device)
    ratios, seconds = [], []
    for pair in range(args.pairs + 1):
        ours, theirs = (
            timed(lambda: loop.train_epoch(run, source), args.device),
            timed(plain.epoch, args.device),
        )
        if pair:
            ratios.append(ours / theirs)
            seconds.append((ours, theirs))
    return {
        "benchmark": "loop",
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "rows": source.steps * settings.data.batch_size,
        "size": args.size,
        "loop_seconds": round(statistics.median(a for a, _ in seconds), 3),
        "plain_seconds": round(statistics.median(b for _, b in seconds), 3),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(r, 4) for r in ratios],
        "target": 1.05,
    }


def timed(work: Any, device: str) -> float:
    import torch

    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Plain:
    """The loop one would write by hand."""

    def __init__(self, network: Any, source: Any, settings: Any, device: str) -> None:
        import torch

        from model.learning import optimisers

        self.network, self.source, self.settings, self.device = (
            network.to(device, memory_format=torch.channels_last),
            source,
            settings,
            device,
        )
        self.optimiser = optimisers.build_optimiser(network, settings.optim)
        self.step = self.epochs = 0

    def epoch(self) -> float:
        import torch

        from distributed.training.loop import autocast
        from model.learning import losses, optimisers
        from model.learning.augment import augment, drop_modalities

        network, settings, total = self.network.train(), self.settings, 0.0
        steps = settings.optim.epochs * self.source.steps
        for batch in self.source.batches(self.epochs):
            for group in self.optimiser.param_groups:
                group["lr"] = settings.optim.lr * optimisers.learning_rate_scale(
                    self.step, steps, settings.optim.warmup
                )
            batch = augment(batch.to(self.device), settings.data, 0, self.step)
            batch = drop_modalities(batch, settings.fusion.modality_dropout, 0, self.step)
            with autocast(settings, torch.device(self.device)):
                outputs = network(batch)
            loss = sum(
                losses.loss_terms(
                    outputs, batch, network.counts_C, settings.model, self.step / steps
                ).values()
            )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            network.update_running_confidence(outputs, batch)
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.optim.clip)
            self.optimiser.step()
            total += float(loss.detach()) if self.device == "cpu" else 0.0
            self.step += 1
        self.epochs += 1
        return total


if __name__ == "__main__":
    main()
