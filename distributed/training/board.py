"""TensorBoard of one run: scalars, recall a class, confusion matrix, histograms, and a layout to compare runs by."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distributed.runtime.storage import filesystem, is_uri
from distributed.training.scoring import Scores
from model.metrics.metrics import shot_groups
from model.network import Network

if TYPE_CHECKING:
    from distributed.config import Config

MAX_NAMED_CLASSES = 64  # classes that a confusion matrix can name legibly
MAX_PIXELS = 1000  # a side of it; with more classes than that, neighbouring ones share a pixel
MAX_CLOCK_LEAD = 10.0  # seconds to wait for event files that seem to come from later
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
    """Event files in the run's folder; for a URI they are written here first and copied at every epoch."""

    def __init__(self, out: str, network: Network, first: int) -> None:
        """first: the epoch that the run goes on with; TensorBoard forgets this and later ones of before."""
        from torch.utils.tensorboard import SummaryWriter

        self.out, self.schema = out, network.schema
        self.groups_C = shot_groups(network.counts_C.cpu())
        self.copied = tempfile.TemporaryDirectory(prefix="board-") if is_uri(out) else None
        self.folder = self.copied.name if self.copied else out
        _await_turn(out)
        self.writer = SummaryWriter(self.folder, purge_step=first)  # type: ignore[no-untyped-call]
        self.writer.add_custom_scalars(chart_layout(self.schema.modalities))  # type: ignore[no-untyped-call]

    def epoch(self, metrics: dict[str, float], scores: Scores) -> None:
        step = int(metrics["epoch"])
        for name, value in metrics.items():
            if name not in ("epoch", "best_epoch"):
                self.writer.add_scalar(scalar_tag(name), value, step)  # type: ignore[no-untyped-call]
        self.histograms(scores, step)
        image_HWC = confusion_image(
            scores.probabilities_NC.argmax(1), scores.labels_N, self.schema.classes
        )
        self.writer.add_image("val_confusion", image_HWC, step, dataformats="HWC")  # type: ignore[no-untyped-call]
        self.flush()

    def histograms(self, scores: Scores, step: int) -> None:
        """Fusion weights and confidences of every modality, split by the shot group of the true class."""
        known_N = scores.labels_N >= 0
        group_N = self.groups_C[scores.labels_N.clamp_min(0)]
        for m, modality in enumerate(self.schema.modalities):
            for g, shot in enumerate(SHOTS):
                rows_N = known_N & (group_N == g) & scores.present_NM[:, m]
                if rows_N.any():
                    self.writer.add_histogram(
                        f"weight_{shot}/{modality}", scores.weights_NM[rows_N, m], step
                    )  # type: ignore[no-untyped-call]
                    self.writer.add_histogram(
                        f"confidence_{shot}/{modality}", scores.confidence_NM[rows_N, m], step
                    )  # type: ignore[no-untyped-call]

    def close(self, config: Config, metrics: dict[str, Any]) -> None:
        from distributed.config import flatten

        final = {
            f"final/{split}/{name}": metrics[split][name]
            for split in ("val", "test")
            if split in metrics
            for name in SUMMARY
            if name in metrics[split]
        }
        end = (
            metrics["epochs"] + 1
        )  # behind the last epoch, so that a finished run that is resumed forgets them
        for name, value in final.items():
            self.writer.add_scalar(name, value, end)  # type: ignore[no-untyped-call]
        self.writer.add_text("settings", settings_table(flatten(config)), end)  # type: ignore[no-untyped-call]
        self.writer.close()  # type: ignore[no-untyped-call]
        self.flush()
        if self.copied:
            self.copied.cleanup()

    def flush(self) -> None:
        self.writer.flush()  # type: ignore[no-untyped-call]
        if not is_uri(self.out):
            return
        files, path = filesystem(self.out)
        for event in Path(self.folder).glob("events.*"):
            with files.open_output_stream(f"{path}/{event.name}") as stream:
                stream.write(event.read_bytes())


def _await_turn(out: str) -> None:
    """TensorBoard reads a run's event files by name: the second they were made in, then the process. A run that is resumed within the
    second in which it began, or on a machine whose clock is a little behind, waits for the next one: else its curves would be read before
    those that they go on from."""
    from pyarrow.fs import FileSelector

    files, path = filesystem(out)
    found = files.get_file_info(FileSelector(path, allow_not_found=True))
    made = [
        int(stamp[1])
        for file in found
        if (stamp := re.match(r"events\.out\.tfevents\.(\d+)\.", file.base_name))
    ]
    ahead = max(made, default=0) + 1 - time.time()
    if 0 < ahead <= MAX_CLOCK_LEAD:
        time.sleep(ahead)


def scalar_tag(name: str) -> str:
    """Groups that compare well on one screen: val/..., recall/CLASS, loss/..., weight/MODALITY, speed/..."""
    for start, group in (
        ("val/recall/", "val_recall/"),
        ("val/precision/", "val_precision/"),
        ("val/weight/", "weight/"),
        ("val/confidence/", "confidence/"),
    ):
        if name.startswith(start):
            return group + name.removeprefix(start)
    return {
        "lr": "speed/learning_rate",
        "rows_per_second": "speed/rows_per_second",
        "loss": "loss/total",
    }.get(name, name)


def chart_layout(modalities: tuple[str, ...]) -> dict[str, Any]:
    """The custom-scalars page: what one looks at first, several lines a chart. It takes patterns, which match from a tag's start."""

    def lines(*tags: str) -> list[Any]:
        return ["Multiline", [f"{re.escape(name)}$" for name in tags]]

    return {
        "long tail": {
            "accuracy by shot group": lines(*(f"val/{shot}_shot_accuracy" for shot in SHOTS)),
            "balanced": lines("val/balanced_accuracy", "val/macro_f1", "val/worst_recall"),
        },
        "fusion": {
            "weights": lines(*(f"weight/{m}" for m in modalities)),
            "confidences": lines(*(f"confidence/{m}" for m in modalities)),
        },
        "training": {"loss terms": ["Multiline", ["loss/.+$"]]},
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
    light, dark = np.float32([250, 250, 252]), np.float32([20, 60, 140])
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
    from PIL import Image, ImageDraw, ImageFont

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
