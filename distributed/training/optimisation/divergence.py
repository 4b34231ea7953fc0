"""The loss terms of an epoch: their means, and the end of a run whose loss is not finite.

Legend: T terms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Diverged(RuntimeError):
    """The loss is no longer finite."""


class DivergenceCheck:
    """Adds up loss terms on the device and checks now and then that all are finite.

    Checking at every step would wait for the device each time.
    """

    STEPS_BETWEEN_CHECKS = 50

    def __init__(self, epoch: int, gather: Callable[[Tensor], Tensor]) -> None:
        """epoch: counted from 1, for the message. gather: joins the rows of all workers."""
        self.epoch, self.gather = epoch, gather
        self.names: list[str] = []
        self.count = 0

    def add(self, terms: dict[str, Tensor], step: int) -> None:
        """Adds the terms of a step. step: optimiser steps of the run, counted from 1."""
        values_T = torch.stack([value.float() for value in terms.values()])
        if not self.names:
            self.names = list(terms)
            self.sums_T = torch.zeros_like(values_T)
            self.first_bad_step_T = torch.full_like(values_T, torch.inf)
        bad_step_T = torch.where(torch.isfinite(values_T), torch.inf, float(step))
        self.first_bad_step_T = torch.minimum(self.first_bad_step_T, bad_step_T)
        self.sums_T += values_T
        self.count += 1
        if self.count % self.STEPS_BETWEEN_CHECKS == 0 or step <= 2:
            self.check()

    def check(self) -> None:
        """Raises Diverged if a term of any worker was not finite; the same on every worker.

        A worker that stopped alone would leave the others waiting.
        """
        first, index = self.gather(self.first_bad_step_T[None]).amin(0).min(0)
        if torch.isfinite(first):
            raise Diverged(
                f"the loss term {self.names[int(index)]} is not finite "
                f"at step {int(first)} (epoch {self.epoch})"
            )

    def means(self) -> Tensor:
        """The mean of every term so far."""
        self.check()
        return self.sums_T / self.count
