"""What two training workers cost each other without Ray: bare processes over gloo, on two cores. Prints one JSON line.

Both do the same step over and over, in turn alone (the other waits), beside each other without exchanging anything, and together as Ray
Train's workers do, with averaged gradients and global batch statistics or, in `own_norms`, each with its own. So a machine whose speed
drifts changes all alike. Ratios are rows per second of both against one alone; that of `beside` is what the machine itself gives.
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
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

WARM = 4  # steps that grow the processes' memory


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--width", type=int, default=96, help="image.width")
    parser.add_argument("--batch", type=int, default=512, help="rows of the batch of a worker")
    parser.add_argument("--steps", type=int, default=6, help="steps of each kind")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    if parser.parse_args().rank is None:
        command.run(parser, measure)
    else:
        print(json.dumps(worker(parser.parse_args())))


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    from benchmarks.made import make_shards

    make_shards(f"{folder}/shards", args.batch, args.size)
    started = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--rank", str(rank)],
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a worker failed")
    times = json.loads(said[0])
    alone = times["alone"]
    return {
        "benchmark": "exchange",
        **{name: getattr(args, name) for name in ("size", "width", "batch")},
        **{
            f"{kind}_ms": round(1000 * statistics.median(seconds))
            for kind, seconds in times.items()
        },
        **{
            f"{kind}_ratio": round(
                statistics.median(2 * a / b for a, b in zip(alone, times[kind], strict=True)), 3
            )
            for kind in ("beside", "together", "own_norms")
        },
    }


def worker(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every step of each kind, as the first worker sees them."""
    import torch
    import torch.distributed as dist

    from distributed import config
    from distributed.shards.batches import open_batches
    from distributed.training import loop
    from distributed.training.exchange import Exchange
    from distributed.training.run import keep_memory
    from distributed.training.workers.ray_train import WorkerExchange
    from model.network import Network

    torch.set_num_threads(1)
    keep_memory()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{args.folder}/meeting", rank=args.rank, world_size=2
    )
    settings = config.load_config(
        sets=["data.cache=memory", f"image.width={args.width}", f"data.batch_size={args.batch}"]
    )
    source = open_batches(f"{args.folder}/shards", "train", settings, train=True)
    batch = next(iter(source.batches(0)))
    begun = []
    for one in (Exchange(), WorkerExchange(), WorkerExchange(global_norms=False)):
        torch.manual_seed(0)
        begun.append(
            loop.begin(
                Network(source.schema, settings.model), source, settings, one, torch.device("cpu")
            )
        )
        begun[-1].network.train()
    single, shared, own_norms = begun
    kinds = {"alone": single, "beside": single, "together": shared, "own_norms": own_norms}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(args.steps + WARM):
        for kind, run in kinds.items():
            dist.barrier()
            start = time.perf_counter()
            if kind != "alone" or args.rank == 0:
                loop.train_step(run, [batch])
            seconds[kind].append(time.perf_counter() - start)
    return {kind: each[WARM:] for kind, each in seconds.items()}


if __name__ == "__main__":
    main()
