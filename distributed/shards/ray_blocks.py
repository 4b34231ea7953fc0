"""The blocks that Ray Data makes of a dataset, and its executor's pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

STEP_SECONDS = 0.02  # between two steps of Ray Data's executor, at least
LONGEST_STOP_SECONDS = 10.0  # until the executor's thread has ended; a step of it takes 0.1


class PacedExecutor(ExecutionCallback):
    """Lets Ray Data's executor, a thread of this process, look at its tasks 50 times a second.

    As long as the object store holds as much as it may, it would look again and again: that takes
    a third of a core, and the interpreter lock from training and decoding.
    """

    def before_execution_starts(self, executor: object) -> None:
        self._last = time.monotonic()

    def on_execution_step(self, executor: object) -> None:
        time.sleep(max(0.0, self._last + STEP_SECONDS - time.monotonic()))
        self._last = time.monotonic()


class Blocks:
    """The blocks of a dataset in their order, for one thread, as long as they are wanted.

    When the iteration has ended, or was left and closed, no thread of Ray Data is left.
    Dataset.iter_batches takes the blocks in four threads of its own, which it does not wait for
    where its user leaves it before the end. What such a thread lets go of once Ray has been shut
    down makes Ray end the process.
    """

    def __init__(self, data: ray.data.Dataset) -> None:
        self._data = data
        # What Dataset.iter_internal_ref_bundles does, which keeps the executor to itself.
        self._executor = data._create_executor()
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        for reference in self.references():
            yield ray.get(reference)

    def references(self) -> Iterator[ray.ObjectRef[Any]]:
        """Yields the blocks where they are, in the object store of some machine."""
        try:
            if self._stopped.is_set():
                return
            for bundle in self._data._build_bundle_iterator(self._executor):
                for entry in bundle.blocks:
                    if self._stopped.is_set():
                        return
                    # Ray declares another class of the same name, for its documentation.
                    yield cast("ray.ObjectRef[Any]", entry.ref)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the execution, and the iteration, which may wait for a block in another thread."""
        self._stopped.set()
        # Tasks that wait for room in the object store end only by force.
        self._executor.shutdown(force=True)
        if self._executor.is_alive():
            self._executor.join(LONGEST_STOP_SECONDS)
