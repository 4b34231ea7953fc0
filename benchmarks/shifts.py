"""What changed pictures do to a trained network, going by them and not (`fusion.reject_unfamiliar`): on validation rows. Prints one JSON line.

For every change: balanced accuracy where every picture is trusted, where those unlike training count as absent, and the share that do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run with an image modality")
    parser.add_argument("--data", required=True, help="its shards")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import torch

    from distributed.inference import weighing
    from distributed.shards.batches import open_batches
    from distributed.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(args.checkpoint)
    network, image = checkpoint.network, checkpoint.network.schema.images[0].name
    place, limit_M = network.schema.modalities.index(image), network.novelty_gate.limit_M.clone()
    source = open_batches(args.data, "val", checkpoint.config, train=False)
    told: dict[str, Any] = {}
    for name, change in changes().items():
        row = []
        for limit in (torch.zeros_like(limit_M), limit_M):
            network.novelty_gate.limit_M.copy_(limit)
            torch.manual_seed(0)
            scores = weighing.score_rows(
                checkpoint, Changed(source, image, change), torch.device("cpu")
            )
            right_N = (
                checkpoint.calibration.scale(scores.logits_NEC).mean(1).argmax(1) == scores.labels_N
            )
            recalls = [
                right_N[scores.labels_N == c].float().mean() for c in scores.labels_N.unique()
            ]
            row.append(round(100 * float(torch.stack(recalls).mean()), 1))
        unlike_N = scores.unfamiliar_NM[:, place]
        told[name] = [*row, round(100 * float(unlike_N.float().mean()))]
    return {
        "benchmark": "shifts",
        "rows": len(right_N),
        "columns": ["trusted", "familiar", "unlike %"],
        **told,
    }


class Changed:
    """The batches of a source with one image modality changed."""

    def __init__(self, source: Any, image: str, change: Callable[[Any], Any]) -> None:
        self.source, self.image, self.change = source, image, change

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for batch in self.source.batches(epoch, start):
            pixels = batch.images[self.image]
            changed = self.change(pixels.float()).clamp(0, 255).to(pixels.dtype)
            yield batch.replace(images={**batch.images, self.image: changed})


def changes() -> dict[str, Callable[[Any], Any]]:
    """Pixels from 0 to 255 [B, C, H, W] -> pixels."""
    import torch

    def grain(deviation: float) -> Callable[[Any], Any]:
        return lambda x: x + deviation * torch.randn(x.shape)

    def black_from(share: float) -> Callable[[Any], Any]:
        return lambda x: x * (torch.arange(x.shape[-1]) < share * x.shape[-1])

    return {
        "as in training": lambda x: x,
        "noise": lambda x: 128 + 60 * torch.randn(x.shape),
        "negative": lambda x: 255 - x,
        "right half black": black_from(0.5),
        "right quarter black": black_from(0.75),
        "grain 20": grain(20),
        "grain 40": grain(40),
        "grain 80": grain(80),
        "blurred 7x7": lambda x: torch.nn.functional.avg_pool2d(x, 7, 1, 3),
        "contrast 0.6": lambda x: 128 + 0.6 * (x - 128),
        "contrast 1.5": lambda x: 128 + 1.5 * (x - 128),
        "gamma 1.5": lambda x: 255 * (x / 255) ** 1.5,
        "30 brighter": lambda x: x + 30,
        "30 darker": lambda x: x - 30,
    }


if __name__ == "__main__":
    main()
