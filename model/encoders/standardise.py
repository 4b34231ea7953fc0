"""TODO"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.learning.expert_losses import at_least_float32


class Standardise(nn.Module):
    """Every feature of an embedding to mean 0 and deviation 1 over the records that have the modality, without a scale of its own.

    A modality of noise cannot grow a large embedding that the fusion would then fail to turn down; and unlike layer normalisation this
    leaves a record's own strength: an embedding far from the mean stays far.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.gather: Callable[[Tensor], Tensor] = (
            alone  # moments of every worker, [W, 3, D]; the worker glue puts its own here
        )
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x_BD: Tensor, present_B: Tensor) -> Tensor:
        kind, x_BD = x_BD.dtype, at_least_float32(x_BD)
        mean_D, var_D = (
            self.moments(x_BD, present_B)
            if self.training
            else (self.running_mean, self.running_var)
        )
        return ((x_BD - mean_D) * torch.rsqrt(var_D + self.eps)).to(kind)

    def moments(self, x_BD: Tensor, present_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the present records of all workers, which also move the running ones; those, where fewer than two."""
        present_B1 = present_B[:, None].to(x_BD.dtype)
        own = present_B1.sum()
        mean_D = (x_BD * present_B1).sum(0) / own.clamp_min(1)
        square_D = ((x_BD - mean_D).square() * present_B1).sum(0)
        counts_WD, means_WD, squares_WD = self.gather(
            torch.stack([own.expand_as(mean_D), mean_D, square_D])
        ).unbind(1)
        count_D = counts_WD.sum(0)
        mean_D = (counts_WD * means_WD).sum(0) / count_D.clamp_min(1)
        var_D = (squares_WD + counts_WD * (means_WD - mean_D).square()).sum(0) / count_D.clamp_min(
            1
        )
        enough_D = count_D > 1
        mean_D, var_D = (
            torch.where(enough_D, mean_D, self.running_mean),
            torch.where(enough_D, var_D, self.running_var),
        )
        with torch.no_grad():
            unbiased_D = torch.where(enough_D, var_D * count_D / (count_D - 1).clamp_min(1), var_D)
            self.running_mean.lerp_(mean_D, self.momentum)
            self.running_var.lerp_(unbiased_D, self.momentum)
        return mean_D, var_D


def alone(moments_3D: Tensor) -> Tensor:
    """The moments of the only worker."""
    return moments_3D[None]
