"""Trains on several workers with Ray Train: the same run as in one process, with an exchange."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer, get_device

from distributed.config import ScalingConfig
from distributed.runtime.errors import UnreadableData, cause_of
from distributed.runtime.storage import filesystem, is_uri, read_file, write_file
from distributed.shards.sharing import share_splits
from distributed.training.exchange import WorkerExchange
from distributed.training.optimisation.divergence import Diverged
from distributed.training.run import run_training
from distributed.training.spec import RunSpec

FAILURE_FILE = "failure.txt"  # in the folder of a run: how it diverged, if it did


def train_worker(config: dict[str, Any]) -> None:
    """Runs in every Ray Train worker."""
    spec: RunSpec = config["spec"]
    exchange = WorkerExchange(spec.config.scaling.sync_batch_norm)
    try:
        run_training(
            spec,
            exchange=exchange,
            device=get_device(),
            progress=ray.train.report,
            arrays=ray.get(config["arrays"]),
        )
    except Diverged as error:  # the same on every worker; trying again would only repeat it
        if exchange.rank == 0:
            write_file(f"{spec.out}/{FAILURE_FILE}", str(error).encode())


class Trainer(TorchTrainer):
    """Ray Train's trainer without the actor that outlives a killed training.

    That actor, PlacementGroupCleaner, is detached. Where a job is killed it calls exit_actor in a
    thread, which ends the thread and not the actor (Ray 2.60): one idle process would stay for each
    killed training. It is not needed: Ray removes a placement group when the actor that has made it
    ends, and the controller ends with the job.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # Ray hides its trainers from type checkers.
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        left_out = "PlacementGroupCleanerCallback"
        return [callback for callback in callbacks if type(callback).__name__ != left_out]


def train_on_ray(spec: RunSpec, callbacks: Sequence[ray.train.UserCallback] = ()) -> None:
    """Starts scaling.workers workers for the run and waits for its end.

    A lost worker starts the group again from the last saved epoch. The states are the run's own
    (training/states.py), as in one process and in trials; Ray Train keeps none.

    Raises Diverged, with the message of the workers, and ValueError where one of them does.
    """
    _delete_failure(spec.out)
    # Ray Train's own notes; every node must see them, as it must see the run.
    files, folder = filesystem(f"{spec.out}/ray")
    splits = ("train", "val", "test") if spec.test else ("train", "val")
    trainer = Trainer(
        train_worker,
        train_loop_config={
            # A group of workers that starts again resumes.
            "spec": dataclasses.replace(spec, resume=True),
            "arrays": share_splits(spec.shards, dict(spec.settings), splits),
        },
        scaling_config=worker_group(spec.config.scaling),
        run_config=ray.train.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=folder,
            storage_filesystem=files if is_uri(spec.out) else None,
            failure_config=ray.train.FailureConfig(max_failures=spec.config.scaling.max_failures),
            callbacks=[*callbacks],  # type: ignore[list-item]  # Ray names a Tune class
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise worker_mistake(error) or error from None
    finally:
        files.delete_dir_contents(folder, missing_dir_ok=True)
    try:
        reason = read_file(f"{spec.out}/{FAILURE_FILE}").decode()
    except FileNotFoundError:
        return
    raise Diverged(reason)


def worker_mistake(error: ray.train.WorkerGroupError) -> ValueError | None:
    """Returns what a worker says is wrong with its data or settings, which is one line.

    Such is a damaged part of the shards.
    """
    for failure in error.worker_failures.values():
        # Ray Train wraps what was raised, to keep its traceback.
        cause = cause_of(getattr(failure, "_base_exc", failure))
        if isinstance(cause, ValueError):
            kind = UnreadableData if isinstance(cause, UnreadableData) else ValueError
            return kind(str(cause))
    return None


def worker_group(scaling: ScalingConfig) -> ray.train.ScalingConfig:
    """The workers that Ray Train starts: a fixed number, or a range for an elastic run."""
    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.gpus_per_worker:
        resources["GPU"] = scaling.gpus_per_worker
    number: Any = scaling.workers
    elastic: dict[str, Any] = {}
    if scaling.min_workers:
        number = (scaling.min_workers, scaling.workers)
        elastic = {"elastic_resize_monitor_interval_s": 5.0}
    return ray.train.ScalingConfig(
        num_workers=number,
        use_gpu=scaling.gpus_per_worker > 0,
        resources_per_worker=resources,
        placement_strategy="SPREAD",
        **elastic,
    )


def _delete_failure(out: str) -> None:
    """Deletes the note of an earlier start of the same run."""
    files, path = filesystem(out)
    if files.get_file_info(f"{path}/{FAILURE_FILE}").type.name == "File":
        files.delete_file(f"{path}/{FAILURE_FILE}")
