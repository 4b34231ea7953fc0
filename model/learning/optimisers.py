"""Optimisers, the sharpness-aware ascent step, the learning-rate schedule and the averaged weights: plain functions for the train loop.

SAM, one step (each backward adds up gradients over the workers first, so all workers move alike):
    backward(batch); undo = perturb(parameters, rho); zero_grad; backward(batch); undo(); step
ImbSAM (ICCV 2023) looks for a flat minimum of the tail classes' part of the loss only; the head classes' part is descended from where it
is, so the step follows grad tail(w + eps) + grad head(w), eps = rho grad tail(w) / |grad tail(w)|; losses.restricted makes the two parts:
    backward(tail); undo = perturb(parameters, rho); zero_grad; backward(tail); undo(); backward(head); step
Both descend by AdamW, so that one range of learning rates serves all. Passes after the first run inside `still(network)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn


class OptimiserSettings(Protocol):
    """What `build` reads of a configuration."""

    @property
    def name(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def momentum(self) -> float: ...


def split_by_weight_decay(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters (with, without) weight decay: weight matrices have it; norms, biases, embeddings and learned vectors do not."""
    kept: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in network.modules():
        kind = type(module).__name__
        lookup = "Norm" in kind or kind.endswith(("Embedding", "Embeddings"))
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            matrix = name.startswith("weight") and parameter.ndim >= 2 and not lookup
            (kept if matrix else free).append(parameter)
    return kept, free


def build_optimiser(network: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser named by the settings; SAM and ImbSAM are AdamW with other gradients."""
    kept, free = split_by_weight_decay(network)
    groups = [
        {"params": kept, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    return OPTIMISERS[settings.name](groups, settings)


def adamw(groups: list[dict[str, object]], settings: OptimiserSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.999), fused=True)


def sgd(groups: list[dict[str, object]], settings: OptimiserSettings) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


OPTIMISERS: dict[
    str, Callable[[list[dict[str, object]], OptimiserSettings], torch.optim.Optimizer]
] = {
    "adamw": adamw,
    "sgd": sgd,
    "sam": adamw,
    "imbsam": adamw,
}


@torch.no_grad()
def perturb(parameters: Iterable[nn.Parameter], rho: float) -> Callable[[], None]:
    """Moves the parameters by rho along their gradient's direction (one norm over all of them); the result moves them back, to the bit.

    No gradient, or one of zero, moves nothing: a batch without rare classes makes ImbSAM an ordinary step.
    """
    moved = [(p, p.grad, p.detach().clone()) for p in parameters if p.grad is not None]
    if moved:
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(g.float()) for _, g, _ in moved])
        )
        scale = rho / norm.clamp_min(1e-12)
        for parameter, gradient, _ in moved:
            parameter.add_(gradient * scale)

    @torch.no_grad()
    def undo() -> None:
        for parameter, _, before in moved:
            parameter.copy_(before)

    return undo


@contextmanager
def frozen_running_statistics(network: nn.Module) -> Iterator[None]:
    """Batch statistics keep their running means: a second pass over a batch must not count the batch twice."""
    norms: list[Any] = [m for m in network.modules() if hasattr(m, "running_mean")]
    rates = [(m, m.momentum) for m in norms]
    try:
        for m in norms:
            m.momentum = 0.0
        yield
    finally:
        for m, rate in rates:
            m.momentum = rate


def learning_rate_scale(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak learning rate at `step` (from 0) of `steps`: a linear rise over the share `warmup`, then a cosine to nearly 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = min(1.0, (step - rising) / max(1, steps - rising))
    return 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def update_weight_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and float buffers (batch statistics); integer buffers are copied.

    The decay rises as (1 + step) / (10 + step), so that the first weights are soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    theirs = dict(network.named_parameters()) | dict(network.named_buffers())
    ours = dict(average.named_parameters()) | dict(average.named_buffers())
    floats = [name for name, mine in ours.items() if mine.is_floating_point()]
    torch._foreach_lerp_(
        [ours[n] for n in floats], [theirs[n].to(ours[n].dtype) for n in floats], 1 - decay
    )
    for name in ours.keys() - set(floats):
        ours[name].copy_(theirs[name])
