"""One configuration on one data set: open, build, fit, finish, write RUN. The same code alone, in Ray Train workers and in trials."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distributed.config import Config, apply_changes, split_list
from distributed.runtime import storage
from distributed.shards.batches import BatchSource, in_storage_order, open_batches
from distributed.shards.corruption import parse_corruption
from distributed.shards.manifest import Manifest, read_manifest
from distributed.training import exchange, loop
from distributed.training.board import RunBoard
from distributed.training.checkpoint import Checkpoint, save_checkpoint
from distributed.training.divergence import Diverged
from distributed.training.exchange import Exchange
from distributed.training.loop import TrainingState
from distributed.training.priors import expert_class_priors
from distributed.training.requirements import check_training
from distributed.training.scoring import (
    Scores,
    compute_metrics,
    confidence_metrics,
    correct_confidences,
    forward_batches,
    learn_cross_modal_model,
    learn_novelty_gate,
    score_split,
)
from distributed.training.states import StateFormatError, States
from model.decisions import calibration
from model.decisions.calibration import Calibration
from model.decisions.guard import ValidationRows
from model.fusion.cross_modal import CrossModalModel
from model.learning import posthoc
from model.network import Network
from model.schema import Schema

Progress = Callable[[dict[str, float]], bool | None]
FAMILIAR_ROWS = 20_000  # training rows that say what is familiar


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What to run and where to put it; plain values only, so that it travels to any worker."""

    shards: str
    settings: dict[str, Any] = field(default_factory=dict)  # dotted differences from the defaults
    out: str = ""  # folder or URI; empty writes nothing
    resume: bool = False
    test: bool = True  # whether the finished run is scored on the test split

    @property
    def config(self) -> Config:
        return apply_changes(Config(), self.settings)


@dataclass
class Finished:
    """A trained, calibrated network and its metrics."""

    network: Network
    calibration: Calibration
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    validation: ValidationRows | None = (
        None  # raw expert logits of labelled validation rows, for the guards at test time
    )
    cross_modal: CrossModalModel | None = None  # of each modality by the others, from validation

    def checkpoint(self, config: Config, manifest: Manifest) -> Checkpoint:
        """What evaluation and prediction need of it."""
        return Checkpoint(
            self.network, config, manifest, self.calibration, self.validation, self.cross_modal
        )


