"""Two single-threaded training workers against one, on two cores: rows per second of train.py.

`ratio`: every worker has as many rows in a batch as the one alone, so that the same kernels run on
the same shapes. `ratio_same_batch`: the two share the one's batch; a core is slower on half the
rows, as the work on the weights is not halved. `ratio_own_norms`: as `ratio`, but each goes by the
batch statistics of its own rows (scaling.sync_batch_norm=false), so that they exchange little but
gradients. `alone_together` is what the machine itself gives: two runs of one worker at the same
time, which exchange nothing, their rates added, against one.

The rate is that of the second half of the epochs, as each run's history.json records it: start-up
and the growth of the processes' memory are left out. The model is large enough for the exchange of
gradients to be small beside the work. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards

TRAIN = Path(__file__).resolve().parents[1] / "distributed" / "train.py"


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=2048, help="training rows")
    parser.add_argument("--size", type=int, default=32, help="side of an image in pixels")
    parser.add_argument("--width", type=int, default=96, help="image.width")
    parser.add_argument("--batch", type=int, default=512, help="rows of the batch of a worker")
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of a run; the first half is not counted"
    )
    parser.add_argument("--pairs", type=int, default=3, help="runs of each")
    command.run(parser, measure)


@dataclass(frozen=True)
class TimedRun:
    """One training: the name of its folder, its workers, the rows of its global batch."""

    name: str
    workers: int
    batch: int
    sync_batch_norm: bool = True


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    make_shards(f"{folder}/shards", args.rows, args.size)
    one: list[float] = []
    two: list[float] = []
    same_batch: list[float] = []
    own_norms: list[float] = []
    unconnected: list[float] = []
    for pair in range(args.pairs):
        two += train_at_once(args, folder, TimedRun(f"{pair}-two", 2, 2 * args.batch))
        one += train_at_once(args, folder, TimedRun(f"{pair}-one", 1, args.batch))
        same_batch += train_at_once(args, folder, TimedRun(f"{pair}-half", 2, args.batch))
        own = TimedRun(f"{pair}-own", 2, 2 * args.batch, sync_batch_norm=False)
        own_norms += train_at_once(args, folder, own)
        left, right = (
            TimedRun(f"{pair}-left", 1, args.batch),
            TimedRun(f"{pair}-right", 1, args.batch),
        )
        unconnected.append(sum(train_at_once(args, folder, left, right)))

    def ratios(rates: list[float]) -> list[float]:
        return [rate / alone for rate, alone in zip(rates, one, strict=True)]

    return {
        "benchmark": "workers",
        "rows": args.rows,
        "size": args.size,
        "width": args.width,
        "batch": args.batch,
        "two_rows_per_second": round(statistics.median(two), 1),
        "one_rows_per_second": round(statistics.median(one), 1),
        "ratio": round(statistics.median(ratios(two)), 3),
        "ratios": [round(ratio, 3) for ratio in ratios(two)],
        "ratio_same_batch": round(statistics.median(ratios(same_batch)), 3),
        "ratio_own_norms": round(statistics.median(ratios(own_norms)), 3),
        "alone_together": round(statistics.median(ratios(unconnected)), 3),
        "target": 1.8,
    }


def train_at_once(args: argparse.Namespace, folder: str, *runs: TimedRun) -> list[float]:
    """Returns the training rows per second of each of these runs, all at the same time."""
    processes = []
    for run in runs:
        settings = [
            f"image.width={args.width}",
            f"data.batch_size={run.batch}",
            f"optim.epochs={args.epochs}",
        ]
        if not run.sync_batch_norm:
            settings.append("scaling.sync_batch_norm=false")
        command = [sys.executable, str(TRAIN)]
        command += ["--data", f"{folder}/shards", "--out", f"{folder}/{run.name}"]
        command += ["--workers", str(run.workers), "--set", *settings]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"a training run failed: {runs}")
    return [steady_rate(Path(folder, run.name), args.rows) for run in runs]


def steady_rate(run: Path, rows: int) -> float:
    """Returns the rows per second of the second half of the epochs.

    The rate in the history is that of all epochs so far.
    """
    history = json.loads((run / "history.json").read_text())
    seconds = [rows * epoch["epoch"] / epoch["rows_per_second"] for epoch in history]
    half = len(history) // 2
    return float(rows * (len(history) - half) / (seconds[-1] - seconds[half - 1]))


if __name__ == "__main__":
    main()
