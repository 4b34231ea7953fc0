"""A study of many small trainings against the trainings' own time.

wall_over_own: wall time of a study of 30 trainings (15 variants, 2 seeds) of 200 rows, with the
start of Ray, its processes and the report, over the time that the same number of trainings takes in
a process that has trained before, divided by the cores. Target 1.3. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.training.run import run_training
from distributed.training.spec import RunSpec

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 2
ROWS = 200


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--variants", type=int, default=15)
    parser.add_argument("--own", type=int, default=4, help="trainings timed in this process")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    shards = f"{folder}/shards"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    rows = ["--rows", "400", "--val-rows", "100", "--test-rows", "100"]
    wafers = [sys.executable, "-m", "distributed.wafers", *rows, "--shards", shards]
    subprocess.run(wafers, cwd=ROOT, env=environment, check=True, capture_output=True)
    study = Path(folder, "study.toml")
    study.write_text(definition(args.variants))
    words = ["--study", str(study), "--data", shards, "--out", f"{folder}/study"]
    words += ["--seeds", str(SEEDS), "--set", f"data.max_rows={ROWS}"]
    ablate = [sys.executable, str(ROOT / "distributed/ablate.py"), *words]
    start = time.monotonic()
    subprocess.run(ablate, env=environment, check=True, capture_output=True)
    wall = time.monotonic() - start
    own = own_seconds(shards, args.own)
    cores = len(os.sched_getaffinity(0))
    trainings = args.variants * SEEDS
    return {
        "benchmark": "small_study",
        "trainings": trainings,
        "rows": ROWS,
        "cores": cores,
        "wall_seconds": round(wall, 1),
        "training_seconds": round(own, 2),
        "wall_over_own": round(wall / (own * trainings / cores), 3),
        "target": 1.3,
    }


def definition(variants: int) -> str:
    """Returns a study whose variants cost the same."""
    lines = ['title = "Small trainings"', 'question = "What does a study cost?"']
    lines.append('reference = "lr 1"')
    for k in range(1, variants + 1):
        lines += ["", "[[variants]]", f'name = "lr {k}"', f"set = {{ optim.lr = {1e-4 * k:.4f} }}"]
    return "\n".join(lines) + "\n"


def own_seconds(shards: str, trainings: int) -> float:
    """Returns the median seconds of a training, scored on test too, after one to warm up."""
    torch.set_num_threads(1)
    seconds = []
    for seed in range(trainings + 1):
        settings = {"data.max_rows": ROWS, "optim.seed": seed}
        start = time.monotonic()
        run_training(RunSpec(shards=shards, settings=settings, test=True))
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
