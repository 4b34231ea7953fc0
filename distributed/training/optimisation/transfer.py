"""Brings batches to the device ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from model.batch import Batch

AHEAD = 2  # batches that are on their way while one is used


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields the batches on the device.

    On a GPU a thread of its own takes them, puts them into pinned memory, which a copy needs to run
    beside the computation, and copies them on a stream of its own. torch keeps the pinned memory of
    finished copies for the next ones.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def fetch() -> tuple[Batch, torch.cuda.Event] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.device(device), torch.cuda.stream(stream):
            copy = batch.apply(Tensor.pin_memory).to(device)
            return copy, stream.record_event()

    with ThreadPoolExecutor(1, thread_name_prefix="copy to the GPU") as thread:
        coming = deque(thread.submit(fetch) for _ in range(AHEAD))
        while (came := coming.popleft().result()) is not None:
            coming.append(thread.submit(fetch))
            batch, copied = came
            computing = torch.cuda.current_stream(device)
            computing.wait_event(copied)
            # Its memory must not be used for another batch before the computation is done with it.
            mark_used = partial(_mark_used, stream=computing)
            batch.apply(mark_used)
            for rows_R in batch.rows_M:  # `apply` leaves them out
                if rows_R is not None:
                    mark_used(rows_R)
            yield batch


def _mark_used(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    tensor.record_stream(stream)
    return tensor
