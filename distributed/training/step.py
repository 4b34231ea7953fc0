"""One optimiser step: augmented batches, the gradient of the loss, the update.

Legend: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from distributed.training.precision import autocast
from distributed.training.training_state import TrainingState
from model.batch import Batch
from model.learning import losses, optimisers
from model.learning.augment import augment, drop_modalities, mix_samples


def train_step(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
    """One optimiser step over one batch, or over several whose gradients add up."""
    optim, step = run.config.optim, run.step
    for group in run.optimiser.param_groups:
        group["lr"] = optim.lr * optimisers.learning_rate_scale(step, run.steps, optim.warmup)
    batches = [
        augment_batch(run, batch.to(run.device), step * optim.accumulate + k)
        for k, batch in enumerate(batches)
    ]
    run.optimiser.zero_grad(set_to_none=True)
    terms = GRADIENTS[optim.name](run, batches)
    if optim.clip:
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), optim.clip)
    run.optimiser.step()
    run.step += 1
    if run.average is not None:
        optimisers.update_weight_average(run.average, run.network, optim.ema, run.step)
    return terms


def gradient(run: TrainingState, batches: list[Batch], observe: bool = True) -> dict[str, Tensor]:
    """Adds up the gradients of the mean loss over these batches, all workers together; returns the terms."""
    total: dict[str, Tensor] = {}
    for batch in batches:
        held = nullcontext() if batch is batches[-1] else run.exchange.hold(run.forward)
        with held, autocast(run.config, run.device):
            outputs = run.forward(batch)
        terms = losses.loss_terms(
            outputs, batch, run.network.counts_C, run.config.model, progress=run.step / run.steps
        )
        # DDP averages over workers; a worker's share of the global batch may differ from 1/N by a row
        share = len(batch) * run.exchange.world / (batch.total or len(batch)) / len(batches)
        (sum(terms.values()) * share).backward()  # type: ignore[union-attr]
        if observe:
            run.network.update_running_confidence(outputs, batch)
        for name, value in terms.items():
            total[name] = total.get(name, 0) + value.detach() * share
    return total


def sharp_gradient(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
    """SAM: the gradient at the worst point within sam_rho."""
    terms = gradient(run, batches)
    climb_to_worst_point(run, batches)
    return terms


def rare_sharp_gradient(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
    """ImbSAM: SAM for the rarer classes' part of the loss, plain for the rest."""
    rare = [losses.tail_rows(batch, run.network.counts_C) for batch in batches]
    tails = [
        losses.keep_labels_of(batch, rows_B) for batch, rows_B in zip(batches, rare, strict=True)
    ]
    heads = [
        losses.keep_labels_of(batch, ~rows_B) for batch, rows_B in zip(batches, rare, strict=True)
    ]
    tail_terms = gradient(run, tails)
    climb_to_worst_point(run, tails)
    with optimisers.frozen_running_statistics(run.network):
        head_terms = gradient(run, heads)
    return {name: value + head_terms[name] for name, value in tail_terms.items()}


def climb_to_worst_point(run: TrainingState, batches: list[Batch]) -> None:
    """Replaces the gradient by the one found a step of sam_rho up along it."""
    undo = optimisers.perturb(run.network.parameters(), run.config.optim.sam_rho)
    run.optimiser.zero_grad(set_to_none=True)
    with optimisers.frozen_running_statistics(run.network):
        gradient(run, batches, observe=False)
    undo()


GRADIENTS: dict[str, Callable[[TrainingState, list[Batch]], dict[str, Tensor]]] = {
    "adamw": gradient,
    "sgd": gradient,
    "sam": sharp_gradient,
    "imbsam": rare_sharp_gradient,
}


def augment_batch(run: TrainingState, batch: Batch, step: int) -> Batch:
    """The batch as the network sees it in training: augmented, mixed, with some modalities hidden."""
    seed = run.config.optim.seed
    batch = augment(batch, run.config.data, seed, step)
    batch = mix_samples(batch, run.config.loss, run.network.counts_C, seed, step)
    return drop_modalities(batch, run.config.fusion.modality_dropout, seed, step)
