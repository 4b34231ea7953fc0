"""Derivatives of the NLL by the temperature, a few rows at a time, and the temperature fitted.

With thousands of classes the logits of a validation split take gigabytes: nothing here copies them.

Legend: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model.by_rows import CELLS_AT_A_TIME

MAX_STEPS = 100
COARSE_STEP = 1e-3  # of log T: below it float32 does not suffice
LAST_STEP = 1e-6  # Newton's error is of the order of the square of its last step


@dataclass(frozen=True)
class LabelledLogits:
    """Logits of some rows, made when they are needed, and the labels of all rows.

    logits: returns the logits [n, C] of a slice of rows.
    """

    logits: Callable[[slice], Tensor]
    labels_N: Tensor

    def slices(self, classes: int) -> Iterator[slice]:
        """Yields all rows, a few at a time."""
        size = max(1, CELLS_AT_A_TIME // classes)
        for first in range(0, len(self.labels_N), size):
            yield slice(first, first + size)

    def usable_rows(self, classes: int) -> Tensor:
        """Returns which rows have a label and finite logits, [N]."""
        finite = [torch.isfinite(self.logits(rows)).all(1) for rows in self.slices(classes)]
        return (self.labels_N >= 0) & torch.cat(finite) if finite else self.labels_N >= 0

    def nll_slopes(
        self, weights_N: Tensor, classes: int, log_t: float, dtype: torch.dtype
    ) -> tuple[float, float]:
        """Returns the first two derivatives by log T of the weighted NLL at temperature T.

        weights_N: of the rows; those of weight 0 may have any logits. dtype: of the computation.
        """
        scale = math.exp(-log_t)
        surplus = spread = 0.0
        for rows in self.slices(classes):
            weights_n = weights_N[rows]
            logits_nC = self.logits(rows).to(dtype)
            if not bool((weights_n > 0).all()):
                logits_nC = logits_nC.masked_fill((weights_n == 0)[:, None], 0.0)
            true_n = logits_nC.gather(1, self.labels_N[rows].clamp(min=0)[:, None])[:, 0]
            shares_nC = (logits_nC * scale).softmax(1).mul_(logits_nC)
            mean_n = shares_nC.sum(1).double()
            square_n = shares_nC.mul_(logits_nC).sum(1).double()
            surplus += float((weights_n * (true_n - mean_n)).sum())
            spread += float((weights_n * (square_n - mean_n.square()).clamp(min=0)).sum())
        return scale * surplus, scale * (scale * spread - surplus)


def find_root(
    slopes: Callable[[float, torch.dtype], tuple[float, float]],
    limits: tuple[float, float],
    is_large: bool,
) -> float:
    """Returns where a function crosses 0 from below, by Newton's method within the limits.

    It is the limit that the function does not cross before. slopes: the function and its
    derivative, computed in a number format. is_large: begin with float32, which is faster.
    """
    low, high = limits
    x = min(max(0.0, low), high)
    below, above = low, high  # of the root
    dtype = torch.float32 if is_large else torch.float64
    for _ in range(MAX_STEPS):
        value, rise = slopes(x, dtype)
        if value > 0:
            above = x
        else:
            below = x
        following = x - value / rise if rise > 0 else math.copysign(math.inf, -value)
        step = abs(following - x)
        if step < LAST_STEP and dtype is torch.float64:
            return min(max(following, low), high)
        if following <= low and below == low and slopes(low, dtype)[0] >= 0:
            return low
        if following >= high and above == high and slopes(high, dtype)[0] <= 0:
            return high
        if step < COARSE_STEP and dtype is torch.float32:
            dtype = torch.float64
            below, above = low, high  # float32 may have found the wrong sign near the root
        x = following if below < following < above else (below + above) / 2
    return x
