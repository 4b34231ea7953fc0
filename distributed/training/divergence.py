"""The loss terms of an epoch: their means, and the stop at the first that is not finite. Legend: T terms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Diverged(RuntimeError):
    """The loss is no longer finite."""


class DivergenceCheck:
    """Adds up the loss terms on the device and looks for one that is not finite, without waiting for the device at every step."""

    EVERY = 50  # steps between two looks

    def __init__(self, epoch: int, gather: Callable[[Tensor], Tensor]) -> None:
        self.epoch, self.gather, self.names, self.count = epoch, gather, [], 0

    def add(self, terms: dict[str, Tensor], step: int) -> None:
        """The terms of the run's step, counted from 1."""
        values_T = torch.stack([v.float() for v in terms.values()])
        if not self.names:
            self.names = list(terms)
            self.sums_T = torch.zeros_like(values_T)
            self.first_bad_T = torch.full_like(values_T, torch.inf)
        bad_T = torch.where(torch.isfinite(values_T), torch.inf, float(step))
        self.first_bad_T = torch.minimum(self.first_bad_T, bad_T)
        self.sums_T += values_T
        self.count += 1
        if self.count % self.EVERY == 0 or step <= 2:
            self.check()

    def check(self) -> None:
        """The same on every worker, whichever has the bad term: one that stopped alone would leave the others waiting."""
        first, index = self.gather(self.first_bad_T[None]).amin(0).min(0)
        if torch.isfinite(first):
            raise Diverged(
                f"the loss term {self.names[int(index)]} is not finite at step {int(first)} (epoch {self.epoch})"
            )

    def means(self) -> Tensor:
        """Mean of every term so far."""
        self.check()
        return self.sums_T / self.count
