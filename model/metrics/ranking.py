"""How well the scores of one class put its rows before the others, every row counted once.

The numbers are those of scoring.py to the bit. With thousands of classes, of which each has few
rows, only the places of these few among the sorted scores are looked up.

Legend: N rows, P rows of the class, D their distinct scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class RankedClass(NamedTuple):
    """Counts of one class, each [1].

    twice_pairs: twice the pairs of a row of the class and another in the right order; ties count
        one. hits, others: rows of the class and the others. precision: the sum over the rows of the
        class of the precision at their score.
    """

    twice_pairs: Tensor
    hits: Tensor
    others: Tensor
    precision: Tensor


def rank_class(scores_N: NDArray[np.float32], own_P: NDArray[np.int64]) -> RankedClass:
    """Returns the counts of a class from its scores and the places of its rows."""
    sorted_N = np.sort(scores_N)
    score_D, hits_D = np.unique(scores_N[own_P], return_counts=True)
    low_D = np.searchsorted(sorted_N, score_D, side="left")
    equal_D = np.searchsorted(sorted_N, score_D, side="right") - low_D
    hits_below_D = np.cumsum(hits_D) - hits_D
    pairs_D = hits_D * (2 * (low_D - hits_below_D) + equal_D - hits_D)
    hits = len(own_P)
    precision_D = hits_D * ((hits - hits_below_D) / (len(sorted_N) - low_D))
    return RankedClass(
        twice_pairs=torch.tensor([int(pairs_D.sum())]),
        hits=torch.tensor([hits]),
        others=torch.tensor([len(sorted_N) - hits]),
        precision=_sum_in_places(sorted_N, low_D, precision_D),
    )


def _sum_in_places(
    sorted_N: NDArray[np.float32], low_D: NDArray[Any], values_D: NDArray[np.float64]
) -> Tensor:
    """Returns the sum of values at the places of their scores among all distinct ones, [1].

    The other places are zero. The order of a sum decides its last digits.
    """
    if not len(sorted_N):
        return torch.zeros(1, dtype=torch.float64)
    group_N = np.concatenate(([0], np.cumsum(sorted_N[1:] != sorted_N[:-1])))
    last = int(group_N[-1])
    spread_1G = torch.zeros(1, last + 1, dtype=torch.float64)
    if len(low_D):
        spread_1G[0, torch.from_numpy(last - group_N[low_D])] = torch.from_numpy(values_D)
    return spread_1G.sum(1)
