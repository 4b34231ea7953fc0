"""The floating-point precision of losses and statistics."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32, or as it is where it has more digits.

    bfloat16 has too few digits for a log-softmax over a long tail and for running statistics.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
