"""Where values that belong to training rows are kept: by class, and in a class by rank."""

from __future__ import annotations

from torch import Tensor


def row_places(rows_C: Tensor, labels_B: Tensor, ranks_B: Tensor) -> Tensor:
    """Returns the place of each row among all training rows, [B].

    rows_C: training rows of every class.
    """
    starts_C = rows_C.cumsum(0) - rows_C
    return starts_C[labels_B] + ranks_B
