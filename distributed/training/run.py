"""The one way to train a configuration: in this process, in a Ray Train worker, or in a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from distributed.config import Config, split_list
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.shards.batches import BatchSource, in_storage_order, open_batches
from distributed.shards.corruption import parse_corruption
from distributed.shards.decode import Arrays
from distributed.shards.folds import stored_rows
from distributed.shards.manifest import Manifest, read_manifest
from distributed.training.checkpoint import save_checkpoint
from distributed.training.exchange import Exchange
from distributed.training.finish import finish_run
from distributed.training.frozen_views import with_frozen_views
from distributed.training.loop import train_network
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.pages.run_page import FinishedRun, write_run_page
from distributed.training.progress.recorder import EpochRecorder, Progress
from distributed.training.requirements import check_training
from distributed.training.results import RunResult
from distributed.training.scoring import Evaluator
from distributed.training.screening import screen_columns
from distributed.training.spec import RunSpec
from model.learning.teacher import Teacher
from model.network import Network
from model.schema import Schema

SharedArrays = Mapping[str, Arrays]  # decoded rows, by the names of shards/folds.py, for many runs


def run_training(
    spec: RunSpec,
    *,
    exchange: Exchange | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    arrays: SharedArrays | None = None,
    teacher: Teacher | None = None,
) -> RunResult:
    """Trains, completes and evaluates the run of `spec`, and writes the files that it names.

    exchange: connects this process with the other workers of the run, if there are any.
    device: None takes the GPU where the settings ask for one and there is one, else the CPU.
    progress: gets the metrics of every epoch; it may return True to end the training.
    arrays: splits that are decoded already; the others are read from the shards.
    teacher: gives answers for the training rows, which the network learns beside the labels.
    """
    config, exchange = spec.config, exchange or Exchange()
    start = open_run(spec, exchange, arrays)
    recorder = EpochRecorder(spec, start.network, progress, is_leader=exchange.rank == 0)
    run = train_network(
        start.network,
        start.train,
        start.val,
        config,
        recorder,
        state=recorder.state,
        exchange=exchange,
        device=device or default_device(config),
        teacher=teacher,
        train_rows=in_storage_order(start.train, config.inference.batch_size),
    )

    def open_test() -> BatchSource:
        test = open_split(spec, "test", exchange, arrays)
        return with_frozen_views(test, start.network, config)

    result = finish_run(
        run, start.train, start.val, open_test if spec.test else None, recorder.history
    )
    if spec.out:  # trials and most trainings of a study leave no checkpoint
        evaluator = Evaluator(run.device, compute_dtype(config, run.device), exchange)
        result.cross_modal = evaluator.learn_cross_modal_model(result.network, start.val)
    if spec.out and exchange.rank == 0:
        save_checkpoint(f"{spec.out}/checkpoint", result.checkpoint(config, start.manifest))
        recorder.close(result.metrics)
        if spec.page:
            sources = {"train": start.train, "val": start.val}
            write_run_page(FinishedRun(spec, start.manifest, result, sources))
    return result


def default_device(config: Config) -> str:
    """The GPU where the settings ask for one and there is one, else the CPU."""
    return "cuda" if config.scaling.gpus_per_worker and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class RunStart:
    """What a run starts from."""

    manifest: Manifest
    train: BatchSource
    val: BatchSource
    network: Network


def open_run(spec: RunSpec, exchange: Exchange, arrays: SharedArrays | None) -> RunStart:
    """Prepares this process, opens the splits for training and validation, builds the network."""
    config = spec.config
    if config.scaling.threads:
        torch.set_num_threads(config.scaling.threads)
    keep_freed_memory()
    manifest = read_manifest(spec.shards)
    train = open_split(spec, "train", exchange, arrays)
    val = open_split(spec, "val", exchange, arrays)
    network = build_network(manifest, train.schema, config)
    screen_columns(network, train, spec.shards, config)
    train = with_frozen_views(train, network, config)
    return RunStart(manifest, train, with_frozen_views(val, network, config), network)


def open_split(
    spec: RunSpec,
    split: str,
    exchange: Exchange,
    arrays: SharedArrays | None,
    *,
    train: bool | None = None,
) -> BatchSource:
    """The batches of a split for this worker.

    train: whether they are shuffled and sampled for training; None does so for `train` only.
    """
    return open_batches(
        spec.shards,
        split,
        spec.config,
        train=split == "train" if train is None else train,
        rank=exchange.rank,
        world=exchange.world,
        arrays=(arrays or {}).get(stored_rows(split, spec.config)),
    )


def build_network(manifest: Manifest, schema: Schema, config: Config) -> Network:
    """A network for the modalities and classes of `schema`, its weights drawn by optim.seed.

    Raises ValueError for settings that would fail only after the training.
    """
    check_training(config, schema, manifest.rows["val"])
    torch.manual_seed(config.optim.seed)
    return Network(schema, config.model)


def check_trainable(manifest: Manifest, config: Config) -> None:
    """Raises ValueError for settings that cannot be trained on this data; writes nothing."""
    schema = manifest.schema.keep(split_list(config.data.modalities))
    parse_corruption(config.data.corrupt, schema)
    build_network(manifest, schema, config)
