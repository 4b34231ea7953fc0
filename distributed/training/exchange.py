"""What the workers of a run share with each other: alone, or over torch.distributed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.training.workers.batch_norm import NORMS, use_global_statistics
from model.batch import Batch
from model.network import Network
from model.outputs import Outputs


class Exchange:
    """What one of `world` workers shares with the others. The default has one worker."""

    rank = 0
    world = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensor over all workers."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all workers, one worker after the other."""
        return tensor

    def wrap(self, network: Network) -> Callable[[Batch], Outputs]:
        """The callable that the training step runs; it averages gradients over the workers."""
        return network

    def without_averaging(
        self, forward: Callable[[Batch], Outputs]
    ) -> AbstractContextManager[None]:
        """Returns a context in which gradients are not averaged over the workers.

        They stay with this worker until the next averaged ones.
        """
        return nullcontext()

    def average_statistics(self, *networks: Network) -> None:
        """Averages the statistics that each worker computed from its own rows alone."""


class WorkerExchange(Exchange):
    """The exchange of a worker in the torch.distributed group that Ray Train has set up.

    global_norms: batch statistics are of the global batch, not of the worker's share.
    """

    def __init__(self, global_norms: bool = True) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.global_norms = global_norms

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all workers in rank order; workers may have different numbers of rows."""
        rows = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(self.world)]
        dist.all_gather(rows, torch.tensor([len(tensor)], device=tensor.device))
        max_rows = max(int(count) for count in rows)
        dtype = torch.uint8 if tensor.dtype == torch.bool else tensor.dtype
        padded = tensor.new_zeros((max_rows, *tensor.shape[1:]), dtype=dtype)
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        own_rows = [part[: int(count)] for part, count in zip(parts, rows, strict=True)]
        return torch.cat(own_rows).to(tensor.dtype)

    def wrap(self, network: Network) -> Callable[[Batch], Outputs]:
        if self.global_norms:
            use_global_statistics(network)
        # Buffers (running means, batch statistics) come from global sums, so they are equal
        # on all workers without a broadcast; those that are not are averaged once per epoch.
        with warnings.catch_warnings():
            # DDP warns that broadcast_buffers has a new name, which older versions lack.
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def without_averaging(
        self, forward: Callable[[Batch], Outputs]
    ) -> AbstractContextManager[None]:
        return forward.no_sync()  # type: ignore[attr-defined, no-any-return]  # of DDP

    def average_statistics(self, *networks: Network) -> None:
        """Averages the running batch statistics, unless they are global and equal already."""
        if self.global_norms:
            return
        norms = (m for network in networks for m in network.modules() if isinstance(m, NORMS))
        for norm in norms:
            for statistic_C in (norm.running_mean, norm.running_var):
                if statistic_C is not None:  # a frozen one is the same afterwards
                    statistic_C.copy_(self.sum(statistic_C.double()) / self.world)
