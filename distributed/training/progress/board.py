"""TensorBoard events of one run: metrics, histograms, confusion matrix, settings.

Legend: N rows, M modalities, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyarrow.fs import FileSelector

from distributed.config import Config, flatten
from distributed.reporting.events import EventWriter, scalar_tag, wait_until_newest
from distributed.runtime.storage import filesystem, uploader
from distributed.training.progress.confusion import confusion_image
from distributed.training.results import RunMetrics
from distributed.training.scoring import Scores
from model.metrics.names import HEADLINE_METRICS
from model.metrics.scoring import shot_groups
from model.network import Network

SHOTS = ("many", "medium", "few")
FINAL_METRICS = (*HEADLINE_METRICS, "nll")


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
        """Writes each modality's fusion weights and confidences by shot group of the true class."""
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
            for name in FINAL_METRICS:
                if name in values:
                    self.events.scalar(f"final/{split}/{name}", values[name], end)
        self.events.text("settings", settings_markdown(flatten(config)), end)
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


def settings_markdown(settings: Mapping[str, object]) -> str:
    """Every setting as a Markdown table."""
    rows = [f"| {name} | {value} |" for name, value in settings.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])
