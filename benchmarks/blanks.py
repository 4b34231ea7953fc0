"""Records without an image: batch statistics of the image encoder with and without blanks.

Some of the training rows lose their image, the validation rows keep theirs. A score is the balanced
accuracy on validation, the mean of the second half of the epochs: no lucky epoch is picked, and the
test split is not read. Pairs of trainings of the same seed. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.config import parse_assignments
from distributed.reporting.significance import paired_comparison
from distributed.shards.manifest import read_manifest
from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.run import open_run, open_split
from distributed.training.spec import RunSpec
from distributed.wafers.default import resolve_shards
from model.encoders.image import ImageEncoder


def main() -> None:
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


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    shards, settings = resolve_shards(args.data), parse_assignments(args.set)
    result: dict[str, object] = {"benchmark": "blanks", "seeds": args.seeds}
    for share in args.missing:
        scores: dict[bool, dict[object, float]] = {True: {}, False: {}}
        for with_blanks, of_seed in scores.items():
            for seed in range(args.seeds):
                changed = {**settings, "optim.seed": seed}
                of_seed[seed] = train(shards, changed, share, with_blanks=with_blanks)
        gain = paired_comparison(scores[False], scores[True])
        interval = (gain.difference, gain.low, gain.high)
        result[f"missing {share:g}"] = {
            "with blanks": round(float(np.mean(list(scores[True].values()))), 2),
            "without blanks": round(float(np.mean(list(scores[False].values()))), 2),
            "gain": [None if value is None else round(value, 2) for value in interval],
            "p": gain.t_p,
        }
    return result


def train(shards: str, settings: Mapping[str, object], share: float, *, with_blanks: bool) -> float:
    """Returns a training's balanced accuracy on validation, in percent.

    share: of the training rows, which lose their image. with_blanks: their blank images count in
    the batch statistics.
    """
    exchange = Exchange()
    images = [image.name for image in read_manifest(shards).schema.images]
    lossy = ",".join(f"{name}=missing:{share}" for name in images)
    job = RunSpec(shards=shards, settings={**settings, "data.corrupt": lossy})
    opened = open_run(job, exchange, None)
    scores: list[float] = []

    def report(metrics: Mapping[str, float], *_: object) -> None:
        scores.append(100 * metrics["val/balanced_accuracy"])

    with encode_blanks() if with_blanks else skip_blanks():
        whole = RunSpec(shards=shards, settings=dict(settings))
        val = open_split(whole, "val", exchange, None)
        loop.train_network(opened.network, opened.train, val, job.config, report)
    return float(np.mean(scores[len(scores) // 2 :]))


@contextmanager
def encode_blanks() -> Iterator[None]:
    """Has the encoder read every image, missing ones too."""
    before = ImageEncoder.encode_present

    def all_images(self: ImageEncoder, x_BCHW: Tensor, rows_R: Tensor) -> Tensor:
        features_BD: Tensor = self.body(x_BCHW)
        return features_BD

    # The benchmark's own variant.
    ImageEncoder.encode_present = all_images  # type: ignore[method-assign]
    try:
        yield
    finally:
        ImageEncoder.encode_present = before  # type: ignore[method-assign]


@contextmanager
def skip_blanks() -> Iterator[None]:
    """Leaves the encoder as it is: it reads the images that are present."""
    yield


if __name__ == "__main__":
    main()
