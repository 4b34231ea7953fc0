"""TODO"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from model.batch import Batch
from model.network import Network
from model.outputs import Outputs


class Exchange:
    """What one of N workers shares with the others; this one is alone. distributed/worker.py has the one over torch.distributed."""

    rank, world = 0, 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all workers, one after the other."""
        return tensor

    def wrap(self, network: Network) -> Callable[[Batch], Outputs]:
        """The callable that the training step runs, with gradients averaged over workers."""
        return network

    def hold(self, forward: Callable[[Batch], Outputs]) -> AbstractContextManager[None]:
        """Gradients of what runs in it stay with the worker; the next ones to be averaged take them along."""
        return nullcontext()

    def agree(self, *networks: Network) -> None:
        """Makes equal what each worker learned from its own rows alone."""
