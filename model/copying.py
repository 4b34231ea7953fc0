"""Copies of the host's own data to a device, for which the host does not wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor of the host on the device.

    torch.tensor(..., device=...) and Tensor.to would wait for all work on a GPU.
    """
    return tensor.to(device, non_blocking=True)


def put_numbers(
    numbers: Sequence[float], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Returns the numbers as a tensor on the device."""
    return put(torch.tensor(numbers, dtype=dtype), device)
