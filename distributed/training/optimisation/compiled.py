"""The network as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from model.batch import Batch
from model.outputs import Outputs


class CompiledForward:
    """A network, or what wraps it for several workers, that torch.compile turns into one graph.

    The graph is made for any number of records, so that a last batch of fewer records, or a
    worker's share of one, compiles nothing anew. options: of torch.compile.
    """

    def __init__(self, forward: Callable[[Batch], Outputs], **options: Any) -> None:
        self.forward = forward
        self.compiled = torch.compile(forward, fullgraph=True, **options)

    def __call__(self, batch: Batch) -> Outputs:
        batch.apply(_of_any_length)
        for rows_R in batch.rows_M:
            if rows_R is not None:
                _of_any_length(rows_R)
        return self.compiled(batch)

    def no_sync(self) -> AbstractContextManager[None]:
        """Returns the context of DDP in which gradients are not averaged."""
        return self.forward.no_sync()  # type: ignore[attr-defined, no-any-return]  # of DDP


def _of_any_length(tensor: Tensor) -> Tensor:
    torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor
