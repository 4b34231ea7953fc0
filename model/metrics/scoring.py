"""The definition of every metric, on weighted rows.

This is own code rather than torchmetrics 1.9, with which and with scikit-learn the tests compare
it. The reasons were measured: torchmetrics' macro AUROC counts a class without rows as 0 (0.436 for
random scores with 9 of 59 classes absent), it takes no row weights, which the bootstrap needs, and
its import adds 2 s to every worker process. All sums here are of integers (values in fixed point),
so the order of the rows and the number of workers that scored them cannot change a digit.

Legend: N rows, C classes, R bootstrap replicates, G distinct scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from model.by_rows import all_finite, by_rows
from model.metrics.ranking import rank_class
from model.schema import FEW_ROWS, MANY_ROWS, groups_are_terciles

BINS = 15  # of both calibration errors, all of the same width
SHOTS = ("many", "medium", "few")
# Numbers that one chunk of replicates takes: a weight for each row and a confusion matrix.
_CELLS = 4_000_000
# Of the fixed-point numbers: sums of values up to 16 over 8 million rows are exact, in steps of
# 1.5e-11.
_UNIT = 2**36
_SMALLEST = torch.finfo(torch.float32).eps  # a probability of 0 in the NLL, as in scikit-learn


def shot_groups(counts_C: Tensor) -> Tensor:
    """Returns the group of each class by its training rows, [C].

    0: many, over 100 rows. 1: medium, 20 to 100. 2: few. If a group were empty, the groups are the
    thirds of the classes by size instead.
    """
    groups_C = torch.where(counts_C > MANY_ROWS, 0, torch.where(counts_C >= FEW_ROWS, 1, 2))
    classes = len(counts_C)
    if groups_are_terciles(counts_C.tolist()):
        order_C = torch.argsort(counts_C, descending=True, stable=True)
        steps_C = torch.arange(classes, device=counts_C.device)
        groups_C[order_C] = steps_C * 2 if classes == 2 else steps_C * 3 // classes
    return groups_C


def midranks(values_N: Tensor) -> Tensor:
    """Returns the ranks 1..N, where equal values share the mean of their ranks, [N]."""
    _, place_N, size_G = torch.unique(values_N, return_inverse=True, return_counts=True)
    rank_G: Tensor = size_G.cumsum(0) - (size_G.double() - 1) / 2
    return rank_G[place_N]


def _fixed(values: Tensor) -> Tensor:
    """Returns the values as fixed-point integers."""
    return (values.double() * _UNIT).round().long()


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Returns the ratio of two counts; NaN where the denominator is 0."""
    ratio = numerator.double() / denominator.clamp(min=1).double()
    return torch.where(denominator > 0, ratio, torch.nan)


def _nanmin(values: Tensor) -> Tensor:
    """Returns the smallest value of the last axis that is not NaN; NaN where all are."""
    smallest = values.nan_to_num(nan=torch.inf).amin(-1)
    return torch.where(values.isnan().all(-1), torch.nan, smallest)


