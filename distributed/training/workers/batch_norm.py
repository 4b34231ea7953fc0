"""Batch statistics over the rows of all workers, on CPUs and GPUs.

torch's SyncBatchNorm runs on GPUs only. Legend: B rows, C channels, W workers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.encoders.standardise import Standardise
from model.precision import at_least_float32

NORMS = (_BatchNorm, Standardise)  # the layers with running statistics


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation over the global batch, for nccl and gloo.

    min_rows: rows that the layer needs on each worker to compute batch statistics.
    idle: whether this worker's rows are placeholders (ImageEncoder.encode_present): they are not
        counted, but the worker takes part in the exchange.
    """

    min_rows = 1
    idle = False

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts any [B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.normalise(x) if self.training or self.idle else super().forward(x)
        # The batch normalisation of timm also drops and activates.
        return self.act(self.drop(y)) if hasattr(self, "act") else y  # type: ignore[operator]

    def normalise(self, x: Tensor) -> Tensor:
        """Normalises by the statistics of the global batch and updates the running ones."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean_C, var_C, count = global_moments(x.detach(), self.idle)
        with torch.no_grad():
            # With one row or none, the running statistics serve, as constants.
            enough = count > x[0, 0].numel()
            mean_C = torch.where(enough, mean_C, self.running_mean)
            var_C = torch.where(enough, var_C, self.running_var)
            count = torch.where(enough, count, torch.inf)
            rate = 0.0 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C, rate)
            unbiased_C = torch.where(enough, var_C * count / (count - 1), var_C)
            self.running_var.lerp_(unbiased_C, rate)
            self.num_batches_tracked += enough
        if self.weight is None:
            scale_C, shift_C = torch.ones_like(mean_C), torch.zeros_like(mean_C)
        else:
            scale_C, shift_C = self.weight, self.bias
        if self.idle:
            count = torch.full_like(count, torch.inf)
        normalised: Tensor = Normalise.apply(  # type: ignore[no-untyped-call]  # of torch
            x, scale_C, shift_C, mean_C, var_C, count, self.eps
        )
        return normalised


class Gather(torch.autograd.Function):
    """[W, ...]: every worker's tensor. Each worker gets back the gradients of all for its own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        slots_W = own.new_zeros(dist.get_world_size(), *own.shape)
        slots_W[dist.get_rank()] = own
        dist.all_reduce(slots_W)  # a sum over slots that only one worker fills is a gather
        return slots_W

    @staticmethod
    def backward(ctx: Any, gradient_W: Tensor) -> Tensor:
        total_W = gradient_W.clone()
        dist.all_reduce(total_W)
        return total_W[dist.get_rank()]


def global_moments(x: Tensor, idle: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of every channel over the rows of all workers, and the count behind them.

    count: numbers of one channel, those of idle workers left out. At least in float32.
    """
    # Many times faster than torch.var_mean over these axes.
    mean_C, var_C = torch.batch_norm_update_stats(at_least_float32(x), None, None, 0.0)
    count_C = torch.full_like(mean_C, 0 if idle else x.numel() / len(mean_C))
    own_3C = torch.stack([mean_C, var_C, count_C])
    gathered_W3C: Tensor = Gather.apply(own_3C)  # type: ignore[no-untyped-call]
    means_WC, vars_WC, counts_WC = gathered_W3C.unbind(1)
    total_C = counts_WC.sum(0)
    mean_C = (means_WC * counts_WC).sum(0) / total_C.clamp_min(1)
    var_C = ((vars_WC + (means_WC - mean_C) ** 2) * counts_WC).sum(0) / total_C.clamp_min(1)
    return mean_C, var_C, total_C[0]


class Normalise(torch.autograd.Function):
    """weight (x - mean) / deviation + bias, where mean and deviation depend on all workers' rows.

    Forward and backward are torch's kernels with fixed statistics. What the statistics add to
    the gradient of x is linear in x, with two numbers a channel that are summed over workers.
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        kernel = torch.ops.aten.native_batch_norm_backward
        _, dweight, dbias = kernel(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        sums_2C = torch.stack([dweight, dbias])
        dist.all_reduce(sums_2C)
        inverse_C = torch.rsqrt(var + ctx.eps)
        # Slope and offset of the part of the gradient that goes through mean and deviation.
        slope_C, offset_C = sums_2C * (weight * inverse_C / count)
        dx = nn.functional.batch_norm(
            x, mean, var, -slope_C, -offset_C, training=False, eps=ctx.eps
        )
        scale_C = (weight * inverse_C).to(x.dtype)
        dx.addcmul_(gradient, scale_C.view(-1, *[1] * (x.ndim - 2)))
        return dx, dweight, dbias, None, None, None, None


def use_global_statistics(network: nn.Module) -> None:
    """Makes the layers of the network compute batch statistics over all workers, in place."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = GlobalBatchNorm
        if isinstance(module, Standardise):
            module.gather_moments = Gather.apply
