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

from distributed.checkpoints import States, read_file, write_file
from distributed.loop import Exchange
from distributed.shards import filesystem, is_uri
from distributed.watch import Diverged
from model.batch import Batch
from model.encoders import Standardise
from model.expert_losses import full
from model.network import Network
from model.outputs import Outputs

if TYPE_CHECKING:
    from distributed.runs import Job

FAILURE = "failure.txt"
NORMS = (nn.modules.batchnorm._BatchNorm, Standardise)


class Failed(RuntimeError):
    """A run that ended for a reason that no restart would cure."""


class Workers(Exchange):
    """The exchange over the torch.distributed group that Ray Train has set up."""

    def __init__(self, global_norms: bool = True) -> None:
        self.rank, self.world, self.global_norms = dist.get_rank(), dist.get_world_size(), global_norms

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all workers in rank order; workers may have different numbers of rows."""
        rows = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(self.world)]
        dist.all_gather(rows, torch.tensor([len(tensor)], device=tensor.device))
        longest = int(max(int(r) for r in rows))
        padded = tensor.new_zeros((longest, *tensor.shape[1:]), dtype=torch.uint8 if tensor.dtype == torch.bool else tensor.dtype)
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(n)] for part, n in zip(parts, rows, strict=True)]).to(tensor.dtype)

    def wrap(self, network: Network) -> Callable[[Batch], Outputs]:
        if self.global_norms:
            synchronise(network)
        # Buffers (running means, batch statistics) are made from global sums, so they are equal everywhere without a broadcast;
        # those that are not are averaged once an epoch.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the new name of broadcast_buffers is too new
            return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)

    def hold(self, forward: Callable[[Batch], Outputs]) -> AbstractContextManager[None]:
        return forward.no_sync()  # type: ignore[attr-defined, no-any-return]

    def agree(self, *networks: Network) -> None:
        """Averages the running batch statistics; global ones are equal already."""
        if self.global_norms:
            return
        for norm in (m for network in networks for m in network.modules() if isinstance(m, NORMS)):
            for statistic_C in (norm.running_mean, norm.running_var):
                if statistic_C is not None:
                    statistic_C.copy_(self.sum(statistic_C.double()) / self.world)  # a frozen one comes out as it was


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the global batch. torch's SyncBatchNorm runs on GPUs only; this one also on gloo.

    An idle worker has no row of its own to be counted (model.encoders.ImageEncoder.some) but takes part in the exchange.
    """

    least, idle = 1, False

    def _check_input_dim(self, input: Tensor) -> None:
        """Any [B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.normalise(x) if self.training or self.idle else super().forward(x)
        # timm's batch normalisation drops and activates too
        return self.act(self.drop(y)) if hasattr(self, "act") else y

    def normalise(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean_C, var_C, count = global_moments(x.detach(), self.idle)
        with torch.no_grad():
            enough = count > x[0, 0].numel()  # of one row or none the running ones serve, as numbers that do not depend on x
            mean_C, var_C = torch.where(enough, mean_C, self.running_mean), torch.where(enough, var_C, self.running_var)
            count = torch.where(enough, count, torch.inf)
            rate = 0.0 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C, rate)
            self.running_var.lerp_(torch.where(enough, var_C * count / (count - 1), var_C), rate)
            self.num_batches_tracked += enough
        scale_C, shift_C = (torch.ones_like(mean_C), torch.zeros_like(mean_C)) if self.weight is None else (self.weight, self.bias)
        count = torch.full_like(count, torch.inf) if self.idle else count
        return Normalise.apply(x, scale_C, shift_C, mean_C, var_C, count, self.eps)  # type: ignore[no-any-return, no-untyped-call]


class Gather(torch.autograd.Function):
    """[W, ...]: every worker's tensor, and back to each the gradients that all have for its own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        slots_W = own.new_zeros(dist.get_world_size(), *own.shape)
        slots_W[dist.get_rank()] = own
        dist.all_reduce(slots_W)  # a sum of slots is a gather
        return slots_W

    @staticmethod
    def backward(ctx: Any, gradient_W: Tensor) -> Tensor:  # type: ignore[override]
        total_W = gradient_W.clone()
        dist.all_reduce(total_W)
        return total_W[dist.get_rank()]


