"""Why a training failed, in one line, and whether any other one would."""

from __future__ import annotations

import torch

from distributed.runtime.errors import cause_of, disk_full, unreadable_data
from distributed.runtime.redaction import redact
from distributed.training.optimisation.divergence import Diverged

MAX_LENGTH = 300  # characters of an error that is not one of ours


def fails_every_training(error: BaseException) -> bool:
    """Whether an error is one of the disk or of the data, and of no training alone."""
    return bool(disk_full(error)) or unreadable_data(error) is not None


def failure_reason(error: BaseException) -> str:
    """Why a configuration failed, in one line; of an error from a Ray worker, its cause."""
    cause = cause_of(error)
    message = redact(" ".join(str(cause).split()))
    if isinstance(cause, torch.cuda.OutOfMemoryError):
        return "out of memory on the GPU; lower data.batch_size or the model's width"
    if isinstance(cause, MemoryError) or "can't allocate memory" in message:
        return "out of memory"
    if isinstance(cause, Diverged | ValueError):
        return message
    return f"{type(cause).__name__}: {message}"[:MAX_LENGTH]
