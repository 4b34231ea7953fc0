"""What a GPU does with the training loop: a bare machine with torch and this checkout, two minutes.

Each part is a process of its own, takes fewer and shorter epochs on a slow device, and is ended
when its share of --seconds is over; the line then says that it was not measured.

Needs no Ray, no shards and no files: the records are random, in the host's memory. Without
rtdl_num_embeddings they have no table. For each image encoder (resnet, trained from scratch, and
efficientnet_lite0, all of it trained):

  rows_per_second: records, each with one image, that the loop trains on
  ratio: its time per epoch over that of a hand-written loop (benchmarks/plain_loop.py), in pairs
  steps: of an epoch
  compiled: rows per second with optim.compile, and the seconds of the first step
  idle: share of the time in which the GPU computes nothing
  waits: how often the host waits for the GPU in a step, as torch counts it
  memory_mb: peak of the GPU's memory in a step

shared: rows per second of 1, 2 and 4 processes beside each other on the GPU (resnet), all together.
On a CPU the figures of a GPU are null. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.plain_loop import PlainLoop
from benchmarks.random_records import HostBatches, schema_of
from benchmarks.timed_process import run_until
from distributed.config import Config, apply_changes
from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.optimisation.step import train_step
from distributed.training.optimisation.training_state import TrainingState
from model.network import Network

ENCODERS = ("resnet", "efficientnet_lite0")
PROCESSES = (1, 2, 4)  # beside each other
SHARES = {"loops": 16, "compiled": 27, "beside": 10}  # of the time, for a part of each kind


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="side of an image (default: 128)")
    parser.add_argument("--batch", type=int, default=256, help="records a step (default: 256)")
    parser.add_argument("--steps", type=int, default=20, help="steps an epoch (default: 20)")
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each loop (default: 5)")
    parser.add_argument("--seconds", type=float, default=115, help="in all (default: 115)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--encoder", default=ENCODERS[0], help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.part:
        print(json.dumps(PARTS[args.part](args, args.encoder, device)))
        return
    result: dict[str, object] = {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "tables": len(schema_of(args.size).tables),
        "size": args.size,
        "batch": args.batch,
    }
    found = measure_parts(args)
    for encoder in ENCODERS:
        (loops,), (compiled,) = found["loops", encoder, 1], found["compiled", encoder, 1]
        result[encoder] = {**loops, "compiled": compiled}
    result["shared"] = {str(n): joint_rate(found["beside", ENCODERS[0], n]) for n in PROCESSES}
    print(json.dumps(result))


def measure_parts(args: argparse.Namespace) -> dict[tuple[str, str, int], list[dict[str, object]]]:
    """Returns what each process of each part measures: by kind, encoder and number of processes.

    A part has its share of the time that is left, so that later ones gain what it does not need.
    """
    parts = [(kind, encoder, 1) for encoder in ENCODERS for kind in ("loops", "compiled")]
    parts += [("beside", ENCODERS[0], n) for n in PROCESSES]
    end = time.time() + args.seconds
    found = {}
    for k, (kind, encoder, processes) in enumerate(parts):
        share = SHARES[kind] / sum(SHARES[later] for later, _, _ in parts[k:])
        until = time.time() + (end - time.time()) * share
        given = {name: getattr(args, name) for name in ("size", "batch", "steps", "pairs")}
        given |= {"part": kind, "encoder": encoder, "until": until}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        found[kind, encoder, processes] = run_until([__file__, *words], until, processes)
    return found


def joint_rate(found: list[dict[str, object]]) -> int | None:
    """Returns the rows per second of all processes together, if each has measured its own."""
    rates = [each.get("rows_per_second") for each in found]
    numbers = [rate for rate in rates if isinstance(rate, float)]
    return round(sum(numbers)) if len(numbers) == len(rates) else None


def settings_of(args: argparse.Namespace, encoder: str, compiled: bool = False) -> Config:
    changes = {
        "image.encoder": encoder,
        "image.trainable": "all",
        "optim.epochs": 100,
        "optim.compile": compiled,
        "data.batch_size": args.batch,
        "data.spoil": 0.0,  # the hand-written loop changes no image so
        "data.degrade": 0.0,
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


def limit_steps(args: argparse.Namespace, source: HostBatches, seconds: float, epochs: int) -> None:
    """Makes the epochs as short as the rest of the time asks for; seconds: of one step."""
    # A fifth of the time is for what is measured beside the epochs.
    fit = 0.8 * (args.until - time.time()) / (epochs * max(seconds, 1e-6))
    source.steps = max(1, min(args.steps, int(fit)))


def seconds_of_step(run: TrainingState, source: HostBatches, device: torch.device) -> float:
    start = time.perf_counter()
    train_step(run, [source.ready[0].to(device)])
    wait_for(device)
    return time.perf_counter() - start


def compare_loops(
    args: argparse.Namespace, encoder: str, device: torch.device
) -> dict[str, object]:
    config = settings_of(args, encoder)
    on_gpu = device.type == "cuda"
    run, source = begin(args, config, device)
    seconds = [seconds_of_step(run, source, device) for _ in range(2)][-1]  # the first warms up
    memory = torch.cuda.max_memory_allocated() if on_gpu else 0
    torch.manual_seed(0)
    network = Network(schema_of(args.size), config.model, pretrained=False)
    limit_steps(args, source, seconds, 2 * (args.pairs + 2))
    plain = PlainLoop(network, source, config, device)
    pairs: list[tuple[float, float]] = []
    while len(pairs) <= args.pairs:
        pairs.append(
            (seconds_of_epoch(run, source, device), seconds_of_epoch(plain, source, device))
        )
        if time.time() + 2 * sum(pairs[-1]) > args.until:
            break
    pairs = pairs[1:] or pairs  # the first warms up
    rows = args.batch * source.steps
    return {
        "rows_per_second": round(rows / statistics.median(ours for ours, _ in pairs)),
        "ratio": round(statistics.median(ours / theirs for ours, theirs in pairs), 3),
        "ratios": [round(ours / theirs, 3) for ours, theirs in pairs],
        "steps": source.steps,
        "idle": idle_share(run, source) if on_gpu else None,
        "waits": waits_of_step(run, source, device) if on_gpu else None,
        "memory_mb": round(memory / 1e6) if on_gpu else None,
    }


def measure_compiled(
    args: argparse.Namespace, encoder: str, device: torch.device
) -> dict[str, object]:
    run, source = begin(args, settings_of(args, encoder, compiled=True), device)
    try:
        first = seconds_of_step(run, source, device)
    except Exception as error:  # no compiler on this machine, for one
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    limit_steps(args, source, seconds_of_step(run, source, device), args.pairs)
    rates = [
        args.batch * source.steps / seconds_of_epoch(run, source, device)
        for _ in range(args.pairs)
        if time.time() < args.until - 1
    ]
    rate = round(statistics.median(rates)) if rates else None
    return {"first_step_seconds": round(first, 1), "rows_per_second": rate}


def idle_share(run: TrainingState, source: HostBatches) -> float:
    """Returns the share of an epoch in which the GPU computes nothing, by torch's profiler."""
    start = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loop.train_epoch(run, source)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    busy = sum(
        event.self_device_time_total
        for event in profile.key_averages()
        if not event.key.startswith(("Memcpy", "Memset"))
    )
    busy /= 1e6
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
    # torch also warns once that this way of counting is new.
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def rate_beside_others(
    args: argparse.Namespace, encoder: str, device: torch.device
) -> dict[str, object]:
    """Measures the rate of this process, until just before its time is over.

    All processes begin within a second or two of each other.
    """
    run, source = begin(args, settings_of(args, encoder), device)
    seconds = [seconds_of_step(run, source, device) for _ in range(2)][-1]
    limit_steps(args, source, seconds, 4 * max(PROCESSES))
    begun = time.perf_counter()
    epochs, last = 0, 0.0
    while time.time() + 2 * last + 1 < args.until or not epochs:
        last = seconds_of_epoch(run, source, device)
        epochs += 1
    rows = epochs * source.steps * args.batch
    return {"rows_per_second": rows / (time.perf_counter() - begun)}


PARTS = {"loops": compare_loops, "compiled": measure_compiled, "beside": rate_beside_others}


if __name__ == "__main__":
    main()
