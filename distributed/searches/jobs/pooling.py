"""The score of a configuration on several folds: the metrics of all held-out rows together.

Legend: V held-out rows of all folds, C classes, R replicates of a bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distributed.runtime.errors import Failure, OptionError
from distributed.searches.state.records import (
    FOLD_ERROR,
    OVER_START,
    OVER_START_ERROR,
    fold_name,
)
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from model.metrics import metrics

REPLICATES = 200  # of the bootstrap behind the errors
Metrics = dict[str, float]


@dataclass(frozen=True)
class HeldOut:
    """The answers of a configuration for rows that its networks were not trained on.

    Every row is answered by the network of the fold in which it was held out.
    """

    probabilities_VC: Tensor
    decisions_V: Tensor
    labels_V: Tensor
    counts_C: Tensor
    classes: tuple[str, ...]

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint]) -> HeldOut:
        """The rows of the folds of these checkpoints."""
        parts = []
        for checkpoint in checkpoints:
            rows = checkpoint.validation
            if rows is None:
                raise Failure("a checkpoint has no validation rows, so folds cannot be pooled")
            mixture_VC = checkpoint.calibration.scale(rows.logits_VEC).mean(1)
            probabilities_VC = mixture_VC.softmax(-1)
            decisions_V = checkpoint.calibration.decide(probabilities_VC)
            parts.append((probabilities_VC, decisions_V, rows.labels_V))
        first = checkpoints[0].network
        probabilities_VC, decisions_V, labels_V = map(torch.cat, zip(*parts, strict=True))
        return cls(
            probabilities_VC, decisions_V, labels_V, first.counts_C.cpu(), first.schema.classes
        )

    def metrics(self) -> Metrics:
        return metrics.compute_metrics(
            self.probabilities_VC, self.labels_V, self.counts_C, self.classes, self.decisions_V
        )

    def resampled(self, metric: str) -> Tensor:
        """A metric in every replicate of a bootstrap, [R]."""
        values = metrics.bootstrap_values(
            self.probabilities_VC,
            self.labels_V,
            self.counts_C,
            [metric],
            REPLICATES,
            classes=self.classes,
            predictions_N=self.decisions_V,
        )
        return values[metric]


def pool(job: Mapping[str, Any], trials: str, metric: str) -> Metrics:
    """The metrics of a configuration on the folds up to that of the job, together.

    With the standard error of the deciding metric, and its difference from the starting point's on
    the same rows, where that has these folds.

    job: the fields of records.SearchJob. trials: the folder with a folder for each run.
    """
    own = _held_out(job["of"], job["fold"], trials)
    found = own.metrics()
    if metric not in found:  # train_seconds, or undefined on these rows
        return found
    own_R = own.resampled(metric)
    found[FOLD_ERROR] = float(own_R.std())
    if not job["start"]:
        return found
    try:
        start = _held_out(job["start"], job["fold"], trials)
    except OptionError:  # it has not finished these folds
        return found
    if torch.equal(start.labels_V, own.labels_V):
        found[OVER_START] = found[metric] - start.metrics()[metric]
        found[OVER_START_ERROR] = float((own_R - start.resampled(metric)).std())
    return found


def _held_out(configuration: str, last: int, trials: str) -> HeldOut:
    """The answers of a configuration's runs on the folds up to the last one."""
    names = [fold_name(configuration, fold) for fold in range(last + 1)]
    return HeldOut.of([load_checkpoint(f"{trials}/{name}/checkpoint") for name in names])
