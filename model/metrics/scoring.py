"""The definition of every metric, on weighted rows. Legend: N rows, C classes, R bootstrap replicates, G distinct scores.

Own code rather than torchmetrics 1.9 (the tests compare with it and with scikit-learn), because of what was measured: its macro AUROC
counts a class without rows as 0 (0.436 for random scores with 9 of 59 classes absent), it takes no row weights, which the bootstrap needs,
and its import adds 2 s to every worker process. All sums here are of integers (values in fixed point), so the order of the rows and the
number of workers that scored them cannot change a digit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from model.schema import FEW_ROWS, MANY_ROWS, groups_are_terciles

BINS = 15  # of both calibration errors, equally wide
SHOTS = ("many", "medium", "few")
_CELLS = 4_000_000  # replicates of one chunk times their rows, or times the cells of their confusion matrix
_UNIT = (
    2**36
)  # fixed point: exact integer sums of values up to 16 over 8 million rows, with steps of 1.5e-11
_SMALLEST = torch.finfo(
    torch.float32
).eps  # a probability of 0 counts as this in the NLL, as in scikit-learn


def shot_groups(counts_C: Tensor) -> Tensor:
    """0 (many, over 100 training rows), 1 (medium, 20 to 100) or 2 (few) for every class; terciles of the classes if a group were empty."""
    groups_C = torch.where(counts_C > MANY_ROWS, 0, torch.where(counts_C >= FEW_ROWS, 1, 2))
    classes = len(counts_C)
    if groups_are_terciles(counts_C.tolist()):
        order_C = torch.argsort(counts_C, descending=True, stable=True)
        steps_C = torch.arange(classes, device=counts_C.device)
        groups_C[order_C] = steps_C * 2 if classes == 2 else steps_C * 3 // classes
    return groups_C


def midranks(values_N: Tensor) -> Tensor:
    """Ranks 1..N; equal values share the mean of their ranks."""
    _, place_N, size_G = torch.unique(values_N, return_inverse=True, return_counts=True)
    rank_G: Tensor = size_G.cumsum(0) - (size_G.double() - 1) / 2
    return rank_G[place_N]


def _fixed(values: Tensor) -> Tensor:
    return (values.double() * _UNIT).round().long()


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom, NaN where there is nothing to divide by."""
    return torch.where(bottom > 0, top.double() / bottom.clamp(min=1).double(), torch.nan)


def _least(values: Tensor) -> Tensor:
    """The smallest value of the last axis that is not NaN; NaN where all are."""
    return torch.where(values.isnan().all(-1), torch.nan, values.nan_to_num(nan=torch.inf).amin(-1))


