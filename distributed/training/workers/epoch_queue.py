"""Carries the metrics of every epoch from Ray Train's controller to the process that waits.

Ray Tune's TuneReportCallback is not used: its queue and the trial's own reports share one slot,
so that a trial that reports its end while its last epoch still waits in the queue never ends.
No torch is loaded here, since the controller imports this module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray
import ray.train
from ray.exceptions import RayError
from ray.util.queue import Queue

NODE_LABEL = "ray.io/node-id"


class EpochQueue:
    """A queue of epochs' metrics between processes."""

    def __init__(self) -> None:
        # On the node of this process, so that it is not lost with another one; without a CPU,
        # since the workers may hold them all.
        node = ray.get_runtime_context().get_node_id()
        self.queue = Queue(actor_options={"num_cpus": 0, "label_selector": {NODE_LABEL: node}})

    def put(self, metrics: dict[str, float] | None) -> None:
        """Appends an epoch's metrics; None marks the end. A queue that is gone is no error."""
        if not ray.is_initialized():  # the process is ending; a call would start Ray again
            return
        with contextlib.suppress(RayError):
            self.queue.put(metrics)

    def received(self) -> Iterator[dict[str, float]]:
        """The metrics that are put into the queue, waiting for each, until its end."""
        with contextlib.suppress(RayError):
            while ray.is_initialized() and (metrics := self.queue.get()) is not None:
                yield metrics


class SendEpochs(ray.train.UserCallback):
    """Puts what the workers report into a queue; runs in Ray Train's controller."""

    def __init__(self, epochs: EpochQueue) -> None:
        self.epochs = epochs

    def after_report(
        self, run_context: object, metrics: list[dict[str, float]], checkpoint: object
    ) -> None:
        self.epochs.put(metrics[0])  # every worker reports the same
