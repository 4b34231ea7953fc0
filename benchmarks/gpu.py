"""What a GPU does with the training loop: a bare machine with torch and this checkout, two minutes.

Needs no Ray, no shards and no files: the records are random, in the host's memory. Without
rtdl_num_embeddings they have no table. For each image encoder (resnet, trained from scratch, and
efficientnet_lite0, all of it trained):

  rows_per_second: records, each with one image, that the loop trains on
  ratio: its time per epoch over that of a hand-written loop (benchmarks/plain_loop.py), in pairs
  compiled: rows per second with optim.compile, and the seconds of the first step
  idle: share of the time in which the GPU computes nothing
  waits: how often the host waits for the GPU in a step, as torch counts it
  memory_mb: peak of the GPU's memory

shared: rows per second of 1, 2 and 4 processes beside each other on the GPU (resnet), all together.
On a CPU the figures of a GPU are null. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.plain_loop import PlainLoop
from distributed.config import Config, apply_changes
from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.optimisation.step import train_step
from distributed.training.optimisation.training_state import TrainingState
from model.batch import Batch
from model.network import Network
from model.schema import Categorical, Image, Numeric, Schema, Table

CLASSES = 20
COLUMNS = 16
ENCODERS = ("resnet", "efficientnet_lite0")
PROCESSES = (1, 2, 4)  # beside each other


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="side of an image (default: 128)")
    parser.add_argument("--batch", type=int, default=256, help="records a step (default: 256)")
    parser.add_argument("--steps", type=int, default=20, help="steps an epoch (default: 20)")
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each loop (default: 5)")
    parser.add_argument("--share", type=float, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.share:
        print(rate_beside_others(args, args.share))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, object] = {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "tables": len(schema_of(args.size).tables),
        "size": args.size,
        "batch": args.batch,
    }
    for encoder in ENCODERS:
        result[encoder] = measure_encoder(args, encoder, device)
    result["shared"] = {str(n): shared_rate(args, n) for n in PROCESSES}
    print(json.dumps(result))


class HostBatches:
    """Ready-made batches in the memory of the host."""

    def __init__(self, schema: Schema, rows: int, steps: int) -> None:
        self.steps = steps
        self.ready = [random_batch(schema, rows, seed) for seed in range(min(steps, 4))]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for k in range(start, self.steps):
            yield self.ready[k % len(self.ready)]


def schema_of(size: int) -> Schema:
    """Returns one image modality and, where its embeddings are installed, one table."""
    numbers = tuple(
        Numeric(name=f"n{i}", quantiles=(-2.0, -1.0, 0.0, 1.0, 2.0)) for i in range(COLUMNS)
    )
    table = Table(
        name="table", numeric=numbers, categorical=(Categorical(name="c", vocabulary=("a", "b")),)
    )
    has_embeddings = importlib.util.find_spec("rtdl_num_embeddings") is not None
    return Schema(
        images=(Image(name="photo", height=size, width=size, mean=(0.5,) * 3, std=(0.25,) * 3),),
        tables=(table,) if has_embeddings else (),
        classes=tuple(f"class {c}" for c in range(CLASSES)),
        counts=tuple(1000 // (c + 1) for c in range(CLASSES)),
    )


def random_batch(schema: Schema, rows: int, seed: int) -> Batch:
    """Returns random records, all of them complete."""
    draws = torch.Generator().manual_seed(seed)
    image = schema.images[0]
    shape = rows, image.channels, image.height, image.width
    return Batch(
        images={"photo": torch.randint(256, shape, dtype=torch.uint8, generator=draws)},
        numbers={t.name: torch.randn(rows, COLUMNS, generator=draws) for t in schema.tables},
        categories={t.name: torch.randint(2, (rows, 1), generator=draws) for t in schema.tables},
        present_BM=torch.ones(rows, len(schema.modalities), dtype=torch.bool),
        labels_B=torch.randint(CLASSES, (rows,), generator=draws),
        ranks_B=torch.arange(rows),
        total=rows,
    )


def settings_of(args: argparse.Namespace, encoder: str, compiled: bool = False) -> Config:
    changes = {
        "image.encoder": encoder,
        "image.trainable": "all",
        "optim.epochs": 100,
        "optim.compile": compiled,
        "data.batch_size": args.batch,
        "data.spoil": 0.0,  # the hand-written loop has none
    }
    return apply_changes(Config(), changes)


def begin(
    args: argparse.Namespace, config: Config, device: torch.device
) -> tuple[TrainingState, HostBatches]:
    """Returns a training before its first step, and what it trains on."""
    schema = schema_of(args.size)
    source = HostBatches(schema, args.batch, args.steps)
    torch.manual_seed(0)
    network = Network(schema, config.model, pretrained=False)
    run = loop.begin_training(network, source, config, Exchange(), device)
    run.network.train()
    return run, source


def seconds_of_epoch(
    run: TrainingState | PlainLoop, source: HostBatches, device: torch.device
) -> float:
    start = time.perf_counter()
    if isinstance(run, PlainLoop):
        run.epoch()
    else:
        loop.train_epoch(run, source)
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_encoder(
    args: argparse.Namespace, encoder: str, device: torch.device
) -> dict[str, object]:
    config = settings_of(args, encoder)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    run, source = begin(args, config, device)
    torch.manual_seed(0)
    network = Network(schema_of(args.size), config.model, pretrained=False)
    plain = PlainLoop(network, source, config, device)
    pairs = [
        (seconds_of_epoch(run, source, device), seconds_of_epoch(plain, source, device))
        for _ in range(args.pairs + 1)
    ][1:]  # the first warms up
    rows = args.batch * args.steps
    return {
        "rows_per_second": round(rows / statistics.median(ours for ours, _ in pairs)),
        "ratio": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
        "ratios": [round(ours / theirs, 3) for ours, theirs in pairs],
        "idle": idle_share(run, source) if on_gpu else None,
        "waits": waits_of_step(run, source, device) if on_gpu else None,
        "memory_mb": round(torch.cuda.max_memory_allocated() / 1e6) if on_gpu else None,
        "compiled": measure_compiled(args, encoder, device),
    }


def measure_compiled(
    args: argparse.Namespace, encoder: str, device: torch.device
) -> dict[str, object]:
    run, source = begin(args, settings_of(args, encoder, compiled=True), device)
    start = time.perf_counter()
    try:
        train_step(run, [source.ready[0].to(device)])
    except Exception as error:  # no compiler on this machine, for one
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    wait_for(device)
    first = time.perf_counter() - start
    seconds = [seconds_of_epoch(run, source, device) for _ in range(args.pairs)]
    rate = args.batch * args.steps / statistics.median(seconds)
    return {"first_step_seconds": round(first, 1), "rows_per_second": round(rate)}


def idle_share(run: TrainingState, source: HostBatches) -> float:
    """Returns the share of an epoch in which the GPU computes nothing, by torch's profiler."""
    start = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loop.train_epoch(run, source)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return round(max(0.0, 1 - float(busy) / seconds), 3)


def waits_of_step(run: TrainingState, source: HostBatches, device: torch.device) -> int:
    """Returns how often the host waits for the GPU in a step whose batch is there."""
    batch = source.ready[0].to(device)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        train_step(run, [batch])
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def shared_rate(args: argparse.Namespace, processes: int) -> int:
    """Returns the rows per second of several trainings in processes beside each other."""
    sizes = ["--size", args.size, "--batch", args.batch, "--steps", args.steps]
    words = [sys.executable, __file__, *map(str, sizes), "--share", "5"]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return round(sum(float(process.communicate()[0].strip() or 0) for process in running))


def rate_beside_others(args: argparse.Namespace, seconds: float) -> float:
    """Returns the rows per second of this process, after the others have started too."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, source = begin(args, settings_of(args, ENCODERS[0]), device)
    loop.train_epoch(run, source)
    begun = time.perf_counter()
    epochs = 0
    while time.perf_counter() - begun < seconds or not epochs:
        seconds_of_epoch(run, source, device)
        epochs += 1
    rows: int = epochs * args.batch * args.steps
    return rows / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
