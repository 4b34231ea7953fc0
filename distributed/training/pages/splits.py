"""A scored split as the page of a run shows it: decisions, metrics, intervals.

Legend: N rows, C classes, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.shards.batches import BatchSource
from distributed.training.scoring import Scores, compute_run_metrics
from model.classifier import Classifier
from model.metrics import metrics
from model.metrics.scoring import SHOTS, shot_groups

# Metrics with a bootstrap interval on a page, beside the recall of every class.
WITH_INTERVALS = (
    "balanced_accuracy",
    "accuracy",
    "macro_f1",
    *(f"{shot}_shot_accuracy" for shot in SHOTS),
    "worst_recall",
)
TITLES = {"train": "training", "val": "validation", "test": "test"}
REPLICATES = 200  # of the bootstrap


@dataclass(frozen=True)
class Decider:
    """How a page turns raw expert logits into answers.

    probabilities: from logits [N, E, C] to calibrated probabilities [N, C]. decide: from these to
    classes [N].
    """

    probabilities: Callable[[Tensor], Tensor]
    decide: Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PageSplit:
    """A split, what the model says of its rows, and how good that is.

    source: its rows, None where only its numbers are shown. shards: the folder of the rows.
    """

    name: str
    shards: str
    source: BatchSource | None
    scores: Scores
    probabilities_NC: Tensor
    decisions_N: Tensor
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def title(self) -> str:
        """The name of the split in full."""
        return TITLES[self.name]

    @property
    def labelled_N(self) -> Tensor:
        """Whether a row has a label."""
        return self.scores.labels_N >= 0

    def confusion(self, classes: int) -> Tensor:
        """Returns the rows of every true class by decided class, [C, C]."""
        labelled_N = self.labelled_N
        cells_N = self.scores.labels_N[labelled_N] * classes + self.decisions_N[labelled_N]
        return torch.bincount(cells_N, minlength=classes**2).view(classes, classes)


def page_split(
    name: str,
    shards: str,
    source: BatchSource | None,
    scores: Scores,
    network: Classifier,
    decider: Decider,
    known: Mapping[str, float] | None = None,
) -> PageSplit:
    """Returns a split with its decisions, metrics and intervals.

    known: metrics of the split beside those that are computed here.
    """
    probabilities_NC = decider.probabilities(scores.logits_NEC)
    decisions_N = decider.decide(probabilities_NC)
    classes = network.schema.classes
    intervals = {}
    if bool((scores.labels_N >= 0).any()):
        intervals = metrics.bootstrap_intervals(
            probabilities_NC,
            scores.labels_N,
            network.counts_C.cpu(),
            [*WITH_INTERVALS, *(f"recall/{label}" for label in classes)],
            REPLICATES,
            classes=classes,
            predictions_N=decisions_N,
        )
    return PageSplit(
        name=name,
        shards=shards,
        source=source,
        scores=scores,
        probabilities_NC=probabilities_NC,
        decisions_N=decisions_N,
        metrics={
            **(known or {}),
            **compute_run_metrics(scores, network, probabilities_NC, decisions_N),
        },
        intervals=intervals,
    )


def shot_names(network: Classifier) -> list[str]:
    """Returns the group of each class: many, medium or few."""
    return [SHOTS[group] for group in shot_groups(network.counts_C.cpu()).tolist()]
