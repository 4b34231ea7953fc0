"""Labels as rows of truth values."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(labels_B: Tensor, classes: int) -> Tensor:
    """Returns which class each label is, [B, C]; all False where a label is unknown (-1).

    torch.nn.functional.one_hot looks at the labels to check them, which waits for the device.
    """
    return labels_B[:, None] == torch.arange(classes, device=labels_B.device)
