"""What the page and the model card of a run cost: seconds of the processor, and bytes.

Trains once, then describes the run several times. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.config import parse_assignments
from distributed.shards.manifest import read_manifest
from distributed.training.exchange import Exchange
from distributed.training.pages.run_page import FinishedRun, write_run_page
from distributed.training.run import open_split, run_training
from distributed.training.spec import RunSpec
from distributed.wafers.default import resolve_shards


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--data", default="", metavar="SHARDS", help="empty: the built-in wafers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the run"
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    shards = resolve_shards(args.data)
    spec = RunSpec(shards=shards, settings=parse_assignments(args.set), out=f"{folder}/run")
    started = time.process_time()
    result = run_training(spec)
    training = time.process_time() - started
    sources = {split: open_split(spec, split, Exchange(), None) for split in ("train", "val")}
    run = FinishedRun(spec, read_manifest(shards), result, sources)
    torch.set_num_threads(1)
    seconds = []
    for _ in range(args.repeats):
        started = time.process_time()
        write_run_page(run)
        seconds.append(round(time.process_time() - started, 2))
    written = {
        name: (Path(folder) / "run" / name).stat().st_size
        for name in ("report.html", "MODEL_CARD.md")
    }
    epochs = len(json.loads((Path(folder) / "run" / "history.json").read_text()))
    return {
        "benchmark": "page",
        "data": args.data or "wafers",
        "training rows": sources["train"].rows,
        "epochs": epochs,
        "processor seconds of the training": round(training, 1),
        "of the page": seconds,
        "bytes": written,
    }


if __name__ == "__main__":
    main()
