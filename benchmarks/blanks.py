"""What records without an image do to the image encoder: batch statistics with their blanks in them, and without. Prints one JSON line.

Some of the training rows lose their image, the validation rows keep theirs. A score is the balanced accuracy on validation, the mean of the
second half of the epochs: no lucky epoch is picked, and the test split is not read. Pairs of trainings of the same seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument(
        "--data",
        default="",
        metavar="SHARDS",
        help="folder made by ingest.py; empty: the built-in wafers",
    )
    parser.add_argument(
        "--missing",
        nargs="+",
        type=float,
        default=[0.9, 0.5],
        metavar="SHARE",
        help="of the training rows' images",
    )
    parser.add_argument("--seeds", type=int, default=5, help="pairs of trainings a share")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the runs"
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    from distributed import config
    from distributed.reporting.significance import paired_comparison
    from distributed.wafers import generator

    shards, settings = generator.resolve_shards(args.data), config.parse_assignments(args.set)
    told: dict[str, Any] = {"benchmark": "blanks", "seeds": args.seeds}
    for share in args.missing:
        scores = {
            way: {
                s: train(shards, {**settings, "optim.seed": s}, share, way)
                for s in range(args.seeds)
            }
            for way in ("with", "without")
        }
        gain = paired_comparison(scores["without"], scores["with"])
        told[f"missing {share:g}"] = {
            **{
                f"{way} blanks": round(float(np.mean(list(found.values()))), 2)
                for way, found in scores.items()
            },
            "gain": [
                None if value is None else round(value, 2)
                for value in (gain.difference, gain.low, gain.high)
            ],
            "p": gain.t_p,
        }
    return told


def train(shards: str, settings: dict[str, Any], share: float, way: str) -> float:
    from distributed.training import exchange, loop
    from distributed.training.run import RunSpec, open_run, open_split, read_manifest
    from model.encoders.image import ImageEncoder

    alone, as_it_is = exchange.Exchange(), ImageEncoder.some
    whole = RunSpec(shards=shards, settings=settings)
    images = [image.name for image in read_manifest(shards).schema.images]
    lossy = ",".join(f"{name}=missing:{share}" for name in images)
    job = RunSpec(shards=shards, settings={**settings, "data.corrupt": lossy})
    opened, reached = open_run(job, alone, None), []
    ImageEncoder.some = (
        as_it_is if way == "without" else lambda self, x_BCHW, present_B: self.body(x_BCHW)
    )  # type: ignore[method-assign]
    try:
        val = open_split(whole, "val", alone, None)
        loop.train_network(
            opened.network,
            opened.train,
            val,
            job.config,
            lambda told, *_: reached.append(100 * told["val/balanced_accuracy"]),
        )
    finally:
        ImageEncoder.some = as_it_is  # type: ignore[method-assign]
    return float(np.mean(reached[len(reached) // 2 :]))


if __name__ == "__main__":
    main()
