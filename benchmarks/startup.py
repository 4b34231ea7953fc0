"""Start-up: --help of every command, first training step, load() and prediction, a small ingest.

Each in a fresh process on a warm page cache, several times in turn; the medians of wall-clock and
processor seconds (of the process and its children). Prints one JSON line.

  help: the slowest command
  first_step: train.py on ready shards with one worker, to the end of the first optimiser step
  first_prediction: `from distributed import load`, load a run, predict one record
  ingest: a CSV of 600 numeric columns and 350 rows
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("ingest", "train", "tune", "ablate", "evaluate", "predict", "serve", "export")
TARGETS = {"help": 0.3, "first_step": 3.0, "first_prediction": 1.5, "ingest": 6.0}

FIRST_STEP = """
import os, sys
from distributed.training import loop
step = loop.train_step
def first_step(run, group):
    float(sum(step(run, group).values()))
    os._exit(0)
loop.train_step = first_step
from distributed import FitOptions, fit
fit(FitOptions(data=sys.argv[1], out=sys.argv[2]))
"""

FIRST_PREDICTION = """
import os, sys
from distributed import load
model = load(sys.argv[1])
columns = model.schema[model.schema["kind"].isin(["number", "category"])]["column"]
record = dict.fromkeys(columns)
print(model.predict(record)["prediction"][0])
sys.stdout.flush()
os._exit(0)
"""


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=350, help="of the ingested table")
    parser.add_argument("--columns", type=int, default=600, help="of the ingested table")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    shards, run = f"{folder}/shards", f"{folder}/run"
    fixed = ["--set", "optim.epochs=1", "--no-page"]
    seconds_of(["-m", "distributed.wafers", "--shards", shards, "--rows", "600"])
    seconds_of(["distributed/train.py", "--data", shards, "--out", run, *fixed])
    table = f"{folder}/table.csv"
    write_wide_table(table, args.rows, args.columns)
    ingest = ["distributed/ingest.py", "--table", table, "--label", "y", "--out"]
    works: dict[str, Callable[[], tuple[float, float]]] = {
        f"help {name}": partial(seconds_of, [f"distributed/{name}.py", "--help"])
        for name in COMMANDS
    }
    seconds: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for repeat in range(args.repeats + 1):
        works["first_step"] = partial(seconds_of, ["-c", FIRST_STEP, shards, f"{folder}/s{repeat}"])
        works["first_prediction"] = partial(seconds_of, ["-c", FIRST_PREDICTION, run])
        works["ingest"] = partial(seconds_of, [*ingest, f"{folder}/wide{repeat}"])
        for name, work in works.items():
            measured = work()
            if repeat:  # the first fills the page cache
                seconds[name].append(measured)
    wall = {name: statistics.median(w for w, _ in pairs) for name, pairs in seconds.items()}
    cpu = {name: statistics.median(c for _, c in pairs) for name, pairs in seconds.items()}
    slowest = max((name for name in works if name.startswith("help")), key=lambda n: wall[n])
    result: dict[str, object] = {"benchmark": "startup", "slowest_help": slowest}
    for name, target in TARGETS.items():
        key = slowest if name == "help" else name
        result[name] = {
            "seconds": round(wall[key], 3),
            "cpu_seconds": round(cpu[key], 3),
            "target": target,
        }
    return result


def write_wide_table(path: str, rows: int, columns: int, digits: int = 4) -> None:
    """Writes a CSV of numbers, with so many digits, and a label of seven classes."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, columns)).round(digits)
    labels = np.minimum(rng.geometric(0.4, rows), 7)
    lines = [",".join([*(f"c{i}" for i in range(columns)), "y"])]
    lines += [",".join([*map(str, row), f"k{label}"]) for row, label in zip(values, labels)]
    Path(path).write_text("\n".join(lines) + "\n")


def seconds_of(arguments: Sequence[str]) -> tuple[float, float]:
    """Returns the wall-clock and processor seconds of a Python process with these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


if __name__ == "__main__":
    main()