def global_moments(x: Tensor, idle: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of every channel over all rows but those of idle workers, and how many numbers of a channel they are made of; at
    least float32."""
    mean_C, var_C = torch.batch_norm_update_stats(full(x), None, None, 0.0)  # many times faster than torch.var_mean over these axes
    count_C = torch.full_like(mean_C, 0 if idle else x.numel() / len(mean_C))
    means_WC, vars_WC, counts_WC = Gather.apply(torch.stack([mean_C, var_C, count_C])).unbind(1)  # type: ignore[no-untyped-call]
    total_C = counts_WC.sum(0)
    mean_C = (means_WC * counts_WC).sum(0) / total_C.clamp_min(1)
    var_C = ((vars_WC + (means_WC - mean_C) ** 2) * counts_WC).sum(0) / total_C.clamp_min(1)
    return mean_C, var_C, total_C[0]


class Normalise(torch.autograd.Function):
    """weight (x - mean) / deviation + bias, where mean and deviation are functions of every worker's rows.

    Forward and backward are torch's kernels with fixed statistics; what the statistics add to the gradient of x is linear in x, with two
    numbers a channel that are summed over workers.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return nn.functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, mean, var, count = ctx.saved_tensors
        kernel = torch.ops.aten.native_batch_norm_backward
        _, dweight, dbias = kernel(gradient, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True])
        sums_2C = torch.stack([dweight, dbias])
        dist.all_reduce(sums_2C)
        inverse_C = torch.rsqrt(var + ctx.eps)
        slope_C, offset_C = sums_2C * (weight * inverse_C / count)  # of the part that goes through mean and deviation
        dx = nn.functional.batch_norm(x, mean, var, -slope_C, -offset_C, training=False, eps=ctx.eps)
        dx.addcmul_(gradient, (weight * inverse_C).to(x.dtype).view(-1, *[1] * (x.ndim - 2)))
        return dx, dweight, dbias, None, None, None, None


def synchronise(network: nn.Module) -> None:
    """Turns the batch statistics of the network into those of the global batch, in place."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = GlobalBatchNorm
        if isinstance(module, Standardise):
            module.gather = Gather.apply  # type: ignore[assignment]


def train_worker(config: dict[str, Any]) -> None:
    """Runs in every Ray Train worker: the same run as alone, with an exchange."""
    import ray.train
    from ray.train.torch import get_device

    from distributed.runs import Job, execute

    given, arrays = Job(**config["job"]), ray.get(config["arrays"])
    exchange = Workers(given.config.scaling.global_norms)
    try:
        execute(given, exchange=exchange, device=get_device(), progress=ray.train.report, arrays=arrays)
    except Diverged as error:  # the same on every worker; trying again would only repeat it
        if exchange.rank == 0:
            write_file(f"{given.out}/{FAILURE}", str(error).encode())


def train_on_ray(job: Job) -> None:
    """Starts N workers for the job and waits; a lost worker starts the group again from the last saved epoch.

    The states of a run are its own (checkpoints.States), the same alone, here and in a trial; Ray Train keeps none.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from distributed import jobs

    States(f"{job.out}/state").load()  # refuses those of another version here, where nothing starts it again
    outputs, path = filesystem(job.out)
    if outputs.get_file_info(f"{path}/{FAILURE}").type.name == "File":  # of an earlier start
        outputs.delete_file(f"{path}/{FAILURE}")
    scaling = job.config.scaling
    workers: Any = (scaling.min_workers, scaling.workers) if scaling.min_workers else scaling.workers
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": scaling.gpus_per_worker} if scaling.gpus_per_worker else {})
    elastic = {"elastic_resize_monitor_interval_s": 5.0} if scaling.min_workers else {}
    files, folder = filesystem(f"{job.out}/ray")  # Ray Train's own notes; all nodes must see it, as they must see the run
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "job": dataclasses.asdict(dataclasses.replace(job, resume=True)),  # resume: a group that starts again
            "arrays": jobs.share(job.shards, dict(job.settings), ("train", "val", "test") if job.test else ("train", "val")),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=scaling.gpus_per_worker > 0, resources_per_worker=resources, placement_strategy="SPREAD", **elastic
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
    raise Failed(failure)
