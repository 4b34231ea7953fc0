"""Runs the trainings of a study as Ray tasks: in what order, and how many at a time."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray

from distributed.config import ScalingConfig
from distributed.runtime import lease, ray_session
from distributed.runtime.errors import Failure, UnreadableData, full_disk_message, unreadable_data
from distributed.runtime.signals import stop_requests
from distributed.shards.layout import SPLITS
from distributed.shards.sharing import share_splits
from distributed.studies.data_sets import DataSet
from distributed.studies.definition import Cell, Settings
from distributed.studies.results import CellOutcome, TrainingOutcome
from distributed.studies.state import StudyState, Training
from distributed.training.workers.capacity import (
    check_fits,
    count_that_fit,
    required_resources,
)

REPORT_INTERVAL = 30.0  # seconds between two reports while the study runs
CACHE_SETTINGS = ("data.cache", "data.memory_share")
CANCEL_SECONDS = 2.0  # that a cancelled training has for its end
MAX_ERROR_LENGTH = 240  # characters of a Ray error that a row shows
TASK_RETRIES = 2  # of a task whose process died; a task that raises an error is not repeated


def run_trainings(
    state: StudyState, trainings: Sequence[Training], data_sets: Mapping[str, DataSet]
) -> None:
    """Runs every training as a Ray task and records its results when it ends.

    Raises Failure after Ctrl-C or SIGTERM; only the trainings in flight are lost then, and these go
    on from their last state when the study is resumed. The same after a Failure for a full disk and
    UnreadableData for damaged shards.
    """
    ray_session.start_ray(nested=True)
    for scaling in {training.config.scaling for training in trainings}:
        check_fits(scaling, "a training")
    schedule = Schedule(state, trainings, data_sets)
    with stop_requests(only_note=True) as request:
        while schedule.left and not request.received:
            schedule.start_tasks()
            # The report is written here, when all processes have work to do meanwhile.
            schedule.report_if_due()
            try:
                schedule.record_finished(timeout=1.0)
            except (Failure, UnreadableData):
                schedule.cancel()
                raise
        if not request.received:
            return
        schedule.stop()
    raise Failure(
        f"interrupted with {schedule.left} trainings left; "
        "add --resume to the same command to go on",
        128 + request.received,
    )


class Schedule:
    """The trainings of a study that wait and those that run, as Ray tasks."""

    def __init__(
        self,
        state: StudyState,
        trainings: Sequence[Training],
        data_sets: Mapping[str, DataSet],
    ) -> None:
        self.state = state
        self.data_sets = data_sets
        self.waiting = deque(trainings)
        self.running: dict[Any, Training] = {}  # by the reference of its task
        self.arrays = share_decoded_rows(trainings, data_sets)
        self.progress = Progress(len(trainings))
        self.reported_at = time.monotonic()
        self.has_news = False  # whether results have come since the last report

    @property
    def left(self) -> int:
        """How many trainings have not ended."""
        return len(self.waiting) + len(self.running)

    def start_tasks(self) -> None:
        """Starts waiting trainings in their order, as many as may be in flight."""
        while self.waiting and len(self.running) < max_tasks(self.waiting[0].config.scaling):
            training = self.waiting.popleft()
            reference = task_options(training.config.scaling).remote(
                self.data_sets[training.data].shards,
                [cell for _, cell in training.cells],
                self.arrays[decoding_key(training)],
                self.state.run_folder(training),
            )
            self.running[reference] = training

    def record_finished(self, timeout: float, wait_for: int = 1) -> None:
        """Records the results of tasks that have ended, after `wait_for` of them or the timeout.

        timeout: in seconds.
        """
        if not self.running:
            return
        ended, _ = ray.wait(list(self.running), num_returns=wait_for, timeout=timeout)
        for reference in ended:
            training = self.running.pop(reference)
            self.progress.print_line(self.state.record(training, outcome_of(reference, training)))
            self.has_news = True

    def report_if_due(self) -> None:
        """Writes a report if there are new results and the last one is some time ago."""
        if self.has_news and time.monotonic() - self.reported_at > REPORT_INTERVAL:
            self.write_report()
            self.reported_at, self.has_news = time.monotonic(), False

    def write_report(self) -> None:
        """Writes a report while cells are missing.

        A failure must not end the study, whose results are on disk already.
        """
        try:
            self.state.write_report()
        except Exception as error:
            print(f"no report so far: {type(error).__name__}: {error}", file=sys.stderr)

    def stop(self) -> None:
        """Records what has ended, cancels what runs, and writes a report.

        It only cancels if another process has taken the folder over.
        """
        is_lost = lease.is_lost(self.state.folder)
        if not is_lost:
            # A training that has ended has no state left from which a resume could go on.
            self.record_finished(timeout=0, wait_for=len(self.running))
        self.cancel()
        if not is_lost:
            self.write_report()

    def cancel(self) -> None:
        """Ends what runs, and takes the errors of it, which Ray would print if nobody did."""
        for reference in self.running:
            ray.cancel(reference, force=True)
        for reference in self.running:
            with suppress(ray.exceptions.RayError):
                ray.get(reference, timeout=CANCEL_SECONDS)


class Progress:
    """Prints a line for every training that has ended, with an estimate of the time left."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.started = time.monotonic()

    def print_line(self, line: str) -> None:
        self.done += 1
        seconds_each = (time.monotonic() - self.started) / self.done
        minutes = seconds_each * (self.total - self.done) / 60
        print(f"[{self.done}/{self.total}] {line}; about {minutes:.0f} min left", flush=True)


