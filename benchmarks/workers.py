"""Two single-threaded training workers against one, on two cores: rows per second through train.py and Ray Train. Prints one JSON line.

Whole runs in turn; the rate is that of the training epochs, as each run's metrics.json says, so start-up is left out. The model is wide
enough for the exchange of gradients to be small beside the work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024, help="training rows (default: 1024)")
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels (default: 64)")
    parser.add_argument("--width", type=int, default=48, help="image.width (default: 48)")
    parser.add_argument("--batch", type=int, default=128, help="rows of a global batch (default: 128)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder:
        print(json.dumps(measure(args, folder)))


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    from benchmarks.made import make_shards

    make_shards(f"{folder}/shards", args.rows, args.size)
    rates = [tuple(rate(args, folder, f"{pair}-{n}", n) for n in (2, 1)) for pair in range(args.pairs)]
    ratios = [two / one for two, one in rates]
    return {
        "benchmark": "workers",
        "rows": args.rows,
        "size": args.size,
        "two_rows_per_second": round(statistics.median(two for two, _ in rates), 1),
        "one_rows_per_second": round(statistics.median(one for _, one in rates), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        "target": 1.8,
    }


def rate(args: argparse.Namespace, folder: str, name: str, workers: int) -> float:
    """Training rows per second of one run."""
    sets = [f"image.width={args.width}", f"data.batch_size={args.batch}", "optim.epochs=3"]
    words = ["--data", f"{folder}/shards", "--out", f"{folder}/{name}", "--workers", str(workers), "--set", *sets]
    subprocess.run([sys.executable, str(ROOT / "distributed/train.py"), *words], check=True, capture_output=True)
    return float(json.loads(Path(folder, name, "metrics.json").read_text())["rows_per_second"])


if __name__ == "__main__":
    main()