def replicates_per_chunk(rows: int, classes: int) -> int:
    """Returns how many bootstrap replicates are computed at a time, which bounds the memory."""
    return max(1, _CELLS // max(rows, classes**2))


@dataclass
class ScoredRows:
    """Labelled rows with their decisions, in R weightings.

    Every metric is an array of R values, NaN where it is undefined.
    """

    probabilities_NC: Tensor
    labels_N: Tensor
    predictions_N: Tensor
    weights_RN: Tensor  # integers: how often a row counts
    groups_C: Tensor  # see shot_groups

    def _sums(self, index_N: Tensor, size: int, values_RN: Tensor) -> Tensor:
        """Returns the sums of the values that share an index, [R, size]."""
        zeros = torch.zeros(len(values_RN), size, dtype=torch.long, device=values_RN.device)
        return zeros.index_add_(1, index_N, values_RN)

    def _mean(self, values_N: Tensor) -> Tensor:
        """Returns the weighted mean of the rows' values, [R]."""
        return _ratio((self.weights_RN * _fixed(values_N)).sum(1), self.weights_RN.sum(1)) / _UNIT

    @cached_property
    def confusion_RCC(self) -> Tensor:
        """Confusion matrices; rows are the true classes, columns the decisions."""
        classes = self.probabilities_NC.shape[1]
        cell_N = self.labels_N * classes + self.predictions_N
        return self._sums(cell_N, classes**2, self.weights_RN).view(-1, classes, classes)

    @cached_property
    def hits_RC(self) -> Tensor:
        """Correct decisions of each class."""
        return self.confusion_RCC.diagonal(dim1=1, dim2=2)

    @cached_property
    def recall_RC(self) -> Tensor:
        """Recall of each class."""
        return _ratio(self.hits_RC, self.confusion_RCC.sum(2))

    @cached_property
    def precision_RC(self) -> Tensor:
        """Precision of each class."""
        return _ratio(self.hits_RC, self.confusion_RCC.sum(1))

    @cached_property
    def f1_RC(self) -> Tensor:
        """F1 of each class: 0 for one that is predicted but absent, NaN for one that is neither.

        scikit-learn and torchmetrics define it so.
        """
        return _ratio(2 * self.hits_RC, self.confusion_RCC.sum(1) + self.confusion_RCC.sum(2))

    def group_recall(self, group: int) -> Tensor:
        """Returns the mean recall over the classes of a group."""
        return self.recall_RC[:, self.groups_C == group].nanmean(1)

    def g_mean(self) -> Tensor:
        """Returns the geometric mean of the recalls."""
        return self.recall_RC.log().nanmean(1).exp()

    def mcc(self) -> Tensor:
        """Returns the multi-class Matthews correlation coefficient, R_k.

        It is 0 where every decision is the same class, undefined where every label is.
        """
        table_RCC = self.confusion_RCC.double()
        total_R = table_RCC.sum((1, 2))
        true_RC = table_RCC.sum(2)
        decided_RC = table_RCC.sum(1)
        true_spread_R = total_R**2 - (true_RC**2).sum(1)
        decided_spread_R = total_R**2 - (decided_RC**2).sum(1)
        covariance_R = self.hits_RC.double().sum(1) * total_R - (true_RC * decided_RC).sum(1)
        value_R = covariance_R / (true_spread_R * decided_spread_R).sqrt().clamp(min=1e-300)
        value_R = torch.where(decided_spread_R > 0, value_R, 0.0)
        return torch.where(true_spread_R > 0, value_R, torch.nan)

    @cached_property
    def ranking_2RC(self) -> Tensor:
        """AUROC (ties count half) and average precision of each class against the others."""
        classes = range(self.probabilities_NC.shape[1])
        counted_once = len(self.weights_RN) == 1 and bool((self.weights_RN == 1).all())
        if not counted_once or self.probabilities_NC.device.type != "cpu":
            return torch.stack([self._rank_class(c) for c in classes], 2)
        labels_N = self.labels_N.numpy()
        order_N = np.argsort(labels_N, kind="stable")
        ends = np.searchsorted(labels_N[order_N], np.arange(len(classes) + 1))
        scores_CN = self.probabilities_NC.numpy().T
        ranked = [rank_class(scores_CN[c], order_N[ends[c] : ends[c + 1]]) for c in classes]
        return torch.stack([self._quality(*counts) for counts in ranked], 2)

    def _rank_class(self, c: int) -> Tensor:
        """Returns AUROC and average precision of one class, [2, R]."""
        scores_G, group_N = torch.unique(self.probabilities_NC[:, c], return_inverse=True)
        hits_RN = self.weights_RN * (self.labels_N == c)
        hits_RG = self._sums(group_N, len(scores_G), hits_RN)
        other_RG = self._sums(group_N, len(scores_G), self.weights_RN) - hits_RG
        hits_R, other_R = hits_RG.sum(1), other_RG.sum(1)
        # Twice the number of pairs in the right order, so that a tie counts 1 and the sum is exact.
        twice_pairs_R = (hits_RG * (2 * other_RG.cumsum(1) - other_RG)).sum(1)
        hits_above_RG = hits_RG.flip(1).cumsum(1)
        all_above_RG = hits_above_RG + other_RG.flip(1).cumsum(1)
        precision_RG = hits_above_RG / all_above_RG.clamp(min=1).double()
        weighted_R = (hits_RG.flip(1) * precision_RG).sum(1)
        return self._quality(twice_pairs_R, hits_R, other_R, weighted_R)

    @staticmethod
    def _quality(twice_pairs_R: Tensor, hits_R: Tensor, other_R: Tensor, sum_R: Tensor) -> Tensor:
        """Returns AUROC and average precision of a class, [2, R]; see RankedClass."""
        average_R = torch.where(hits_R > 0, sum_R / hits_R.clamp(min=1), torch.nan)
        return torch.stack([_ratio(twice_pairs_R, 2 * hits_R * other_R), average_R])

    def calibration_error(self, scores_N: Tensor, true_N: Tensor) -> Tensor:
        """Returns the mean distance between score and frequency over bins of scores.

        Bins count by their rows. true_N: whether the event that the score predicts came true.
        """
        bin_N = (scores_N * BINS).long().clamp(0, BINS - 1)
        difference_RN = self.weights_RN * (_fixed(scores_N) - _UNIT * true_N.long())
        gap_RB = self._sums(bin_N, BINS, difference_RN)
        return _ratio(gap_RB.abs().sum(1), self.weights_RN.sum(1)) / _UNIT

    def ece(self) -> Tensor:
        """Returns the calibration error of the decided classes' probabilities."""
        scores_N = self.probabilities_NC.gather(1, self.predictions_N[:, None])[:, 0]
        return self.calibration_error(scores_N, self.predictions_N == self.labels_N)

    def classwise_ece(self) -> Tensor:
        """Returns the mean over the classes of the calibration errors of their probabilities."""
        scores_NC = self.probabilities_NC
        classes = range(scores_NC.shape[1])
        errors = [self.calibration_error(scores_NC[:, c], self.labels_N == c) for c in classes]
        return torch.stack(errors).mean(0)

    def true_probability_N(self) -> Tensor:
        """Returns the probability of each row's true class."""
        return self.probabilities_NC.gather(1, self.labels_N[:, None])[:, 0].double()

    def losses_N(self) -> Tensor:
        """Returns the negative log-likelihood of each row."""
        return -self.true_probability_N().clamp(min=_SMALLEST).log()

    def nll(self) -> Tensor:
        """Returns the mean negative log-likelihood of the rows."""
        return self._mean(self.losses_N())

    def balanced_nll(self) -> Tensor:
        """Returns the mean over the classes of their rows' mean negative log-likelihood."""
        classes = self.probabilities_NC.shape[1]
        loss_RC = self._sums(self.labels_N, classes, self.weights_RN * _fixed(self.losses_N()))
        return _ratio(loss_RC, self.confusion_RCC.sum(2)).nanmean(1) / _UNIT

    def brier(self) -> Tensor:
        """Returns the Brier score, the sum over the classes of squared errors: 0 to 2."""
        squares_N = by_rows(lambda part: (part.double() ** 2).sum(1), self.probabilities_NC)
        return self._mean(squares_N - 2 * self.true_probability_N() + 1)


# Every metric by its name: rows -> [R].
FORMULAS: dict[str, Callable[[ScoredRows], Tensor]] = {
    "balanced_accuracy": lambda scored: scored.recall_RC.nanmean(1),
    "macro_f1": lambda scored: scored.f1_RC.nanmean(1),
    "g_mean": ScoredRows.g_mean,
    "mcc": ScoredRows.mcc,
    "macro_auroc": lambda scored: scored.ranking_2RC[0].nanmean(1),
    "macro_auprc": lambda scored: scored.ranking_2RC[1].nanmean(1),
    "accuracy": lambda scored: _ratio(scored.hits_RC.sum(1), scored.weights_RN.sum(1)),
    "worst_recall": lambda scored: _nanmin(scored.recall_RC),
    "many_shot_accuracy": lambda scored: scored.group_recall(0),
    "medium_shot_accuracy": lambda scored: scored.group_recall(1),
    "few_shot_accuracy": lambda scored: scored.group_recall(2),
    "ece": ScoredRows.ece,
    "classwise_ece": ScoredRows.classwise_ece,
    "nll": ScoredRows.nll,
    "balanced_nll": ScoredRows.balanced_nll,
    "brier": ScoredRows.brier,
}


# Metrics that need no probabilities.
OF_DECISIONS = (
    "balanced_accuracy",
    "macro_f1",
    "g_mean",
    "mcc",
    "accuracy",
    "worst_recall",
    "many_shot_accuracy",
    "medium_shot_accuracy",
    "few_shot_accuracy",
)


def score_rows(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    predictions_N: Tensor | None = None,
) -> ScoredRows:
    """Returns the labelled rows with weight 1 each.

    counts_C: training rows of each class. predictions_N: decisions, else the most probable class.
    """
    if not all_finite(probabilities_NC):
        broken = int((~torch.isfinite(probabilities_NC)).any(1).sum())
        raise ValueError(
            f"probabilities must be finite; got {broken} of {len(probabilities_NC)} rows with"
            " NaN or infinity"
        )
    labelled_N = labels_N >= 0
    scores_NC = probabilities_NC.detach().float()
    if not bool(labelled_N.all()):
        scores_NC = scores_NC[labelled_N]
    decisions_N = scores_NC.argmax(1) if predictions_N is None else predictions_N.long()[labelled_N]
    weights_RN = torch.ones(1, len(scores_NC), dtype=torch.long, device=scores_NC.device)
    return ScoredRows(
        scores_NC,
        labels_N[labelled_N].long(),
        decisions_N,
        weights_RN,
        shot_groups(counts_C.to(scores_NC.device)),
    )
