"""Copies of the host's own data to a device, for which the host does not wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor of the host on the device.

    torch.tensor(..., device=...) and Tensor.to would wait for all work on a GPU; so may a copy from
    memory that is not pinned. torch keeps pinned memory until the copy is done.
    """
    if device.type in ("cpu", "meta"):  # a meta tensor has a shape only
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def put_numbers(
    numbers: Sequence[float], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Returns the numbers as a tensor on the device."""
    return put(torch.tensor(numbers, dtype=dtype), device)
