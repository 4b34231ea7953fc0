"""TODO"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.encoders.standardise import Standardise
from model.precision import at_least_float32

NORMS = (nn.modules.batchnorm._BatchNorm, Standardise)


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the global batch. torch's SyncBatchNorm runs on GPUs only; this one also on gloo.

    An idle worker has no row of its own to be counted (ImageEncoder.encode_present) but takes part in the exchange.
    """

    min_rows, idle = 1, False

    def _check_input_dim(self, input: Tensor) -> None:
        """Any [B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.normalise(x) if self.training or self.idle else super().forward(x)
        # timm's batch normalisation drops and activates too
        return self.act(self.drop(y)) if hasattr(self, "act") else y

    def normalise(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean_C, var_C, count = global_moments(x.detach(), self.idle)
        with torch.no_grad():
            enough = (
                count > x[0, 0].numel()
            )  # of one row or none the running ones serve, as numbers that do not depend on x
            mean_C, var_C = (
                torch.where(enough, mean_C, self.running_mean),
                torch.where(enough, var_C, self.running_var),
            )
            count = torch.where(enough, count, torch.inf)
            rate = 0.0 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C, rate)
            self.running_var.lerp_(torch.where(enough, var_C * count / (count - 1), var_C), rate)
            self.num_batches_tracked += enough
        scale_C, shift_C = (
            (torch.ones_like(mean_C), torch.zeros_like(mean_C))
            if self.weight is None
            else (self.weight, self.bias)
        )
        count = torch.full_like(count, torch.inf) if self.idle else count
        return Normalise.apply(x, scale_C, shift_C, mean_C, var_C, count, self.eps)  # type: ignore[no-any-return, no-untyped-call]


class Gather(torch.autograd.Function):
    """[W, ...]: every worker's tensor, and back to each the gradients that all have for its own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        slots_W = own.new_zeros(dist.get_world_size(), *own.shape)
        slots_W[dist.get_rank()] = own
        dist.all_reduce(slots_W)  # a sum of slots is a gather
        return slots_W

    @staticmethod
    def backward(ctx: Any, gradient_W: Tensor) -> Tensor:  # type: ignore[override]
        total_W = gradient_W.clone()
        dist.all_reduce(total_W)
        return total_W[dist.get_rank()]


def global_moments(x: Tensor, idle: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of every channel over all rows but those of idle workers, and how many numbers of a channel they are made of; at
    least float32."""
    mean_C, var_C = torch.batch_norm_update_stats(
        at_least_float32(x), None, None, 0.0
    )  # many times faster than torch.var_mean over these axes
    count_C = torch.full_like(mean_C, 0 if idle else x.numel() / len(mean_C))
    means_WC, vars_WC, counts_WC = Gather.apply(torch.stack([mean_C, var_C, count_C])).unbind(1)  # type: ignore[no-untyped-call]
    total_C = counts_WC.sum(0)
    mean_C = (means_WC * counts_WC).sum(0) / total_C.clamp_min(1)
    var_C = ((vars_WC + (means_WC - mean_C) ** 2) * counts_WC).sum(0) / total_C.clamp_min(1)
    return mean_C, var_C, total_C[0]


class Normalise(torch.autograd.Function):
    """weight (x - mean) / deviation + bias, where mean and deviation are functions of every worker's rows.

    Forward and backward are torch's kernels with fixed statistics; what the statistics add to the gradient of x is linear in x, with two
    numbers a channel that are summed over workers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return nn.functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, mean, var, count = ctx.saved_tensors
        kernel = torch.ops.aten.native_batch_norm_backward
        _, dweight, dbias = kernel(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        sums_2C = torch.stack([dweight, dbias])
        dist.all_reduce(sums_2C)
        inverse_C = torch.rsqrt(var + ctx.eps)
        slope_C, offset_C = sums_2C * (
            weight * inverse_C / count
        )  # of the part that goes through mean and deviation
        dx = nn.functional.batch_norm(
            x, mean, var, -slope_C, -offset_C, training=False, eps=ctx.eps
        )
        dx.addcmul_(gradient, (weight * inverse_C).to(x.dtype).view(-1, *[1] * (x.ndim - 2)))
        return dx, dweight, dbias, None, None, None, None


def use_global_statistics(network: nn.Module) -> None:
    """Turns the batch statistics of the network into those of the global batch, in place."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = GlobalBatchNorm
        if isinstance(module, Standardise):
            module.gather_moments = Gather.apply  # type: ignore[assignment]
