"""Optimisers, the sharpness-aware step and the learning-rate schedule.

They are plain functions for the train loop. Each backward adds up the gradients of all workers
first, so all workers move alike.

SAM, one step:
    backward(batch); undo = perturb(parameters, rho); zero_grad; backward(batch); undo(); step
ImbSAM (ICCV 2023) looks for a flat minimum of the tail classes' part of the loss only. The part of
the head classes is descended from where it is, so the step follows grad tail(w + eps) + grad
head(w) with eps = rho grad tail(w) / |grad tail(w)|. losses.keep_labels_of makes the two parts:
    backward(tail); undo = perturb(parameters, rho); zero_grad; backward(tail); undo();
    backward(head); step
Both descend by AdamW, so that one range of learning rates serves all. Every pass after the first
runs inside `frozen_running_statistics(network)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from model.encoders.image import pretrained_bodies
from model.encoders.standardise import Standardise


class OptimiserSettings(Protocol):
    """The settings of the section `optim` that this file uses."""

    @property
    def name(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def backbone_lr(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def probe(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def momentum(self) -> float: ...


def split_by_weight_decay(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the trainable parameters with and those without weight decay.

    Weight matrices have it; norms, biases, embeddings and learned vectors do not.
    """
    with_decay: list[nn.Parameter] = []
    without_decay: list[nn.Parameter] = []
    collected: set[int] = set()
    for module in network.modules():
        kind = type(module).__name__
        exempt = "Norm" in kind or kind.endswith(("Embedding", "Embeddings"))
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in collected:
                continue
            collected.add(id(parameter))
            if name.startswith("weight") and parameter.ndim >= 2 and not exempt:
                with_decay.append(parameter)
            else:
                without_decay.append(parameter)
    return with_decay, without_decay


def build_optimiser(network: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Returns the optimiser by its name; SAM and ImbSAM are AdamW with other gradients.

    The weights of pretrained image encoders are in groups of their own, which are told by
    `pretrained`, with a peak learning rate of their own; see `set_learning_rates`.
    """
    of_bodies = {id(p) for body in pretrained_bodies(network) for p in body.parameters()}
    groups: list[dict[str, object]] = []
    for pretrained in (False, True):
        decays = (settings.weight_decay, 0.0)
        for decay, parameters in zip(decays, split_by_weight_decay(network), strict=True):
            chosen = [p for p in parameters if (id(p) in of_bodies) == pretrained]
            groups.append({"params": chosen, "weight_decay": decay, "pretrained": pretrained})
    groups = [g for g in groups if g["params"]]
    return OPTIMISERS[settings.name](groups, settings)


def set_learning_rates(
    optimiser: torch.optim.Optimizer, settings: OptimiserSettings, step: int, steps: int
) -> None:
    """Sets the learning rates of `step` (from 0) of `steps`.

    A pretrained encoder waits for the share optim.probe of the steps, so that the untrained layers
    behind it do not spoil it (Kumar et al. 2022).
    """
    scale = learning_rate_scale(step, steps, settings.warmup)
    waits = step < round(settings.probe * steps)
    for group in optimiser.param_groups:
        rate = settings.lr * scale
        if group["pretrained"]:
            rate = 0.0 if waits else settings.backbone_lr * scale
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def adamw(groups: list[dict[str, object]], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Returns AdamW, fused into one operation over all parameters."""
    on_gpu = _put_rates_on_gpu(groups, settings)
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=(0.9, 0.999), fused=True, capturable=on_gpu
    )


def sgd(groups: list[dict[str, object]], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Returns SGD, fused, with Nesterov's momentum where there is momentum.

    Fused, it fails where a weight has its first gradient after the first step; all have one then.
    """
    _put_rates_on_gpu(groups, settings)
    return torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        fused=True,
    )


def _put_rates_on_gpu(groups: list[dict[str, object]], settings: OptimiserSettings) -> bool:
    """Gives the groups learning rates on the GPU, where the parameters are on one.

    A step can then be part of a CUDA graph, which keeps every number of the host as it was.
    Returns whether they are on a GPU.
    """
    lists = [cast("list[nn.Parameter]", group["params"]) for group in groups]
    device = next((parameter.device for each in lists for parameter in each), torch.device("cpu"))
    if device.type == "cpu":
        return False
    for group in groups:
        group["lr"] = torch.tensor(settings.lr, device=device)
    return True


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continues from a saved state, but with the learning rates and options of this optimiser.

    Those of a state that was saved on a GPU do not fit a CPU, nor the other way round.
    """
    own = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimiser.param_groups
    ]
    groups = [saved | kept for saved, kept in zip(state["param_groups"], own, strict=True)]
    optimiser.load_state_dict({**state, "param_groups": groups})


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
    """Moves the parameters by rho along their gradient and returns a function that moves them back.

    The direction is normalised over all parameters together; the way back is exact to the bit.
    Without a gradient, or with one of zero, nothing moves: in a batch without rare classes ImbSAM
    makes an ordinary step.
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
    """Keeps all running means as they are: a second pass must not count its batch twice."""
    norms = [
        m for m in network.modules() if isinstance(m, Standardise | nn.modules.batchnorm._BatchNorm)
    ]
    rates = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, rate in zip(norms, rates, strict=True):
            norm.momentum = rate


def learning_rate_scale(step: int, steps: int, warmup: float) -> float:
    """Returns the factor of the peak learning rate at `step` (from 0) of `steps`.

    It rises linearly over the share `warmup` of the steps, then falls along a cosine to nearly 0.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = min(1.0, (step - rising) / max(1, steps - rising))
    return 0.5 * (1 + math.cos(math.pi * done))
