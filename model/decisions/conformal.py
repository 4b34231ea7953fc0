"""Prediction sets that hold the true class with a chosen probability, in every class.

Class-conditional (Mondrian) split conformal prediction (Vovk 2012; Sadinle, Lei and Wasserman
2019). Class c is in the set of a row where its probability is at least threshold_c. The threshold
is a low quantile of the probabilities that the validation rows of class c give to c. Of a class
with n validation rows and a threshold at the k-th smallest of them, a new row lies below it with
probability k / (n + 1), whatever the network is and however often the class occurs.

Such a probability is seldom the one that is asked for: with 28 rows, 2 / 29 of the rows are left
out by k = 2 and 3 / 29 by k = 3. The threshold therefore lies between these two rows, on the scale
of logarithms, in the proportion that leaves out 1 - coverage on average where the probabilities
between them are evenly spread. Whatever they are, it leaves out between k / (n + 1) and
(k + 1) / (n + 1). To choose one of the two rows by lot would keep the promise exactly, but leave
the sets to chance, and they were as large (docs/results/decisions.md). The threshold stays at the
k-th row where classes share it of which one has fewer than half of the rows for k = 1: how such a
class differs from the rest of its pool is not known.

With k = 1 a threshold would rest on the single worst validation row, and one such row of a class
puts that class into most sets. So a class with too few rows for k = 2 shares its threshold with
its neighbours in training rows, within the many, medium or few-shot classes as long as these have
rows enough. Which classes share does not depend on their probabilities, so the promise still holds
exactly for all rows of a pool together, but no longer for each of its classes. (To pool classes
whose probabilities look alike would break it: the same rows would choose the pool and the
threshold.) Measured on the three data sets of docs/results/decisions.md: k = 1 makes the sets of 59
classes 2.4 times as large, k = 4 leaves 85 % of the few-shot classes' rows covered instead of 90 %.

Legend: N rows, V validation rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.metrics.scoring import shot_groups

SMALLEST = 1e-300  # probability of which there is a logarithm


@dataclass(frozen=True)
class Pool:
    """Classes that share a threshold, and the validation rows that set it.

    lenders: classes with a threshold of their own whose rows this pool uses too, because its own
        do not suffice.
    rows: validation rows behind the threshold.
    """

    classes: tuple[int, ...]
    rows: int
    threshold: float
    lenders: tuple[int, ...] = ()

    @property
    def is_shared(self) -> bool:
        """Whether the threshold is not that of a single class by its own rows."""
        return len(self.classes) + len(self.lenders) > 1


def rows_for_rank(rank: int, coverage: float) -> int:
    """Returns the fewest validation rows whose `rank` smallest lie below a threshold."""
    return math.ceil(round(rank / (1 - coverage), 9)) - 1


def threshold_rank(rows: int, coverage: float) -> int:
    """Returns the k for which the k-th smallest of the probabilities is the threshold; 0: none."""
    return math.floor(round((rows + 1) * (1 - coverage), 9))


def pool_classes(
    rows_C: Sequence[int], counts_C: Sequence[float], coverage: float
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns for each pool its classes and the classes that lend it rows.

    rows_C, counts_C: validation rows and training rows of each class.
    """
    wanted, needed = rows_for_rank(2, coverage), rows_for_rank(1, coverage)
    groups_C = shot_groups(torch.tensor(counts_C)).tolist()
    order = sorted(range(len(rows_C)), key=lambda c: (-counts_C[c], c))
    pools: list[list[int]] = []
    left: list[int] = []  # classes of a group that lacks rows join those of the next one
    for group in sorted(set(groups_C)):
        left += [c for c in order if groups_C[c] == group and rows_C[c] < wanted]
        of_group, left = _fill_pools(left, rows_C, wanted)
        if left and of_group:
            of_group[-1] += left
            left = []
        elif sum(rows_C[c] for c in left) >= needed:
            of_group, left = [left], []
        pools += of_group
    alone = [c for c in order if rows_C[c] >= wanted]
    shared: list[tuple[tuple[int, ...], tuple[int, ...]]] = [(tuple(pool), ()) for pool in pools]
    if left and pools:
        shared[-1] = ((*shared[-1][0], *left), ())
    elif left:
        middle = sum(math.log1p(counts_C[c]) for c in left) / len(left)
        nearest = sorted(alone, key=lambda c: abs(math.log1p(counts_C[c]) - middle))
        shared.append((tuple(left), tuple(nearest[:1])))
    return [*(((c,), ()) for c in alone), *shared]


def _fill_pools(
    classes: Sequence[int], rows_C: Sequence[int], wanted: int
) -> tuple[list[list[int]], list[int]]:
    """Returns pools of neighbours with at least this many rows, and the classes left over."""
    pools: list[list[int]] = []
    last: list[int] = []
    for c in classes:
        last.append(c)
        if sum(rows_C[k] for k in last) >= wanted:
            pools.append(last)
            last = []
    return pools, last


def fit_pools(
    probabilities_VC: Tensor, labels_V: Tensor, counts_C: Sequence[float], coverage: float
) -> list[Pool]:
    """Returns the thresholds of all classes, from labelled validation rows.

    Raises ValueError where the rows of all classes together are too few for this coverage.
    """
    needed = rows_for_rank(1, coverage)
    if len(labels_V) < needed:
        raise ValueError(
            f"coverage {coverage:g} needs {needed} labelled validation rows; "
            f"there are {len(labels_V)}"
        )
    true_V = probabilities_VC.double().gather(1, labels_V[:, None])[:, 0]
    rows_C = torch.bincount(labels_V, minlength=len(counts_C)).tolist()
    pools = []
    for classes, lenders in pool_classes(rows_C, counts_C, coverage):
        is_in_V = torch.isin(labels_V, torch.tensor([*classes, *lenders]))
        sorted_V = true_V[is_in_V].sort().values
        is_known = min(rows_C[c] for c in classes) >= needed / 2
        rank = threshold_rank(len(sorted_V), coverage)
        threshold = threshold_between(sorted_V, coverage) if is_known else sorted_V[rank - 1]
        pools.append(Pool(classes, len(sorted_V), float(threshold), lenders))
    return pools


def threshold_between(sorted_V: Tensor, coverage: float) -> float:
    """Returns the threshold that leaves out 1 - coverage of new rows on average.

    sorted_V: the probabilities of the true class, the smallest first.
    """
    rank = threshold_rank(len(sorted_V), coverage)
    share = (len(sorted_V) + 1) * (1 - coverage) - rank  # of the way to the next row
    low, high = sorted_V[rank - 1], sorted_V[min(rank, len(sorted_V) - 1)]
    return float(low * (high / low.clamp_min(SMALLEST)) ** max(share, 0.0))


def class_thresholds(pools: Sequence[Pool]) -> tuple[float, ...]:
    """Returns the threshold of each class."""
    of_class = {c: pool.threshold for pool in pools for c in pool.classes}
    return tuple(of_class[c] for c in range(len(of_class)))


def prediction_sets(
    probabilities_NC: Tensor, thresholds_C: Sequence[float], top_N: Tensor | None = None
) -> Tensor:
    """Returns which classes are in the set of each row, [N, C].

    top_N: a class that always is, so that no set is empty, which only adds coverage; the most
        probable one unless given.
    """
    if top_N is None:
        top_N = probabilities_NC.argmax(1)
    limits_C = torch.tensor(thresholds_C, dtype=torch.float64, device=probabilities_NC.device)
    in_set_NC = probabilities_NC.double() >= limits_C
    return in_set_NC.scatter(1, top_N[:, None], True)
