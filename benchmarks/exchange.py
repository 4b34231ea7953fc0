"""What two training workers cost each other without Ray: bare processes over gloo, on two cores.

Both do the same step over and over, in turn alone (the other waits), beside each other without
exchanging anything, and together as Ray Train's workers do, with averaged gradients and global
batch statistics or, in `own_norms`, each with its own. So a machine whose speed drifts changes all
alike. Ratios are rows per second of both against one alone; that of `beside` is what the machine
itself gives. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards
from distributed.config import load_config
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.shards.batches import open_batches
from distributed.training import loop
from distributed.training.exchange import Exchange, WorkerExchange
from distributed.training.optimisation import step
from distributed.training.optimisation.training_state import TrainingState
from model.network import Network

WARM_UP_STEPS = 4  # they grow the processes' memory


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--width", type=int, default=96, help="image.width")
    parser.add_argument("--batch", type=int, default=512, help="rows of the batch of a worker")
    parser.add_argument("--steps", type=int, default=6, help="steps of each kind")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is None:
        command.run(parser, measure)
    else:
        print(json.dumps(step_seconds(options)))


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    make_shards(f"{folder}/shards", args.batch, args.size)
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--rank", str(rank)],
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError("a worker failed")
    seconds: dict[str, list[float]] = json.loads(outputs[0])
    result: dict[str, object] = {
        "benchmark": "exchange",
        "size": args.size,
        "width": args.width,
        "batch": args.batch,
    }
    for kind, each in seconds.items():
        result[f"{kind}_ms"] = round(1000 * statistics.median(each))
    for kind in ("beside", "together", "own_norms"):
        ratios = [2 * a / b for a, b in zip(seconds["alone"], seconds[kind], strict=True)]
        result[f"{kind}_ratio"] = round(statistics.median(ratios), 3)
    return result


def step_seconds(args: argparse.Namespace) -> dict[str, list[float]]:
    """Returns the seconds of every step of each kind, as one worker measures them."""
    torch.set_num_threads(1)
    keep_freed_memory()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{args.folder}/meeting", rank=args.rank, world_size=2
    )
    settings = load_config(
        sets=["data.cache=memory", f"image.width={args.width}", f"data.batch_size={args.batch}"]
    )
    source = open_batches(f"{args.folder}/shards", "train", settings, train=True)
    batch = next(iter(source.batches(0)))

    def begin(exchange: Exchange) -> TrainingState:
        torch.manual_seed(0)
        network = Network(source.schema, settings.model)
        run = loop.begin_training(network, source, settings, exchange, torch.device("cpu"))
        run.network.train()
        return run

    single = begin(Exchange())
    runs = {
        "alone": single,
        "beside": single,
        "together": begin(WorkerExchange()),
        "own_norms": begin(WorkerExchange(global_norms=False)),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(args.steps + WARM_UP_STEPS):
        for kind, run in runs.items():
            dist.barrier()
            start = time.perf_counter()
            if kind != "alone" or args.rank == 0:
                step.train_step(run, [batch])
            seconds[kind].append(time.perf_counter() - start)
    return {kind: each[WARM_UP_STEPS:] for kind, each in seconds.items()}


if __name__ == "__main__":
    main()
