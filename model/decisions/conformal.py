"""Prediction sets that hold the true class with a chosen probability, in every class.

Class-conditional (Mondrian) split conformal prediction (Vovk 2012; Sadinle, Lei and Wasserman
2019). Class c is in the set of a row where its probability is at least threshold_c. The threshold
is a low quantile of the probabilities that the validation rows of class c give to c. Of a class
with n validation rows and a threshold at the k-th smallest of them, a new row lies below it with
probability k / (n + 1), whatever the network is and however often the class occurs.

A class with fewer rows than the smallest usable quantile needs shares its threshold with the
classes next to it in training rows. Which classes share does not depend on their probabilities, so
the promise still holds exactly for all rows of a pool together, but no longer for each of its
classes. (To pool classes whose probabilities look alike would break it: the same rows would choose
the pool and the threshold.)

Legend: N rows, V validation rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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


def smallest_rows(coverage: float) -> int:
    """Returns the fewest validation rows from which a threshold of this coverage can be taken."""
    return math.ceil(round(1 / (1 - coverage), 9)) - 1


def threshold_rank(rows: int, coverage: float) -> int:
    """Returns the k for which the k-th smallest of the probabilities is the threshold; 0: none."""
    return math.floor(round((rows + 1) * (1 - coverage), 9))


def pool_classes(
    rows_C: Sequence[int], counts_C: Sequence[float], needed: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns for each pool its classes and the classes that lend it rows.

    rows_C, counts_C: validation rows and training rows of each class. needed: rows of a pool.
    """
    order = sorted(range(len(rows_C)), key=lambda c: (-counts_C[c], c))
    pools: list[list[int]] = []
    open_pool: list[int] = []
    for c in (c for c in order if rows_C[c] < needed):
        open_pool.append(c)
        if sum(rows_C[k] for k in open_pool) >= needed:
            pools.append(open_pool)
            open_pool = []
    if open_pool and pools:
        pools[-1] += open_pool
        open_pool = []
    alone = [c for c in order if rows_C[c] >= needed]
    lenders: list[int] = []
    if open_pool:
        middle = sum(math.log1p(counts_C[c]) for c in open_pool) / len(open_pool)
        nearest = sorted(alone, key=lambda c: abs(math.log1p(counts_C[c]) - middle))
        lenders = nearest[:1]
        pools.append(open_pool)
    shared = [(tuple(pool), tuple(lenders) if pool is open_pool else ()) for pool in pools]
    return [*(((c,), ()) for c in alone), *shared]


def fit_pools(
    probabilities_VC: Tensor, labels_V: Tensor, counts_C: Sequence[float], coverage: float
) -> list[Pool]:
    """Returns the thresholds of all classes, from labelled validation rows.

    Raises ValueError where the rows of all classes together are too few for this coverage.
    """
    needed = smallest_rows(coverage)
    if len(labels_V) < needed:
        raise ValueError(
            f"coverage {coverage:g} needs {needed} labelled validation rows; "
            f"there are {len(labels_V)}"
        )
    true_V = probabilities_VC.double().gather(1, labels_V[:, None])[:, 0]
    rows_C = torch.bincount(labels_V, minlength=len(counts_C)).tolist()
    pools = []
    for classes, lenders in pool_classes(rows_C, counts_C, needed):
        is_in_V = torch.isin(labels_V, torch.tensor([*classes, *lenders]))
        sorted_V = true_V[is_in_V].sort().values
        rank = threshold_rank(len(sorted_V), coverage)
        pools.append(Pool(classes, len(sorted_V), float(sorted_V[rank - 1]), lenders))
    return pools


def class_thresholds(pools: Sequence[Pool]) -> tuple[float, ...]:
    """Returns the threshold of each class."""
    of_class = {c: pool.threshold for pool in pools for c in pool.classes}
    return tuple(of_class[c] for c in range(len(of_class)))


def prediction_sets(probabilities_NC: Tensor, thresholds_C: Sequence[float]) -> Tensor:
    """Returns which classes are in the set of each row, [N, C].

    The most probable class always is, so that no set is empty; that only adds coverage.
    """
    limits_C = torch.tensor(thresholds_C, dtype=torch.float64, device=probabilities_NC.device)
    in_set_NC = probabilities_NC.double() >= limits_C
    return in_set_NC.scatter(1, probabilities_NC.argmax(1, keepdim=True), True)
