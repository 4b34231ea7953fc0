"""Two single-threaded training workers against one, on two cores: rows per second through train.py and Ray Train. Prints one JSON line.

`ratio`: every worker has as many rows in a batch as the one alone, so that the same kernels run on the same shapes. `ratio_same_batch`: the
two share the one's batch; a core is slower on half the rows, as the work on the weights is not halved. `ratio_own_norms`: as `ratio`, but
each goes by the batch statistics of its own rows (scaling.sync_batch_norm=false), so that they exchange little but gradients.
`alone_together` is what the machine itself gives: two runs of one worker at the same time, which exchange nothing, their rates added,
against one.

The rate is that of the second half of the epochs, as each run's history.json says: start-up and the growth of the processes' memory are
left out. The model is large enough for the exchange of gradients to be small beside the work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    from benchmarks import command

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


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    from benchmarks.made import make_shards

    make_shards(f"{folder}/shards", args.rows, args.size)
    ones, twos, halves, owns, boths = [], [], [], [], []
    for pair in range(args.pairs):
        twos += together(args, folder, [(f"{pair}-two", 2)], 2 * args.batch)
        ones += together(args, folder, [(f"{pair}-one", 1)], args.batch)
        halves += together(args, folder, [(f"{pair}-half", 2)], args.batch)
        owns += together(
            args, folder, [(f"{pair}-own", 2)], 2 * args.batch, "scaling.sync_batch_norm=false"
        )
        boths.append(
            sum(together(args, folder, [(f"{pair}-left", 1), (f"{pair}-right", 1)], args.batch))
        )
    ratios, same, own, unconnected = (
        [a / b for a, b in zip(rates, ones, strict=True)] for rates in (twos, halves, owns, boths)
    )
    return {
        "benchmark": "workers",
        **{name: getattr(args, name) for name in ("rows", "size", "width", "batch")},
        "two_rows_per_second": round(statistics.median(twos), 1),
        "one_rows_per_second": round(statistics.median(ones), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "ratio_same_batch": round(statistics.median(same), 3),
        "ratio_own_norms": round(statistics.median(own), 3),
        "alone_together": round(statistics.median(unconnected), 3),
        "target": 1.8,
    }


def together(
    args: argparse.Namespace, folder: str, runs: list[tuple[str, int]], batch: int, *more: str
) -> list[float]:
    """Training rows per second of each of these runs (name, workers), all at the same time."""
    sets = [
        f"image.width={args.width}",
        f"data.batch_size={batch}",
        f"optim.epochs={args.epochs}",
        *more,
    ]
    started = []
    for name, workers in runs:
        words = [
            "--data",
            f"{folder}/shards",
            "--out",
            f"{folder}/{name}",
            "--workers",
            str(workers),
            "--set",
            *sets,
        ]
        command = [sys.executable, str(ROOT / "distributed/train.py"), *words]
        started.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
    if any([process.wait() for process in started]):
        raise RuntimeError(f"a training run failed: {runs}")
    return [steady_rate(Path(folder, name), args.rows) for name, _ in runs]


def steady_rate(run: Path, rows: int) -> float:
    """Rows per second of the second half of the epochs; the history's rate is that of all epochs so far."""
    history = json.loads((run / "history.json").read_text())
    seconds = [rows * epoch["epoch"] / epoch["rows_per_second"] for epoch in history]
    half = len(history) // 2
    return float(rows * (len(history) - half) / (seconds[-1] - seconds[half - 1]))


if __name__ == "__main__":
    main()
