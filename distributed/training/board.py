"""TensorBoard of one run: scalars, recall a class, confusion matrix, histograms, and a layout to compare runs by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pyarrow.fs import FileSelector
from torch import Tensor

from distributed.config import Config, flatten
from distributed.reporting.events import EventWriter, scalar_tag, wait_until_newest
from distributed.runtime.storage import filesystem, uploader
from distributed.training.results import RunMetrics
from distributed.training.scoring import Scores
from model.metrics.metrics import shot_groups
from model.network import Network

MAX_NAMED_CLASSES = 64  # classes that a confusion matrix can name legibly
MAX_PIXELS = 1000  # a side of it; with more classes than that, neighbouring ones share a pixel
SHOTS = ("many", "medium", "few")
SUMMARY = (
    "balanced_accuracy",
    "macro_f1",
    "worst_recall",
    "many_shot_accuracy",
    "medium_shot_accuracy",
    "few_shot_accuracy",
    "nll",
    "ece",
)


class RunBoard:
    """Writes the events of one run into its folder, or to its URI at every epoch."""

    def __init__(self, out: str, network: Network, first: int) -> None:
        """Opens the event file and writes the page of charts.

        first: the epoch that the run continues with. TensorBoard forgets this epoch and later ones
            of an earlier start.
        """
        self.schema = network.schema
        self.groups_C = shot_groups(network.counts_C.cpu())
        wait_until_newest(_file_names(out))
        self.events = EventWriter(out, upload=uploader(out), first_step=first)
        self.events.charts(chart_layout(self.schema.modalities))

    def epoch(self, metrics: dict[str, float], scores: Scores) -> None:
        """Writes the metrics, histograms and confusion matrix of an epoch."""
        step = int(metrics["epoch"])
        for name, value in metrics.items():
            if name not in ("epoch", "best_epoch"):
                self.events.scalar(scalar_tag(name), value, step)
        self.histograms(scores, step)
        image_HWC = confusion_image(
            scores.probabilities_NC.argmax(1), scores.labels_N, self.schema.classes
        )
        self.events.image("val_confusion", image_HWC, step)
        self.events.flush()

    def histograms(self, scores: Scores, step: int) -> None:
        """Writes fusion weights and confidences of every modality by the true class's shot group."""
        labelled_N = scores.labels_N >= 0
        group_N = self.groups_C[scores.labels_N.clamp_min(0)]
        for m, modality in enumerate(self.schema.modalities):
            for g, shot in enumerate(SHOTS):
                rows_N = labelled_N & (group_N == g) & scores.present_NM[:, m]
                if rows_N.any():
                    for tag, values_NM in (
                        (f"weight_{shot}/{modality}", scores.weights_NM),
                        (f"confidence_{shot}/{modality}", scores.confidence_NM),
                    ):
                        self.events.histogram(tag, values_NM[rows_N, m].numpy(), step)

    def close(self, config: Config, metrics: RunMetrics) -> None:
        """Writes the final metrics and the settings, and closes the event file."""
        # One step after the last epoch, so that a finished run that is resumed forgets them.
        end = metrics.epochs + 1
        for split, values in metrics.splits.items():
            for name in SUMMARY:
                if name in values:
                    self.events.scalar(f"final/{split}/{name}", values[name], end)
        self.events.text("settings", settings_table(flatten(config)), end)
        self.events.close()


def _file_names(folder: str) -> list[str]:
    """Returns the names of the files in a folder or at a URI, none if it does not exist."""
    files, path = filesystem(folder)
    return [
        file.base_name for file in files.get_file_info(FileSelector(path, allow_not_found=True))
    ]


def chart_layout(modalities: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """Returns the page of charts that TensorBoard opens with: several curves in each chart.

    Each chart holds patterns, which TensorBoard matches from a tag's start.
    """

    def tags(*names: str) -> list[str]:
        return [f"{re.escape(name)}$" for name in names]

    return {
        "long tail": {
            "accuracy by shot group": tags(*(f"val/{shot}_shot_accuracy" for shot in SHOTS)),
            "balanced": tags("val/balanced_accuracy", "val/macro_f1", "val/worst_recall"),
        },
        "fusion": {
            "weights": tags(*(f"weight/{m}" for m in modalities)),
            "confidences": tags(*(f"confidence/{m}" for m in modalities)),
        },
        "training": {"loss terms": ["loss/.+$"]},
    }


def confusion_image(predictions_N: Tensor, labels_N: Tensor, names: Sequence[str]) -> np.ndarray:
    """[H, W, 3] rows are true classes, columns predicted ones, darkness the share of the row; the diagonal is outlined where there is room.

    Rows carry a number and a name, columns the number, while there are few enough to read. Where there are more classes than pixels, one
    stands for several neighbours (a block, B): darkness is then the mean share of its rows that went to any of its columns.
    """
    known_N, classes = labels_N >= 0, len(names)
    labels_N, predictions_N = labels_N[known_N], predictions_N[known_N]
    step = -(-classes // MAX_PIXELS)
    blocks = -(-classes // step)
    rows_C = torch.bincount(labels_N, minlength=classes)
    seen_B = torch.bincount(torch.arange(classes) // step, weights=(rows_C > 0).float())
    places_N = labels_N // step * blocks + predictions_N // step
    share_BB = (
        torch.bincount(places_N, weights=1 / rows_C[labels_N], minlength=blocks**2)
        .float()
        .reshape(blocks, blocks)
    )
    shade_BB1 = (share_BB / seen_B.float().clamp_min(1)[:, None]).numpy()[..., None]
    light, dark = np.array([250, 250, 252], np.float32), np.array([20, 60, 140], np.float32)
    legible = classes <= MAX_NAMED_CLASSES
    cell = max(14, 320 // classes) if legible else max(1, min(4, MAX_PIXELS // classes))
    image = (light + shade_BB1 * (dark - light)).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    for c in range(blocks if cell > 3 else 0):
        low, high = c * cell, (c + 1) * cell - 1
        image[low, low : high + 1] = image[high, low : high + 1] = image[
            low : high + 1, low
        ] = image[low : high + 1, high] = (200, 80, 40)
    return add_class_names(image, cell, names) if legible else image


def add_class_names(image_HWC: np.ndarray, cell: int, names: Sequence[str]) -> np.ndarray:
    """The image with the classes' names to its left and their numbers above it."""
    font = ImageFont.load_default()
    rows = [f"{c} {name[:18]}" for c, name in enumerate(names)]
    left, top = int(max(font.getlength(row) for row in rows)) + 8, 14
    page = Image.new("RGB", (image_HWC.shape[1] + left, image_HWC.shape[0] + top), "white")
    page.paste(Image.fromarray(image_HWC), (left, top))
    draw = ImageDraw.Draw(page)
    for c, row in enumerate(rows):
        middle = int((c + 0.5) * cell)
        draw.text((left - 4, top + middle), row, fill="black", font=font, anchor="rm")
        draw.text((left + middle, top - 2), str(c), fill="black", font=font, anchor="mb")
    return np.asarray(page)


def settings_table(flat: dict[str, Any]) -> str:
    """Every setting as a Markdown table."""
    return "\n".join(
        [
            "| setting | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in flat.items()),
        ]
    )
