"""One optimiser step: augmented batches, the gradient of the loss, the update.

Legend: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from distributed.config import split_list
from distributed.training.optimisation.precision import autocast
from distributed.training.optimisation.training_state import TrainingState
from model.batch import Batch
from model.learning import losses, optimisers
from model.learning.augment import augment, drop_modalities, mix_samples
from model.learning.degrade import degrade_images
from model.learning.spoil import add_unrelated_cells, spoil_modalities


def train_step(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
    """One optimiser step over one batch, or over several whose gradients add up.

    The batches are on the device. Nothing here waits for it: what is known of a batch without
    looking, such as the modalities that every record has, was found before it was brought there.
    """
    optim = run.config.optim
    optimisers.set_learning_rates(run.optimiser, optim, run.step, run.steps)
    if run.averaging is not None:
        run.averaging.set_share(optim.ema, run.step + 1)
    first = run.step * optim.accumulate  # position of the first batch in the run
    batches = [
        augment_batch(run, batch, position) for position, batch in enumerate(batches, start=first)
    ]
    terms = update_weights(run, batches)
    run.step += 1
    return terms


def update_weights(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
    """The part of a step after augmentation, which a CUDA graph can hold.

    Records that all have their images give the same operations at each step, with the same numbers
    of the host: what changes, such as learning rates, is on the device. Only a loss that begins
    later in the training (loss.drw) changes them, once, and loss.trust_labels at every epoch, which
    has class counts of its own.
    """
    optim = run.config.optim
    run.optimiser.zero_grad(set_to_none=True)
    terms = GRADIENTS[optim.name](run, batches)
    if optim.clip:
        trained = [weight for group in run.optimiser.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, optim.clip)
    run.optimiser.step()
    if run.averaging is not None:
        run.averaging.update()
    return terms


def augment_batch(run: TrainingState, batch: Batch, position: int) -> Batch:
    """The batch as the network gets it in training: augmented, mixed, some modalities hidden.

    position: of the batch in the run; it seeds the random draws.
    """
    schema, seed = run.network.schema, run.config.optim.seed
    if run.teacher is not None:
        batch = run.teacher.answer(batch)
    if run.trust is not None:
        batch = run.trust.weigh(batch)
    batch = augment(batch, schema.images, run.config.data, seed, position)
    data = run.config.data
    left_out = split_list(data.spoil_without)
    if run.network.plausibility:
        batch = add_unrelated_cells(batch, schema, seed, position)
    names = run.network.pretrained_images
    batch = degrade_images(batch, schema, names, data.degrade, data.flip, left_out, seed, position)
    batch = spoil_modalities(batch, schema, data.spoil, left_out, seed, position)
    batch = mix_samples(batch, run.config.loss, run.network.counts_C, seed, position)
    return drop_modalities(batch, run.config.fusion.modality_dropout, seed, position)


def plain_gradient(
    run: TrainingState, batches: list[Batch], update_statistics: bool = True
) -> dict[str, Tensor]:
    """Adds the gradient of the mean loss over these batches, of all workers together.

    update_statistics: let the network update its running confidences. Returns the loss terms.
    """
    counts_C = run.network.counts_C if run.trust is None else run.trust.counts_C
    total: dict[str, Tensor] = {}
    for batch in batches:
        is_last = batch is batches[-1]  # only then the workers average their gradients
        context = nullcontext() if is_last else run.exchange.without_averaging(run.forward)
        with context, autocast(run.config, run.device):
            outputs = run.forward(batch)
        terms = losses.loss_terms(
            outputs, batch, counts_C, run.config.model, progress=run.step / run.steps
        )
        # DDP averages over workers; a worker's share of the global batch may differ from
        # 1 / world by a row.
        share = len(batch) * run.exchange.world / (batch.total or len(batch)) / len(batches)
        (sum(terms.values()) * share).backward()  # type: ignore[union-attr]  # never empty
        if update_statistics:
            run.network.update_running_confidence(outputs, batch)
        for name, value in terms.items():
            total[name] = total.get(name, 0) + value.detach() * share
    return total


def sam_gradient(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
    """Sharpness-aware minimisation: the gradient at the worst point within optim.sam_rho."""
    terms = plain_gradient(run, batches)
    gradient_at_worst_point(run, batches)
    return terms


def imbsam_gradient(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
    """ImbSAM: sharpness-aware for the rarer classes' part of the loss, plain for the rest."""
    rare = [losses.tail_rows(batch, run.network.counts_C) for batch in batches]
    pairs = list(zip(batches, rare, strict=True))
    tails = [losses.keep_labels_of(batch, rows_B) for batch, rows_B in pairs]
    heads = [losses.keep_labels_of(batch, ~rows_B) for batch, rows_B in pairs]
    tail_terms = plain_gradient(run, tails)
    gradient_at_worst_point(run, tails)
    with optimisers.frozen_running_statistics(run.network):
        head_terms = plain_gradient(run, heads)
    return {name: value + head_terms[name] for name, value in tail_terms.items()}


def gradient_at_worst_point(run: TrainingState, batches: list[Batch]) -> None:
    """Replaces the gradient by the one at a step of optim.sam_rho up along it."""
    undo = optimisers.perturb(run.network.parameters(), run.config.optim.sam_rho)
    run.optimiser.zero_grad(set_to_none=True)
    with optimisers.frozen_running_statistics(run.network):
        plain_gradient(run, batches, update_statistics=False)
    undo()


GRADIENTS: dict[str, Callable[[TrainingState, list[Batch]], dict[str, Tensor]]] = {
    "adamw": plain_gradient,
    "sgd": plain_gradient,
    "sam": sam_gradient,
    "imbsam": imbsam_gradient,
}
