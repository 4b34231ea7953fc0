"""The rows of an evaluation with what was decided for them.

Legend: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.inference.decisions.rule import DecidedRows


@dataclass(frozen=True, kw_only=True)
class DecidedSplit:
    """Probabilities, labels and decisions of the rows of an evaluation.

    labels_N: -1 where a row has none. counts_C: training rows of each class.
    """

    probabilities_NC: Tensor
    labels_N: Tensor
    counts_C: Tensor
    classes: tuple[str, ...]
    decided: DecidedRows

    @property
    def scored(self) -> tuple[Tensor, Tensor, Tensor]:
        """What every metric is computed from."""
        return self.probabilities_NC, self.labels_N, self.counts_C

    @property
    def class_rows(self) -> dict[str, int]:
        """Labelled rows of each class."""
        labels_L = self.labels_N[self.labels_N >= 0]
        counts_C = torch.bincount(labels_L, minlength=len(self.classes))
        return dict(zip(self.classes, counts_C.tolist(), strict=True))
