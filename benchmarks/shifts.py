"""What changed images do to a trained network that trusts them, and to one that checks them.

On validation rows, for every change: balanced accuracy where every image is trusted, balanced
accuracy where those unlike training count as absent (`fusion.reject_unfamiliar`), and the share of
such images. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.inference.weighing import compute_outputs
from distributed.shards.batches import BatchSource, open_batches
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.scoring import Scores
from model.batch import Batch
from model.network import Network

Change = Callable[[Tensor], Tensor]  # pixels from 0 to 255 [B, C, H, W] -> pixels


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run with an image modality")
    parser.add_argument("--data", required=True, help="its shards")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    checkpoint = load_checkpoint(args.checkpoint)
    assert isinstance(checkpoint.network, Network), "the run is an ensemble"
    schema, gate = checkpoint.network.schema, checkpoint.network.novelty_gate
    assert gate is not None, "the run has no novelty gate"
    image = schema.images[0].name
    column, limit_M = schema.modalities.index(image), gate.limit_M.clone()
    source = open_batches(args.data, "val", checkpoint.config, train=False)
    result: dict[str, object] = {
        "benchmark": "shifts",
        "rows": source.rows,
        "columns": ["trusted", "familiar", "unlike %"],
    }
    for name, change in changes().items():
        accuracies = []
        for limit in (torch.zeros_like(limit_M), limit_M):  # a limit of 0 trusts every image
            gate.limit_M.copy_(limit)
            torch.manual_seed(0)
            changed = ChangedImages(source, image, change)
            scores = compute_outputs(checkpoint, changed, torch.device("cpu"))
            accuracies.append(balanced_accuracy(checkpoint, scores))
        unfamiliar = float(scores.unfamiliar_NM[:, column].float().mean())
        result[name] = [*accuracies, round(100 * unfamiliar)]
    return result


def balanced_accuracy(checkpoint: Checkpoint, scores: Scores) -> float:
    """Returns the balanced accuracy of the calibrated experts' mean, in percent."""
    predicted_N = checkpoint.calibration.scale(scores.logits_NEC).mean(1).argmax(1)
    correct_N = (predicted_N == scores.labels_N).float()
    classes = torch.unique(scores.labels_N)
    recalls = [correct_N[scores.labels_N == c].mean() for c in classes]
    return round(100 * float(torch.stack(recalls).mean()), 1)


class ChangedImages:
    """The batches of a source with the images of one modality changed."""

    def __init__(self, source: BatchSource, image: str, change: Change) -> None:
        self.source, self.image, self.change = source, image, change

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in self.source.batches(epoch, start):
            pixels = batch.images[self.image]
            changed = self.change(pixels.float()).clamp(0, 255).to(pixels.dtype)
            yield batch.replace(images={**batch.images, self.image: changed})


def changes() -> dict[str, Change]:
    """Returns the changes by the name that the results give them."""

    def grain(deviation: float) -> Change:
        return lambda x: x + deviation * torch.randn(x.shape)

    def black_from(share: float) -> Change:
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
        "blurred 7x7": lambda x: avg_pool2d(x, 7, 1, 3),
        "contrast 0.6": lambda x: 128 + 0.6 * (x - 128),
        "contrast 1.5": lambda x: 128 + 1.5 * (x - 128),
        "gamma 1.5": lambda x: 255 * (x / 255) ** 1.5,
        "30 brighter": lambda x: x + 30,
        "30 darker": lambda x: x - 30,
        "pixelated": lambda x: interpolate(adaptive_avg_pool2d(x, 12), x.shape[2:]),
        "JPEG quality 5": compressed,
        "every third line black or white": with_lines,
        "red and blue exchanged": lambda x: x.flip(1),
        "fog": lambda x: 0.4 * x + 0.6 * 230,
        "turned by 90 degrees, padded": turned,
    }


def compressed(x_BCHW: Tensor) -> Tensor:
    """Returns the images as JPEG of quality 5 leaves them."""
    return torch.stack([torch.from_numpy(_jpeg(x.permute(1, 2, 0).byte())) for x in x_BCHW])


def _jpeg(x_HWC: Tensor) -> NDArray[np.uint8]:
    """Returns one image after compression, [C, H, W]."""
    file = io.BytesIO()
    Image.fromarray(x_HWC.squeeze(-1).numpy()).save(file, "JPEG", quality=5)
    decoded = np.atleast_3d(np.asarray(Image.open(file)))
    return np.ascontiguousarray(decoded.transpose(2, 0, 1))


def with_lines(x_BCHW: Tensor) -> Tensor:
    """Returns the images with every third row of pixels black or, by turns, white."""
    changed_BCHW = x_BCHW.clone()
    changed_BCHW[:, :, ::6] = 0
    changed_BCHW[:, :, 3::6] = 255
    return changed_BCHW


def turned(x_BCHW: Tensor) -> Tensor:
    """Returns the images on their side, made smaller to fit the frame, with black beside them."""
    height, width = x_BCHW.shape[2:]
    on_side = x_BCHW.rot90(1, (2, 3))
    share = min(height / width, width / height)
    inner = (round(width * share), round(height * share))
    inner = (min(inner[0], height), min(inner[1], width))
    small = interpolate(on_side, inner, mode="bilinear")
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    changed_BCHW = torch.zeros_like(x_BCHW)
    changed_BCHW[:, :, top : top + inner[0], left : left + inner[1]] = small
    return changed_BCHW


if __name__ == "__main__":
    main()
