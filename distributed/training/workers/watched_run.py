"""A run on several workers, whose epochs reach the calling process while it waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from distributed.runtime.storage import read_json_object
from distributed.training.progress.recorder import read_history
from distributed.training.results import METRICS_FILE, RunMetrics
from distributed.training.spec import RunSpec
from distributed.training.states import states_of
from distributed.training.workers.epoch_queue import EpochQueue, SendEpochs
from distributed.training.workers.ray_train import train_on_ray

SECONDS_BETWEEN_CHECKS = 0.3  # of whether the user has asked to stop
SECONDS_FOR_LAST_EPOCHS = 10.0  # that may still be under way when the workers have ended


@dataclass
class TrainingEnded:
    """The last message of the training thread, with the error that ended it."""

    error: BaseException | None = None


class RunMessages:
    """Trains in threads of its own and collects what happens: epochs, and then the end."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec, self.epochs = spec, EpochQueue()
        self.messages: queue.SimpleQueue[dict[str, float] | TrainingEnded] = queue.SimpleQueue()
        self.receiver = threading.Thread(target=self._receive, name="epochs", daemon=True)
        self.receiver.start()
        threading.Thread(target=self._train, name="trainer", daemon=True).start()

    def next(self, seconds: float) -> dict[str, float] | TrainingEnded | None:
        """The next message; None if there is none within these seconds."""
        try:
            return self.messages.get(timeout=seconds)
        except queue.Empty:
            return None

    def _receive(self) -> None:
        for metrics in self.epochs.received():
            self.messages.put(metrics)

    def _train(self) -> None:
        ended = TrainingEnded()
        try:
            train_on_ray(self.spec, [SendEpochs(self.epochs)])
        except BaseException as error:
            ended.error = error
        self.epochs.put(None)  # after the last epoch
        self.receiver.join(SECONDS_FOR_LAST_EPOCHS)
        self.messages.put(ended)


def run_on_workers(
    spec: RunSpec,
    progress: Callable[[dict[str, float]], object] = lambda metrics: None,
    check_stop: Callable[[], None] = lambda: None,
) -> RunMetrics:
    """Trains on scaling.workers workers and returns the metrics of the run.

    progress: gets every epoch that the run adds to its history, each once.
    check_stop: called several times a second; raises to stop waiting.

    Ray Train runs in a separate thread, because its blocking wait does not react to signals.
    `progress`, where Tune stops a trial, and `check_stop`, where signals stop a run, may raise in
    the calling thread; the process then ends, and with it the trainer and its workers.
    """
    # A state of another version or run is refused here, where nothing starts the workers again.
    states = states_of(spec)
    state = states.load() if states else None
    last = float(state["epoch"]) if state else 0.0

    def pass_on(epochs: list[dict[str, float]]) -> None:
        nonlocal last
        for metrics in epochs:
            if metrics["epoch"] > last:
                last = metrics["epoch"]
                progress(metrics)

    messages = RunMessages(spec)
    while not isinstance(message := messages.next(SECONDS_BETWEEN_CHECKS), TrainingEnded):
        check_stop()
        if message is None:
            continue
        if message["epoch"] > last + 1:  # a report was lost with a worker
            pass_on(read_history(spec.out))
        pass_on([message])
    check_stop()
    if message.error is not None:
        raise message.error
    pass_on(read_history(spec.out))
    return RunMetrics.from_dict(read_json_object(f"{spec.out}/{METRICS_FILE}"))
