"""Standardises the embedding of every modality over the records that have the modality.

Legend: B batch, D embedding, W workers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.precision import at_least_float32


def moments_of_one_worker(moments_3D: Tensor) -> Tensor:
    """Returns the moments with a first axis for the workers, where there is only one."""
    return moments_3D[None]


class Standardise(nn.Module):
    """Brings every feature to mean 0 and deviation 1 over the present records.

    It has no learned scale: a modality of pure noise cannot grow a large embedding that the fusion
    would then fail to turn down. Unlike layer normalisation it keeps how far the embedding of one
    record is from the mean.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        # Returns the moments of every worker, [W, 3, D]; distributed training replaces it.
        self.gather_moments: Callable[[Tensor], Tensor] = moments_of_one_worker
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x_BD: Tensor, present_B: Tensor) -> Tensor:
        """Returns the standardised features in the precision of the input."""
        dtype, x_BD = x_BD.dtype, at_least_float32(x_BD)
        if self.training:
            mean_D, var_D = self.batch_moments(x_BD, present_B)
        else:
            mean_D, var_D = self.running_mean, self.running_var
        return ((x_BD - mean_D) * torch.rsqrt(var_D + self.eps)).to(dtype)

    def batch_moments(self, x_BD: Tensor, present_B: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and variance over the present records of all workers.

        They also move the running ones, which take their place where there are fewer than two
        records.
        """
        present_B1 = present_B[:, None].to(x_BD.dtype)
        own_rows = present_B1.sum()
        mean_D = (x_BD * present_B1).sum(0) / own_rows.clamp_min(1)
        square_D = ((x_BD - mean_D).square() * present_B1).sum(0)
        own_3D = torch.stack([own_rows.expand_as(mean_D), mean_D, square_D])
        counts_WD, means_WD, squares_WD = self.gather_moments(own_3D).unbind(1)
        count_D = counts_WD.sum(0)
        mean_D = (counts_WD * means_WD).sum(0) / count_D.clamp_min(1)
        total_D = (squares_WD + counts_WD * (means_WD - mean_D).square()).sum(0)
        var_D = total_D / count_D.clamp_min(1)
        enough_D = count_D > 1
        mean_D = torch.where(enough_D, mean_D, self.running_mean)
        var_D = torch.where(enough_D, var_D, self.running_var)
        with torch.no_grad():
            unbiased_D = torch.where(enough_D, var_D * count_D / (count_D - 1).clamp_min(1), var_D)
            self.running_mean.lerp_(mean_D, self.momentum)
            self.running_var.lerp_(unbiased_D, self.momentum)
        return mean_D, var_D
