"""Ray Train glue: N workers with averaged gradients, global sums and, unless told otherwise, batch statistics. The loop is in loop.py."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.runtime.storage import filesystem, is_uri, read_file, write_file
from distributed.training.divergence import Diverged
from distributed.training.exchange import Exchange
from distributed.training.states import States
from distributed.training.workers.batch_norm import NORMS, use_global_statistics
from model.batch import Batch
from model.network import Network
from model.outputs import Outputs

if TYPE_CHECKING:
    from distributed.training.run import RunSpec

FAILURE = "failure.txt"


class TrainingFailed(RuntimeError):
    """A run that ended for a reason that no restart would cure."""


class WorkerExchange(Exchange):
    """The exchange over the torch.distributed group that Ray Train has set up."""

    def __init__(self, global_norms: bool = True) -> None:
        self.rank, self.world, self.global_norms = (
            dist.get_rank(),
            dist.get_world_size(),
            global_norms,
        )

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all workers in rank order; workers may have different numbers of rows."""
        rows = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(self.world)]
        dist.all_gather(rows, torch.tensor([len(tensor)], device=tensor.device))
        longest = int(max(int(r) for r in rows))
        padded = tensor.new_zeros(
            (longest, *tensor.shape[1:]),
            dtype=torch.uint8 if tensor.dtype == torch.bool else tensor.dtype,
        )
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(n)] for part, n in zip(parts, rows, strict=True)]).to(
            tensor.dtype
        )

    def wrap(self, network: Network) -> Callable[[Batch], Outputs]:
        if self.global_norms:
            use_global_statistics(network)
        # Buffers (running means, batch statistics) are made from global sums, so they are equal everywhere without a broadcast;
        # those that are not are averaged once an epoch.
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # the new name of broadcast_buffers is too new
            return nn.parallel.DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def hold(self, forward: Callable[[Batch], Outputs]) -> AbstractContextManager[None]:
        return forward.no_sync()  # type: ignore[attr-defined, no-any-return]

    def agree(self, *networks: Network) -> None:
        """Averages the running batch statistics; global ones are equal already."""
        if self.global_norms:
            return
        for norm in (m for network in networks for m in network.modules() if isinstance(m, NORMS)):
            for statistic_C in (norm.running_mean, norm.running_var):
                if statistic_C is not None:
                    statistic_C.copy_(
                        self.sum(statistic_C.double()) / self.world
                    )  # a frozen one comes out as it was


def train_worker(config: dict[str, Any]) -> None:
    """Runs in every Ray Train worker: the same run as alone, with an exchange."""
    import ray.train
    from ray.train.torch import get_device

    from distributed.training.run import RunSpec, execute

    given, arrays = RunSpec(**config["job"]), ray.get(config["arrays"])
    exchange = WorkerExchange(given.config.scaling.sync_batch_norm)
    try:
        execute(
            given, exchange=exchange, device=get_device(), progress=ray.train.report, arrays=arrays
        )
    except Diverged as error:  # the same on every worker; trying again would only repeat it
        if exchange.rank == 0:
            write_file(f"{given.out}/{FAILURE}", str(error).encode())


def train_on_ray(job: RunSpec) -> None:
    """Starts N workers for the job and waits; a lost worker starts the group again from the last saved epoch.

    The states of a run are its own (checkpoints.States), the same alone, here and in a trial; Ray Train keeps none.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from distributed.shards import sharing

    States(
        f"{job.out}/state"
    ).load()  # refuses those of another version here, where nothing starts it again
    outputs, path = filesystem(job.out)
    if outputs.get_file_info(f"{path}/{FAILURE}").type.name == "File":  # of an earlier start
        outputs.delete_file(f"{path}/{FAILURE}")
    scaling = job.config.scaling
    workers: Any = (
        (scaling.min_workers, scaling.workers) if scaling.min_workers else scaling.workers
    )
    resources = {"CPU": scaling.cpus_per_worker} | (
        {"GPU": scaling.gpus_per_worker} if scaling.gpus_per_worker else {}
    )
    elastic = {"elastic_resize_monitor_interval_s": 5.0} if scaling.min_workers else {}
    files, folder = filesystem(
        f"{job.out}/ray"
    )  # Ray Train's own notes; all nodes must see it, as they must see the run
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "job": dataclasses.asdict(
                dataclasses.replace(job, resume=True)
            ),  # resume: a group that starts again
            "arrays": sharing.share_splits(
                job.shards,
                dict(job.settings),
                ("train", "val", "test") if job.test else ("train", "val"),
            ),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
            placement_strategy="SPREAD",
            **elastic,
        ),
        run_config=ray.train.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=folder,
            storage_filesystem=files if is_uri(job.out) else None,
            failure_config=ray.train.FailureConfig(max_failures=scaling.max_failures),
        ),
    )
    try:
        trainer.fit()
    finally:
        files.delete_dir_contents(folder, missing_dir_ok=True)
    try:
        failure = read_file(f"{job.out}/{FAILURE}").decode()
    except FileNotFoundError:
        return
    raise TrainingFailed(failure)