def execute(
    job: RunSpec,
    *,
    exchange: Exchange | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> Finished:
    """Runs the job to its end. `progress` sees the metrics of every epoch and may return True to stop; arrays: decoded splits to share."""
    config, exchange = job.config, exchange or Exchange()
    opened = open_run(job, exchange, arrays)
    states = States(f"{job.out}/state") if job.out else None
    state = states.load() if states and job.resume else None
    recorder = EpochRecorder(
        job, opened.network, states, progress, exchange.rank == 0, state["epoch"] if state else 0
    )
    run = loop.train_network(
        opened.network,
        opened.train,
        opened.val,
        config,
        recorder,
        state=state,
        exchange=exchange,
        device=device,
    )
    finished = finish(job, run, opened.train, opened.val, arrays)
    finished.history = recorder.history
    if job.out:  # trials and studies keep no checkpoint, and need no cross_modal
        kind = loop.compute_dtype(config, run.device)
        finished.cross_modal = learn_cross_modal_model(
            finished.network, opened.val, run.device, exchange, kind
        )
    if job.out and exchange.rank == 0:
        save_checkpoint(f"{job.out}/checkpoint", finished.checkpoint(config, opened.manifest))
        recorder.close(finished.metrics)
    return finished


@dataclass(frozen=True)
class Opened:
    """What a run starts from."""

    manifest: Manifest
    train: BatchSource
    val: BatchSource
    network: Network


def open_run(job: RunSpec, exchange: Exchange, arrays: Mapping[str, Any] | None) -> Opened:
    """This process made ready, the splits opened, the network built."""
    config = job.config
    if config.scaling.threads:
        torch.set_num_threads(config.scaling.threads)
    keep_memory()
    manifest = read_manifest(job.shards)
    train, val = (open_split(job, split, exchange, arrays) for split in ("train", "val"))
    return Opened(manifest, train, val, build_network(manifest, train.schema, config))


def keep_memory() -> None:
    """Has glibc keep freed memory for the next step's activations: pages fresh from the kernel cost a CPU run a quarter of its time."""
    maximum_of_maps, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc
        return
    libc.mallopt(maximum_of_maps, 0)
    libc.mallopt(trim_threshold, -1)  # never


def open_split(
    job: RunSpec,
    split: str,
    exchange: Exchange,
    arrays: Mapping[str, Any] | None,
    *,
    train: bool | None = None,
) -> BatchSource:
    """The batches of a split; training batches for `train` unless said otherwise."""
    train = split == "train" if train is None else train
    shared = (arrays or {}).get(split)
    return open_batches(
        job.shards,
        split,
        job.config,
        train=train,
        rank=exchange.rank,
        world=exchange.world,
        arrays=shared,
    )


def build_network(manifest: Manifest, schema: Schema, config: Config) -> Network:
    """A network with seeded weights for the modalities and class counts of `schema`; refuses what could only fail after training."""
    check_training(config, schema, manifest.rows["val"])
    torch.manual_seed(config.optim.seed)
    return Network(schema, config.model)


def check_trainable(manifest: Manifest, config: Config) -> None:
    """Refuses, before anything is decoded or written, what this data set cannot be trained with."""
    schema = manifest.schema.keep(split_list(config.data.modalities))
    parse_corruption(config.data.corrupt, schema)
    build_network(manifest, schema, config)


class EpochRecorder:
    """The loop's `report`: writes the history and TensorBoard, saves the state, tells `progress`.

    The state comes last: a run that is killed in between repeats an epoch, whose first record is then replaced; it never lacks one.
    """

    def __init__(
        self,
        job: RunSpec,
        network: Network,
        states: States | None,
        progress: Progress | None,
        leads: bool,
        done: int = 0,
    ) -> None:
        self.job, self.states, self.progress, self.leads = job, states, progress, leads
        self.history = (
            [metrics for metrics in self.read_history() if metrics["epoch"] <= done] if done else []
        )
        self.board = RunBoard(job.out, network, done + 1) if job.out and leads else None

    def __call__(
        self, metrics: dict[str, float], state: dict[str, Any], scores: Scores
    ) -> bool | None:
        self.history.append(metrics)
        if self.leads and self.job.out:
            storage.write_file(f"{self.job.out}/history.json", json.dumps(self.history).encode())
        if self.board is not None:
            self.board.epoch(metrics, scores)
        if self.leads and self.states is not None:
            self.states.save(int(metrics["epoch"]), state)
        return self.progress(metrics) if self.progress is not None else None

    def read_history(self) -> list[dict[str, float]]:
        try:
            return json.loads(storage.read_file(f"{self.job.out}/history.json"))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return []

    def close(self, metrics: dict[str, Any]) -> None:
        storage.write_file(f"{self.job.out}/metrics.json", json.dumps(metrics, indent=1).encode())
        if self.board is not None:
            self.board.close(self.job.config, metrics)


def finish(
    job: RunSpec,
    run: TrainingState,
    train: BatchSource,
    val: BatchSource,
    arrays: Mapping[str, Any] | None,
) -> Finished:
    """The best epoch's weights, the second stage, calibration on validation, and the metrics; test is read here and nowhere else."""
    config, network = job.config, run.network
    network.load_state_dict(run.best["weights"])
    kind = loop.compute_dtype(config, run.device)
    if config.fusion.correct_on_validation:
        correct_confidences(network, score_split(network, val, run.device, run.exchange, kind))
    if network.novelty_gate is not None:
        some = in_storage_order(train, config.inference.batch_size, FAMILIAR_ROWS)
        counts_C = torch.from_numpy(some.plan.selection.counts_C).float()
        learn_novelty_gate(network, some, counts_C, val, run.device, run.exchange, kind)
    if config.stage.kind != "none":
        second_stage(
            network,
            frozen_features(run, in_storage_order(train, config.inference.batch_size)),
            config,
        )
    scores = score_split(network, val, run.device, run.exchange, kind)
    fitted = calibrate(scores, network, config)
    metrics: dict[str, Any] = {"val": calibrated_metrics(scores, network, fitted)}
    if job.test:
        test = open_split(job, "test", run.exchange, arrays)
        metrics["test"] = calibrated_metrics(
            score_split(network, test, run.device, run.exchange, kind), network, fitted
        )
    metrics |= {
        "train_seconds": run.seconds,
        "rows_per_second": run.rows / max(run.seconds, 1e-9),
        "data_share": run.data_seconds / max(run.seconds, 1e-9),
        "epochs": run.epoch,
        "best_epoch": run.best["epoch"],
        "calibration": fitted.reason,
    }
    return Finished(
        network, fitted, metrics, [], ValidationRows.select(scores.logits_NEC, scores.labels_N)
    )


def calibrate(scores: Scores, network: Network, config: Config) -> Calibration:
    """Temperatures and decision offsets from validation rows, under the class prior that each expert speaks for."""
    if not config.inference.calibrate:
        return Calibration.identity(
            scores.logits_NEC.shape[1], len(network.schema.classes), "calibration is off"
        )
    return calibration.fit_calibration(
        scores.logits_NEC,
        scores.labels_N,
        expert_class_priors(network, config),
        config.inference.decision_offsets,
    )


def calibrated_metrics(scores: Scores, network: Network, fitted: Calibration) -> dict[str, float]:
    """Metrics of calibrated probabilities, all experts alike, with the fitted decision offsets."""
    probabilities_NC = fitted.scale(scores.logits_NEC).mean(1).softmax(-1)
    return compute_metrics(
        scores, network, probabilities_NC, fitted.decide(probabilities_NC)
    ) | confidence_metrics(scores, network)


def frozen_features(run: TrainingState, train: BatchSource) -> tuple[Tensor, Tensor]:
    """Frozen features [N, E, H] and labels of every row, not augmented, in the same order whatever the number of workers."""
    hidden, labels, places, first = [], [], [], 0
    with torch.inference_mode():
        for batch, outputs in forward_batches(
            run.network, train, run.device, loop.compute_dtype(run.config, run.device)
        ):
            hidden.append(outputs.hidden_BEH.float())
            labels.append(batch.labels_B)
            places.append(first + batch.start + torch.arange(len(batch), device=run.device))
            first += batch.total or len(batch)
    order_N = run.exchange.gather(torch.cat(places)).argsort()
    return run.exchange.gather(torch.cat(hidden))[order_N], run.exchange.gather(torch.cat(labels))[
        order_N
    ]


def second_stage(network: Network, features: tuple[Tensor, Tensor], config: Config) -> None:
    """Replaces the experts' classifiers by those of stage.kind, learned on frozen features."""
    classifier = network.experts.classifier
    weight_ECH, bias_EC = posthoc.retrain(
        classifier.weight_EHC.detach().transpose(1, 2),
        classifier.bias_EC.detach(),
        *features,
        network.counts_C,
        config.stage.kind,
        config.stage.epochs,
        config.optim.lr,
        config.optim.seed,
        config.stage.tau,
    )
    with torch.no_grad():
        classifier.weight_EHC.copy_(weight_ECH.transpose(1, 2))
        classifier.bias_EC.copy_(bias_EC)


SAVE_EVERY = 5.0  # seconds between two saved states of a running trial


def run_once(
    shards: str,
    settings: Mapping[str, Any],
    *,
    arrays: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    state: str = "",
    test: bool = False,
    device: str | None = None,
) -> Finished:
    """Trains, picks the best epoch and calibrates on validation; reads the test split only when `test` asks for it.

    state: a folder or URI for resumable states; a run that finds one there goes on from it, also past its last epoch to the metrics.
    progress: sees the metrics of every epoch, `train_seconds` among them, and may return True to stop.
    """
    job = RunSpec(shards=shards, settings=dict(settings), test=test)
    opened, config = open_run(job, exchange.Exchange(), arrays), job.config
    place = torch.device(
        device
        or ("cuda" if config.scaling.gpus_per_worker and torch.cuda.is_available() else "cpu")
    )
    states = States(state) if state else None
    try:
        saved = states.load() if states else None
    except StateFormatError as error:
        print(f"warning: {error}; this training starts anew", file=sys.stderr)
        saved = None
    history: list[dict[str, float]] = saved.get("history", []) if saved else []
    written = time.monotonic()

    def report(metrics: dict[str, float], current: dict[str, Any], scores: Scores) -> bool | None:
        nonlocal written
        history.append({**metrics, "train_seconds": current["seconds"]})
        if states and (
            time.monotonic() - written > SAVE_EVERY or metrics["epoch"] == config.optim.epochs
        ):
            states.save(int(metrics["epoch"]), {**current, "history": history})
            written = time.monotonic()
        return progress(history[-1]) if progress else None

    run = loop.train_network(
        opened.network, opened.train, opened.val, config, report, state=saved, device=place
    )
    finished = finish(job, run, opened.train, opened.val, arrays)
    finished.history = history
    return finished


def failure_reason(error: BaseException) -> str:
    """Why a configuration failed, in one line."""
    error = (
        getattr(error, "cause", None) or error
    )  # a RayTaskError carries the worker's own exception
    message = " ".join(str(error).split())
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory on the GPU; lower data.batch_size or the model's width"
    if isinstance(error, MemoryError) or "can't allocate memory" in message:
        return "out of memory"
    if isinstance(error, Diverged | ValueError):
        return message
    return f"{type(error).__name__}: {message}"[:300]