def share_decoded_rows(
    trainings: Sequence[Training], data_sets: Mapping[str, DataSet]
) -> dict[str, Any]:
    """References to the decoded rows in Ray's object store, by decoding_key."""
    needed = {decoding_key(training): training for training in trainings}
    return {
        key: share_splits(
            data_sets[training.data].shards, dict(cache_settings(training.first)), SPLITS
        )
        for key, training in needed.items()
    }


def decoding_key(training: Training) -> str:
    """Equal for trainings that share decoded rows, which have all modalities of a data set."""
    return json.dumps([training.data, cache_settings(training.first)], sort_keys=True)


def cache_settings(cell: Cell) -> Settings:
    """The cell's settings that say where decoded rows are kept."""
    return {name: value for name, value in cell.settings.items() if name in CACHE_SETTINGS}


def max_tasks(scaling: ScalingConfig) -> int:
    """How many tasks may be in flight.

    On one machine: as many as fit. Of tasks that wait, Ray may start the oldest last, and a study
    that is stopped would not have whole seeds. The same where trainings have workers of their own,
    since the task that waits for them requests no resources and would always start.
    On a cluster: twice as many, so that it never waits for the driver and an autoscaler sees
    demand.
    """
    fitting = count_that_fit(required_resources(scaling))
    if scaling.workers > 1 or not ray_session.in_cluster():
        return max(1, fitting)
    return 2 * max(2, fitting)


def task_options(scaling: ScalingConfig) -> Any:
    """The Ray task with the resources of one training.

    Several workers have resources of their own; the task that waits for them takes none.
    """
    alone = scaling.workers == 1
    return run_training_task.options(
        num_cpus=scaling.cpus_per_worker if alone else 0,
        num_gpus=scaling.gpus_per_worker if alone else 0,
        max_retries=TASK_RETRIES,
    )


@ray.remote
def run_training_task(
    shards: str, cells: Sequence[Cell], arrays: Mapping[str, Any], folder: str
) -> TrainingOutcome:
    """Runs one training in a process of its own.

    Ray sends a decorated function by value: the process does not load this module, with plotly.
    """
    # Loads torch, which the driver of a study must not.
    from distributed.studies.cell_runs import run_cells

    return run_cells(shards, cells, arrays, folder)


def outcome_of(reference: Any, training: Training) -> TrainingOutcome:
    """What the task returned; if its process died for good, failed cells with the reason.

    Raises Failure for a full disk and UnreadableData for damaged shards, which fail no cell.
    """
    try:
        outcome: TrainingOutcome = ray.get(reference)
        return outcome
    except ray.exceptions.RayError as error:
        if message := full_disk_message(error):
            raise Failure(
                f"{message}; make room, then add --resume to the same command to go on"
            ) from None
        if unreadable := unreadable_data(error):
            raise unreadable from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = lines[0] if lines else type(error).__name__
        reason = f"{type(error).__name__}: {text[:MAX_ERROR_LENGTH]}"
        failed = [CellOutcome(state="failed", reason=reason) for _ in training.cells]
        return TrainingOutcome(cells=failed, history=[])
