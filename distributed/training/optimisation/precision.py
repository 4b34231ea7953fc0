"""The number format that the network computes in."""

from __future__ import annotations

import torch

from distributed.config import Config


def compute_dtype(config: Config, device: torch.device) -> torch.dtype:
    """bfloat16 where optim.precision says so, or where it is `auto` and the GPU has it."""
    automatic = (
        config.optim.precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported()
    )
    return torch.bfloat16 if automatic or config.optim.precision == "bfloat16" else torch.float32


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """A context in which the network computes in `compute_dtype`."""
    dtype = compute_dtype(config, device)
    return torch.autocast(device.type, dtype, enabled=dtype is torch.bfloat16)
