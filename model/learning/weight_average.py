"""The running average of a network's weights, which is evaluated and saved in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of a network's trained weights and its float buffers.

    It lives in `average`, a copy of the network from before the first step. Frozen weights are the
    same in both for ever and cost nothing; integer buffers are copied. `share` says how much of the
    average comes from the next step: on the device, so that a CUDA graph reads its present value.
    """

    def __init__(self, average: nn.Module, network: nn.Module) -> None:
        pairs: list[tuple[Tensor, Tensor]] = [
            (ours, theirs)
            for ours, theirs in zip(average.parameters(), network.parameters(), strict=True)
            if theirs.requires_grad
        ]
        pairs += zip(average.buffers(), network.buffers(), strict=True)
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averages: list[Tensor] = [ours for ours, _ in floats]
        self._weights: list[Tensor] = [theirs for _, theirs in floats]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.share = torch.zeros((), device=self._averages[0].device)

    def set_share(self, decay: float, step: int) -> None:
        """Sets how much of the average comes from `step` (from 1).

        The decay rises as (1 + step) / (10 + step), so that the first weights soon count for
        nothing.
        """
        self.share.fill_(1 - min(decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average by its share towards the network as it is now."""
        changes = torch._foreach_sub(self._weights, self._averages)
        torch._foreach_mul_(changes, self.share)
        torch._foreach_add_(self._averages, changes)
        for ours, theirs in self._copied:
            ours.copy_(theirs)
