"""The training loop. It knows batches, a network and a `report` callable; nothing of Ray, files or clusters.

Legend: B batch, M modalities, E experts, C classes, N rows of a whole split."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from distributed.config import Config
from distributed.training.divergence import Diverged, DivergenceCheck
from distributed.training.exchange import Exchange
from distributed.training.scoring import Scores, compute_metrics, correct_confidences, score_split
from model.batch import Batch
from model.learning import losses, optimisers
from model.learning.augment import augment, drop_modalities, mix_samples
from model.metrics.names import metric as metric_named
from model.network import Network
from model.outputs import Outputs
from model.schema import Schema


class Source(Protocol):
    """Where batches come from: see distributed/stream.py."""

    schema: Schema
    rows: int
    steps: int

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


Report = Callable[[dict[str, float], dict[str, Any], Scores], bool | None]


@dataclass
class TrainingState:
    """Everything that changes while training; `state` and `load` are all of it."""

    config: Config
    network: Network
    forward: Callable[[Batch], Outputs]
    optimiser: torch.optim.Optimizer
    exchange: Exchange
    device: torch.device
    steps: int  # optimiser steps of the whole run
    average: Network | None = None
    epoch: int = 0  # epochs finished
    step: int = 0  # optimiser steps finished
    best: dict[str, Any] = field(
        default_factory=dict
    )  # epoch, score, risen (the first epoch of that score), weights
    seconds: float = 0.0  # in training epochs, evaluation left out
    rows: int = 0
    data_seconds: float = 0.0  # of those, waiting for batches

    @property
    def evaluated(self) -> Network:
        """The weights that are evaluated and saved: their running average where there is one."""
        return self.network if self.average is None else self.average

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            **{
                name: getattr(self, name)
                for name in ("epoch", "step", "seconds", "rows", "data_seconds")
            },
        }

    def load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = state["best"]
        for name in ("epoch", "step", "seconds", "rows", "data_seconds"):
            setattr(self, name, state[name])

    def remember(self, score: float) -> None:
        """Keeps the weights of the best epoch so far; a later epoch wins a tie, since it has trained longer.

        Those of the first epochs (optim.best_epoch_after) only until one comes that counts: with few rows of the rare classes a high score before
        the learning rate has fallen is mostly luck.
        """
        optim = self.config.optim
        early = 0 if optim.patience else int(optim.best_epoch_after * optim.epochs)
        if not self.best or score >= self.best["score"] or self.best["epoch"] <= early < self.epoch:
            weights = {
                name: tensor.detach().clone()
                for name, tensor in self.evaluated.state_dict().items()
            }
            tie = bool(self.best) and score == self.best["score"]
            risen = self.best.get("risen", self.best["epoch"]) if tie else self.epoch
            self.best = {
                "epoch": self.epoch,
                "score": score,
                "risen": risen,
                "weights": weights,
            }


def train_network(
    network: Network,
    train: Source,
    val: Source,
    config: Config,
    report: Report,
    *,
    state: dict[str, Any] | None = None,
    exchange: Exchange | None = None,
    device: torch.device | str = "cpu",
) -> TrainingState:
    """Trains to the last epoch or to an early stop; `report` sees every epoch and may return True to stop."""
    run = begin(network, train, config, exchange or Exchange(), torch.device(device))
    if state is not None:
        run.load(state)
    while run.epoch < config.optim.epochs and not has_stopped_improving(run):
        terms = train_epoch(run, train)
        run.exchange.agree(run.network, *([] if run.average is None else [run.average]))
        scores = score_split(
            run.evaluated, val, run.device, run.exchange, compute_dtype(config, run.device)
        )
        if not scores.logits_NEC.isfinite().all():  # the same on every worker
            raise Diverged(
                f"the network's answers on validation are not finite (epoch {run.epoch})"
            )
        metrics = {
            **terms,
            **{f"val/{name}": value for name, value in compute_metrics(scores, network).items()},
        }
        run.remember(selection_score(metrics, config.optim.metric))
        if (
            config.fusion.correct_on_validation
        ):  # once the weights are remembered as they were scored
            for each in {run.network, run.evaluated}:
                correct_confidences(each, scores)
        metrics |= {
            "epoch": run.epoch,
            "rows_per_second": run.rows / max(run.seconds, 1e-9),
            "best_epoch": run.best["epoch"],
        }
        if report(metrics, run.state(), scores):
            break
    return run


def selection_score(metrics: dict[str, float], metric: str) -> float:
    """How good an epoch is, more is better: by the metric on validation, or by the training loss where validation cannot give it."""
    value = metrics.get(f"val/{metric}")
    if value is None:
        return -metrics["loss"]
    return -value if metric_named(metric).lower_is_better else value


def begin(
    network: Network, train: Source, config: Config, exchange: Exchange, device: torch.device
) -> TrainingState:
    """A run at its start: the network on its device, its average, its optimiser."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.sum_over_workers = exchange.sum
    average = copy.deepcopy(network).requires_grad_(False).eval() if config.optim.ema else None
    forward = exchange.wrap(network)
    if config.optim.compile:
        forward = torch.compile(forward)
    steps = config.optim.epochs * math.ceil(train.steps / config.optim.accumulate)
    return TrainingState(
        config,
        network,
        forward,
        optimisers.build_optimiser(network, config.optim),
        exchange,
        device,
        steps,
        average,
    )


def has_stopped_improving(run: TrainingState) -> bool:
    """Whether the last better score lies further back than optim.patience allows; a tie is none."""
    last = run.best.get("risen", run.best["epoch"]) if run.best else run.epoch
    return bool(run.config.optim.patience and run.epoch - last >= run.config.optim.patience)


def train_epoch(run: TrainingState, train: Source) -> dict[str, float]:
    """One pass over the training rows: the mean of every loss term, the learning rate, the time."""
    run.network.train()
    started, waited = time.perf_counter(), 0.0
    watch = DivergenceCheck(run.epoch + 1, run.exchange.gather)
    batches, group = train.batches(run.epoch), []
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is not None:
            group.append(batch)
        if group and (batch is None or len(group) == run.config.optim.accumulate):
            watch.add(train_step(run, group), run.step)
            run.rows += sum(b.total or len(b) for b in group)
            group = []
        if batch is None:
            break
    means_T = run.exchange.sum(watch.means() / run.exchange.world).tolist()
    run.epoch += 1
    run.seconds += time.perf_counter() - started
    run.data_seconds += waited
    terms = {f"loss/{name}": value for name, value in zip(watch.names, means_T, strict=True)}
    return {"loss": sum(means_T), **terms, "lr": run.optimiser.param_groups[0]["lr"]}


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


def compute_dtype(config: Config, device: torch.device) -> torch.dtype:
    """bfloat16 by choice, or by `auto` on a GPU that has it."""
    automatic = (
        config.optim.precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported()
    )
    return torch.bfloat16 if automatic or config.optim.precision == "bfloat16" else torch.float32


def autocast(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    kind = compute_dtype(config, device)
    return torch.autocast(device.type, kind, enabled=kind is torch.bfloat16)
