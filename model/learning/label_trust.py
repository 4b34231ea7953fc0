"""How much each training row counts, by the doubts in its label.

Legend: B batch, R training rows by class and rank, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.batch import Batch
from model.decisions.label_noise import fit_label_noise
from model.learning.row_places import row_places

# The share of the training after which labels are doubted. The heads have to learn something first;
# but what the encoders have learned from wrong labels of rare classes they hardly forget.
TRUST_START = 0.1

# The least share of a class's rows that goes on counting. Without it a rare class that the heads
# know too little of early in the training would lose all its rows, and never be learned.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class LabelTrust:
    """How much the training rows count, from 0 to 1.

    weights_R: the rows are ordered by class, and in a class by their ranks.
    rows_C: training rows of every class. counts_C: the sum of their weights.
    """

    weights_R: Tensor
    rows_C: Tensor
    counts_C: Tensor

    def weigh(self, batch: Batch) -> Batch:
        """Returns the batch with the weights of its rows."""
        places_B = row_places(self.rows_C, batch.labels_B, batch.ranks_B)
        return batch.replace(trust_B=self.weights_R[places_B])

    @classmethod
    def of_rows(
        cls, log_posterior_NC: Tensor, labels_N: Tensor, ranks_N: Tensor, strength: float
    ) -> LabelTrust:
        """Returns the trust in all training rows, in any order.

        log_posterior_NC: by heads that have not learned from the row. strength: loss.trust_labels.
        """
        rows_C = torch.bincount(labels_N, minlength=log_posterior_NC.shape[1])
        order_N = row_places(rows_C, labels_N, ranks_N).argsort()
        log_posterior_RC, labels_R = log_posterior_NC[order_N], labels_N[order_N]
        noise = fit_label_noise(log_posterior_RC, labels_R, rows_C)
        right_R = noise.right_probability(log_posterior_RC, labels_R)
        none_C = torch.zeros_like(rows_C, dtype=right_R.dtype)
        share_C = none_C.index_add(0, labels_R, right_R) / rows_C.clamp_min(1)
        lift_C = ((LEAST_SHARE - share_C) / (1 - share_C)).clamp_min(0)
        right_R = right_R + lift_C[labels_R] * (1 - right_R)
        weights_R = 1 - strength * (1 - right_R)
        return cls(weights_R, rows_C, none_C.index_add(0, labels_R, weights_R))
