"""How a network meets changes of images that its training has left out, one kind at a time.

For every kind of data.spoil and data.degrade that applies to the first image of the data, a network
is trained without it (data.spoil_without) and one with all kinds. Both classify a split in which
the image of every record is changed in that way only. An image that says little should leave the
answer of the other modalities, which is that of the network with all kinds where no record has
the image. Prints one JSON line: balanced accuracy in percent and class-balanced log-loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed import FitOptions, fit, load
from distributed.config import split_list
from distributed.shards.batches import BatchSource, open_batches
from distributed.training.checkpoint import Checkpoint
from distributed.training.finish import calibrated_metrics
from distributed.training.scoring import Evaluator
from model.batch import Batch
from model.learning.augment import derive_seed, uniform_draws
from model.learning.degrade import degrading_kinds
from model.learning.image_kinds import DRAWS, SPOILING, Change, change_some
from model.network import Network


@dataclass(frozen=True)
class ChangedImages:
    """The rows of a source, each with its first image changed; without it where change is None."""

    source: BatchSource
    image: str
    kind: str
    change: Change | None

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(self.source.batches(epoch, start), start):
            if self.change is None:  # images come first
                hidden_BM = torch.zeros_like(batch.present_BM)
                hidden_BM[:, 0] = True
                yield batch.replace(dropped_BM=hidden_BM & (batch.present_BM.sum(1) > 1)[:, None])
                continue
            u_BU = uniform_draws(batch, DRAWS, derive_seed(0, step, 50), torch.device("cpu"))
            every_B = torch.ones(len(batch), dtype=torch.bool)
            changed = change_some(batch.images[self.image], u_BU, every_B, {self.kind: self.change})
            yield batch.replace(images={**batch.images, self.image: changed})


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--data", required=True, help="SHARDS with an image and another modality")
    parser.add_argument("--split", default="val")
    parser.add_argument("--kinds", default="", help="comma-separated; empty is all that apply")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the runs"
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    with_all = train(args, f"{folder}/all", left_out="")
    network = with_all.network
    assert isinstance(network, Network)
    image = network.schema.images[0]
    kinds = dict(SPOILING)
    if image.name in network.pretrained_images:
        kinds |= degrading_kinds(image, with_all.config.data.flip, ())
    results: dict[str, object] = {"benchmark": "left_out_kinds", "data": args.data}
    results["nothing changed"] = score(args, with_all, image.name, "", lambda x, _: x)
    results["without the image"] = score(args, with_all, image.name, "", None)
    for kind in split_list(args.kinds) or list(kinds):
        without = train(args, f"{folder}/{kind}", left_out=kind)
        results[kind] = {
            "in training": score(args, with_all, image.name, kind, kinds[kind]),
            "left out": score(args, without, image.name, kind, kinds[kind]),
        }
    return results


def train(args: argparse.Namespace, out: str, left_out: str) -> Checkpoint:
    """Returns a network that was trained without a kind of changes."""
    settings = (*args.set, f"data.spoil_without={left_out}")
    fit(FitOptions(data=args.data, out=out, set=settings, no_page=True))
    return load(out).checkpoint


def score(
    args: argparse.Namespace, trained: Checkpoint, image: str, kind: str, change: Change | None
) -> Sequence[float]:
    """Returns balanced accuracy and class-balanced log-loss of the changed rows."""
    source = open_batches(args.data, args.split, trained.config, train=False)
    rows = ChangedImages(source, image, kind, change)
    network = trained.network.eval()
    scores = Evaluator(torch.device("cpu")).score(network, rows)
    metrics = calibrated_metrics(scores, network, trained.config, trained.calibration)
    return round(100 * metrics["balanced_accuracy"], 1), round(metrics["balanced_nll"], 3)


if __name__ == "__main__":
    main()
