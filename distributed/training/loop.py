"""The training loop. It takes batches, a network and a `report` callable, and uses no Ray.

Legend: T terms of the loss.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch

from distributed.config import Config
from distributed.training.exchange import Exchange
from distributed.training.optimisation.compiled import CompiledForward
from distributed.training.optimisation.divergence import Diverged, DivergenceCheck
from distributed.training.optimisation.label_trust import judge_labels
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.optimisation.step import train_step
from distributed.training.optimisation.training_state import StateDict, TrainingState
from distributed.training.optimisation.transfer import on_device
from distributed.training.scoring import (
    Evaluator,
    Scores,
    compute_run_metrics,
    correct_confidences,
)
from model.batch import Batch
from model.by_rows import all_finite
from model.learning import optimisers
from model.learning.teacher import Teacher
from model.learning.weight_average import WeightAverage
from model.metrics import names
from model.network import Network


class TrainingSource(Protocol):
    """Training batches; distributed/shards/batches.py reads them from SHARDS."""

    steps: int  # batches of an epoch

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


class ValidationSource(Protocol):
    """Batches of a split that is evaluated."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


Report = Callable[[dict[str, float], StateDict, Scores], bool | None]


def train_network(
    network: Network,
    train: TrainingSource,
    val: ValidationSource,
    config: Config,
    report: Report,
    *,
    state: StateDict | None = None,
    exchange: Exchange | None = None,
    device: torch.device | str = "cpu",
    teacher: Teacher | None = None,
    train_rows: ValidationSource | None = None,
) -> TrainingState:
    """Trains to the last epoch or to an early stop.

    report: gets every epoch's metrics, state and validation scores; it may return True to stop.
    state: a saved state to continue from.
    teacher: gives answers for the training rows, which the network learns beside the labels.
    train_rows: every training row once and as it is, which loss.trust_labels needs.
    """
    assert train_rows is not None or not config.loss.trust_labels, "labels of no rows to judge"
    run = begin_training(network, train, config, exchange or Exchange(), torch.device(device))
    run.teacher = None if teacher is None else teacher.to(run.device)
    if state is not None:
        run.load_state_dict(state)
    evaluator = Evaluator(run.device, compute_dtype(config, run.device), run.exchange)
    while run.epoch < config.optim.epochs and not has_stopped_improving(run):
        if train_rows is not None:
            run.trust = judge_labels(run, evaluator, train_rows)
        terms = train_epoch(run, train)
        averages = [] if run.average is None else [run.average]
        run.exchange.average_statistics(run.network, *averages)
        scores = evaluator.score(run.evaluated, val)
        if not all_finite(scores.logits_NEC):  # the same on every worker
            raise Diverged(
                f"the network's answers on validation are not finite (epoch {run.epoch})"
            )
        validation = compute_run_metrics(scores, network)
        metrics = {**terms, **{f"val/{name}": value for name, value in validation.items()}}
        run.remember(selection_score(metrics, config.optim.metric))
        if (
            config.fusion.correct_on_validation
        ):  # after the weights are remembered as they were scored
            for each in {run.network, run.evaluated}:
                correct_confidences(each, scores)
        metrics |= {
            "epoch": run.epoch,
            "rows_per_second": run.rows_per_second,
            "best_epoch": run.best_epoch["epoch"],
        }
        stops = report(metrics, run.state_dict(), scores)
        del scores  # gigabytes with thousands of classes, while the next epoch is scored
        if stops:
            break
    return run


def selection_score(metrics: Mapping[str, float], metric: str) -> float:
    """How good an epoch is; larger is better.

    It is the metric on validation, or the negative training loss where validation lacks it.
    """
    value = metrics.get(f"val/{metric}")
    if value is None:
        return -metrics["loss"]
    return -value if names.metric(metric).lower_is_better else value


def begin_training(
    network: Network,
    train: TrainingSource,
    config: Config,
    exchange: Exchange,
    device: torch.device,
) -> TrainingState:
    """The state before the first step: the network on its device, its average, its optimiser."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.sum_over_workers = exchange.sum
    average = copy.deepcopy(network).requires_grad_(False).eval() if config.optim.ema else None
    forward = exchange.wrap(network)
    if config.optim.compile:
        forward = CompiledForward(forward)
    return TrainingState(
        config=config,
        network=network,
        forward=forward,
        optimiser=optimisers.build_optimiser(network, config.optim),
        exchange=exchange,
        device=device,
        steps=config.optim.epochs * math.ceil(train.steps / config.optim.accumulate),
        average=average,
        averaging=None if average is None else WeightAverage(average, network),
    )


def has_stopped_improving(run: TrainingState) -> bool:
    """Whether the last better score is optim.patience epochs ago; an equal score is not better."""
    patience = run.config.optim.patience
    if not patience or run.best is None:
        return False
    return run.epoch - run.best["first_epoch"] >= patience


def train_epoch(run: TrainingState, train: TrainingSource) -> dict[str, float]:
    """Trains on every training row once; returns the mean of every loss term and the rate."""
    run.network.train()
    started, waited = time.perf_counter(), 0.0
    cpu_started = time.process_time()
    check = DivergenceCheck(run.epoch + 1, run.exchange.gather)
    batches = on_device(train.batches(run.epoch), run.device)
    group: list[Batch] = []  # the batches of one optimiser step
    while True:
        requested = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - requested
        if batch is not None:
            group.append(batch)
        if group and (batch is None or len(group) == run.config.optim.accumulate):
            check.add(train_step(run, group), run.step)
            run.rows += sum(part.total or len(part) for part in group)
            group = []
        if batch is None:
            break
    means_T = run.exchange.sum(check.means() / run.exchange.world).tolist()
    run.epoch += 1
    run.seconds += time.perf_counter() - started
    run.cpu_seconds += summed(run, time.process_time() - cpu_started)
    run.data_seconds += waited
    terms = {f"loss/{name}": value for name, value in zip(check.names, means_T, strict=True)}
    return {"loss": sum(means_T), **terms, "lr": float(run.optimiser.param_groups[0]["lr"])}


def summed(run: TrainingState, value: float) -> float:
    """The sum of a number over all workers."""
    return float(run.exchange.sum(torch.tensor([value], device=run.device)))