def replicates_per_chunk(rows: int, classes: int) -> int:
    """Replicates of one chunk, which bounds what they take in memory: a row of weights and a confusion matrix each."""
    return max(1, _CELLS // max(rows, classes**2))


@dataclass
class ScoredRows:
    """Rows with their decisions and R rows of integer weights; every metric comes from here as R values, NaN where undefined."""

    probabilities_NC: Tensor
    labels_N: Tensor
    predictions_N: Tensor
    weights_RN: Tensor
    groups_C: Tensor

    def _sums(self, place_N: Tensor, places: int, values_RN: Tensor) -> Tensor:
        """Weighted sums of the rows that share a place, [R, places]."""
        return torch.zeros(
            len(values_RN), places, dtype=torch.long, device=values_RN.device
        ).index_add_(1, place_N, values_RN)

    def _mean(self, values_N: Tensor) -> Tensor:
        return _ratio((self.weights_RN * _fixed(values_N)).sum(1), self.weights_RN.sum(1)) / _UNIT

    @cached_property
    def confusion_RCC(self) -> Tensor:
        """Rows: the true class; columns: the decision."""
        classes = self.probabilities_NC.shape[1]
        return self._sums(
            self.labels_N * classes + self.predictions_N, classes**2, self.weights_RN
        ).view(-1, classes, classes)

    @cached_property
    def hits_RC(self) -> Tensor:
        return self.confusion_RCC.diagonal(dim1=1, dim2=2)

    @cached_property
    def recall_RC(self) -> Tensor:
        return _ratio(self.hits_RC, self.confusion_RCC.sum(2))

    @cached_property
    def precision_RC(self) -> Tensor:
        return _ratio(self.hits_RC, self.confusion_RCC.sum(1))

    @cached_property
    def f1_RC(self) -> Tensor:
        """0 for a class that is predicted but absent, NaN only for one that is neither: as scikit-learn and torchmetrics do."""
        return _ratio(2 * self.hits_RC, self.confusion_RCC.sum(1) + self.confusion_RCC.sum(2))

    def group_recall(self, group: int) -> Tensor:
        return self.recall_RC[:, self.groups_C == group].nanmean(1)

    def g_mean(self) -> Tensor:
        return self.recall_RC.log().nanmean(1).exp()

    def mcc(self) -> Tensor:
        """Multi-class R_k; 0 where every decision is the same class, undefined where every label is."""
        table_RCC = self.confusion_RCC.double()
        total_R, true_RC, told_RC = table_RCC.sum((1, 2)), table_RCC.sum(2), table_RCC.sum(1)
        spread_true_R, spread_told_R = (
            total_R**2 - (true_RC**2).sum(1),
            total_R**2 - (told_RC**2).sum(1),
        )
        top_R = self.hits_RC.double().sum(1) * total_R - (true_RC * told_RC).sum(1)
        value_R = top_R / (spread_true_R * spread_told_R).sqrt().clamp(min=1e-300)
        return torch.where(
            spread_true_R > 0, torch.where(spread_told_R > 0, value_R, 0.0), torch.nan
        )

    @cached_property
    def ranking_2RC(self) -> Tensor:
        """One-against-rest AUROC (ties count half) and average precision of every class."""
        classes = self.probabilities_NC.shape[1]
        return torch.stack([self._rank_class(c) for c in range(classes)], 2)

    def _rank_class(self, c: int) -> Tensor:
        scores_G, place_N = torch.unique(self.probabilities_NC[:, c], return_inverse=True)
        hits_RN = self.weights_RN * (self.labels_N == c)
        hits_RG = self._sums(place_N, len(scores_G), hits_RN)
        other_RG = self._sums(place_N, len(scores_G), self.weights_RN) - hits_RG
        hits_R, other_R = hits_RG.sum(1), other_RG.sum(1)
        twice_R = (hits_RG * (2 * other_RG.cumsum(1) - other_RG)).sum(
            1
        )  # of ordered pairs; integer, so exact
        from_top_RG = hits_RG.flip(1).cumsum(1)
        precision_RG = (
            from_top_RG / (from_top_RG + other_RG.flip(1).cumsum(1)).clamp(min=1).double()
        )
        weighted_R = (hits_RG.flip(1) * precision_RG).sum(1)
        average_R = torch.where(hits_R > 0, weighted_R / hits_R.clamp(min=1), torch.nan)
        return torch.stack([_ratio(twice_R, 2 * hits_R * other_R), average_R])

    def calibration_error(self, scores_N: Tensor, true_N: Tensor) -> Tensor:
        """Mean distance between score and frequency over bins, weighted by their rows."""
        place_N = (scores_N * BINS).long().clamp(0, BINS - 1)
        gap_RB = self._sums(
            place_N, BINS, self.weights_RN * (_fixed(scores_N) - _UNIT * true_N.long())
        )
        return _ratio(gap_RB.abs().sum(1), self.weights_RN.sum(1)) / _UNIT

    def ece(self) -> Tensor:
        scores_N = self.probabilities_NC.gather(1, self.predictions_N[:, None])[:, 0]
        return self.calibration_error(scores_N, self.predictions_N == self.labels_N)

    def classwise_ece(self) -> Tensor:
        scores_NC = self.probabilities_NC
        return torch.stack(
            [
                self.calibration_error(scores_NC[:, c], self.labels_N == c)
                for c in range(scores_NC.shape[1])
            ]
        ).mean(0)

    def nll(self) -> Tensor:
        return self._mean(
            -self.probabilities_NC.gather(1, self.labels_N[:, None])[:, 0]
            .double()
            .clamp(min=_SMALLEST)
            .log()
        )

    def brier(self) -> Tensor:
        """Sum over the classes of squared errors, 0 to 2."""
        true_N = self.probabilities_NC.gather(1, self.labels_N[:, None])[:, 0].double()
        return self._mean((self.probabilities_NC.double() ** 2).sum(1) - 2 * true_N + 1)


FORMULAS: dict[str, Callable[[ScoredRows], Tensor]] = {
    "balanced_accuracy": lambda scored: scored.recall_RC.nanmean(1),
    "macro_f1": lambda scored: scored.f1_RC.nanmean(1),
    "g_mean": ScoredRows.g_mean,
    "mcc": ScoredRows.mcc,
    "macro_auroc": lambda scored: scored.ranking_2RC[0].nanmean(1),
    "macro_auprc": lambda scored: scored.ranking_2RC[1].nanmean(1),
    "accuracy": lambda scored: _ratio(scored.hits_RC.sum(1), scored.weights_RN.sum(1)),
    "worst_recall": lambda scored: _least(scored.recall_RC),
    "many_shot_accuracy": lambda scored: scored.group_recall(0),
    "medium_shot_accuracy": lambda scored: scored.group_recall(1),
    "few_shot_accuracy": lambda scored: scored.group_recall(2),
    "ece": ScoredRows.ece,
    "classwise_ece": ScoredRows.classwise_ece,
    "nll": ScoredRows.nll,
    "brier": ScoredRows.brier,
}


def score_rows(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    predictions_N: Tensor | None = None,
) -> ScoredRows:
    """The labelled rows, each with weight 1. Decisions are the most probable class unless given."""
    if not bool(torch.isfinite(probabilities_NC).all()):
        broken = int((~torch.isfinite(probabilities_NC)).any(1).sum())
        raise ValueError(
            f"probabilities must be finite; got {broken} of {len(probabilities_NC)} rows with NaN or infinity"
        )
    known_N = labels_N >= 0
    scores_NC = probabilities_NC.detach().float()[known_N]
    decisions_N = scores_NC.argmax(1) if predictions_N is None else predictions_N.long()[known_N]
    weights_RN = torch.ones(1, len(scores_NC), dtype=torch.long, device=scores_NC.device)
    return ScoredRows(
        scores_NC,
        labels_N[known_N].long(),
        decisions_N,
        weights_RN,
        shot_groups(counts_C.to(scores_NC.device)),
    )
