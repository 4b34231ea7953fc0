"""Fits decision offsets on validation rows: one number a class, added to its log probability.

They change the decisions only, in favour of one metric; the probabilities stay calibrated.

Legend: N validation rows, C classes, T candidate offsets of one class, R bootstrap replicates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import OFFSET_METRICS
from model.metrics.metrics import bootstrap_weights
from model.metrics.scoring import FORMULAS, ScoredRows, replicates_per_chunk

MIN_FITTED_ROWS = 10  # with fewer labelled validation rows nothing is fitted
MAX_OFFSET = 2.0  # in units of log odds, of a class with many validation rows
HALF_OFFSET_ROWS = 10.0  # validation rows at which a class may use half of MAX_OFFSET
TIE_BREAKER = 1e-3  # weight of balanced accuracy beside the metric
SIZE_PENALTY = 0.05  # for each unit of an offset, divided by the number of classes
MAX_SWEEPS = 4
FOLDS = 5
REPLICATES = 200


def fit_offsets(probabilities_NC: Tensor, labels_N: Tensor, metric: str) -> tuple[Tensor, str]:
    """Returns the decision offsets for the metric, [C], and why they are 0 where they are.

    They are 0 unless offsets that are fitted on the other folds improve the metric of the held-out
    folds by more than two bootstrap errors.
    """
    if metric not in OFFSET_METRICS:
        raise ValueError(f"offsets can be fitted for {', '.join(OFFSET_METRICS)}; got {metric!r}")
    classes = probabilities_NC.shape[1]
    usable_N = (labels_N >= 0) & torch.isfinite(probabilities_NC).all(1)
    log_NC = probabilities_NC[usable_N].double().clamp(min=1e-30).log().cpu()
    labels_N = labels_N[usable_N].cpu()
    rows, present = len(labels_N), len(torch.unique(labels_N))
    if rows < MIN_FITTED_ROWS or present < 2:
        reason = f"offsets are 0: {rows} usable validation rows of {present} classes"
        return torch.zeros(classes), reason
    plain_N = log_NC.argmax(1)
    held_out_N = _held_out_decisions(log_NC, labels_N, metric)
    gain, error = _gain(log_NC, labels_N, held_out_N, plain_N, metric)
    if not gain > 2 * error:
        reason = (
            f"offsets are 0: on held-out folds {metric} changes by {gain:+.4f}"
            f" with a bootstrap error of {error:.4f}"
        )
        return torch.zeros(classes), reason
    return _ascend(log_NC, labels_N, metric).float(), ""


def _held_out_decisions(log_NC: Tensor, labels_N: Tensor, metric: str) -> Tensor:
    """Returns the decisions of each row with the offsets that the other folds give, [N]."""
    order_N = torch.argsort(labels_N, stable=True)
    fold_N = torch.empty_like(labels_N)
    fold_N[order_N] = torch.arange(len(labels_N)) % FOLDS  # each class is spread over all folds
    decisions_N = torch.empty_like(labels_N)
    for fold in range(FOLDS):
        held_out_N = fold_N == fold
        offsets_C = _ascend(log_NC[~held_out_N], labels_N[~held_out_N], metric)
        decisions_N[held_out_N] = (log_NC[held_out_N] + offsets_C).argmax(1)
    return decisions_N


def _gain(
    log_NC: Tensor, labels_N: Tensor, after_N: Tensor, before_N: Tensor, metric: str
) -> tuple[float, float]:
    """Returns by how much the metric rises from one set of decisions to another, and its error."""
    once_RN = torch.ones(1, len(labels_N), dtype=torch.long)  # the rows as they are
    weights_RN = torch.cat([once_RN, *bootstrap_weights(labels_N, REPLICATES)])
    parts = torch.split(weights_RN, replicates_per_chunk(len(labels_N), log_NC.shape[1]))
    no_groups_C = torch.zeros(log_NC.shape[1], dtype=torch.long)

    def values_R(decisions_N: Tensor) -> Tensor:
        scored = [ScoredRows(log_NC, labels_N, decisions_N, part, no_groups_C) for part in parts]
        return torch.cat([FORMULAS[metric](rows) for rows in scored])

    gains_R = values_R(after_N) - values_R(before_N)
    return float(gains_R[0]), float(gains_R[1:].std())


def _ascend(log_NC: Tensor, labels_N: Tensor, metric: str) -> Tensor:
    """Returns the offsets found by coordinate ascent from 0, [C].

    A class with n rows may move by MAX_OFFSET * n / (n + HALF_OFFSET_ROWS): by 0.18 with one row,
    not at all with none.
    """
    counts_C = torch.bincount(labels_N, minlength=log_NC.shape[1])
    reach_C = MAX_OFFSET * counts_C / (counts_C + HALF_OFFSET_ROWS)
    offsets_C = torch.zeros(len(counts_C), dtype=torch.float64)
    for _ in range(MAX_SWEEPS):
        before_C = offsets_C.clone()
        for c in range(len(counts_C)):
            if counts_C[c]:
                reach = float(reach_C[c])
                offsets_C[c] = _best_offset(log_NC, labels_N, offsets_C, c, reach, metric)
        if torch.equal(before_C, offsets_C):
            break
    return offsets_C


def _best_offset(
    log_NC: Tensor, labels_N: Tensor, offsets_C: Tensor, c: int, reach: float, metric: str
) -> float:
    """Returns the best offset of class c within -reach..reach, while the others are held.

    The line search is exact. A row is decided as c where the offset exceeds the row's edge, so the
    metric changes at the edges only, and candidate k gives the k rows of the smallest edges to c.
    """
    classes = len(offsets_C)
    others_NC = log_NC + offsets_C
    others_NC[:, c] = -torch.inf
    best_N, other_N = others_NC.max(1)
    edge_N = best_N - log_NC[:, c]
    always_N, open_N = edge_N <= -reach, (edge_N > -reach) & (edge_N < reach)
    first_N = torch.where(always_N, c, other_N)  # the decisions of the first candidate
    edge_T, order_T = edge_N[open_N].sort()
    other_T, label_T = other_N[open_N][order_T], labels_N[open_N][order_T]

    def class_counts(index: Tensor) -> Tensor:
        return torch.bincount(index, minlength=classes).double()

    def running_counts(counted_T: Tensor, index_T: Tensor) -> Tensor:
        """Returns how often each class stands among the first k rows that are counted."""
        marks_TC = torch.nn.functional.one_hot(index_T, classes).double() * counted_T[:, None]
        return torch.cat([torch.zeros(1, classes, dtype=torch.float64), marks_TC.cumsum(0)])

    all_T, c_T = torch.ones_like(edge_T), torch.full_like(other_T, c)
    decided_TC = class_counts(first_N) - running_counts(all_T, other_T) + running_counts(all_T, c_T)
    hits_TC = (
        class_counts(labels_N[first_N == labels_N])
        - running_counts(other_T == label_T, label_T)
        + running_counts(label_T == c, c_T)
    )
    low_T = torch.cat([torch.tensor([-reach], dtype=torch.float64), edge_T])
    high_T = torch.cat([edge_T, torch.tensor([reach], dtype=torch.float64)])
    value_T = torch.where((low_T < 0) & (high_T > 0), 0.0, (low_T + high_T) / 2)
    objective_T = _objective(hits_TC, decided_TC, class_counts(labels_N), metric)
    penalised_T = objective_T - SIZE_PENALTY / classes * value_T.abs()
    return float(value_T[penalised_T.masked_fill(low_T >= high_T, -torch.inf).argmax()])


def _objective(hits_TC: Tensor, decided_TC: Tensor, true_C: Tensor, metric: str) -> Tensor:
    """Returns the metric of each candidate, with a little balanced accuracy to break ties, [T].

    hits_TC, decided_TC, true_C: correct decisions, decisions and labels of each class.
    """
    present_C = true_C > 0
    recall_TC = hits_TC[:, present_C] / true_C[present_C]
    balanced_T = recall_TC.mean(1)
    if metric == "macro_f1":
        defined_TC = decided_TC + true_C > 0
        f1_TC = 2 * hits_TC / (decided_TC + true_C).clamp(min=1)
        value_T = f1_TC.sum(1) / defined_TC.sum(1)
    elif metric == "balanced_accuracy":
        value_T = balanced_T
    else:
        value_T = recall_TC.amin(1)
    return value_T + TIE_BREAKER * balanced_T
