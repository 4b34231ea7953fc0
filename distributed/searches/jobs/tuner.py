"""Runs a searcher's jobs under Ray Tune: without output of its own, in reused processes, and with
failures kept to the trial in which they happen.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from distributed.runtime.errors import Failure, full_disk_message
from distributed.runtime.redaction import is_secret_variable, redact
from distributed.runtime.signals import StopRequest
from distributed.searches.choosing.baselines import STARTING_POINTS
from distributed.searches.jobs.searcher import DiskFull, Searcher
from distributed.searches.state.records import CONFIGURATIONS
from distributed.shards.sharing import SplitArraysRef

# Tune writes no files of its own into the experiment, is not strict about names, and is quiet.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # not needed: the study and the records are the state
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the searcher limits how many run at a time
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
}
# Where the first configurations all fail, and there are this many, no setting is the cause.
FIRST_FAILURES = 5


class EveryTrialFailed(Failure):
    """All first configurations have failed."""


class _StopRequested(Exception):
    """Leaves Tune's loop after a signal, on a full disk or on damaged shards: Tune stops its trials
    on an Exception, not on a KeyboardInterrupt.
    """


class _NotPickled:
    """Tune pickles its callbacks and stoppers for a restore of its own, which is not used here."""

    def __reduce__(self) -> Any:
        return object, ()

    def __deepcopy__(self, memo: Any) -> Any:
        return self


@dataclass(frozen=True)
class TrialProcess:
    """How Tune runs a trial.

    resources: what it reserves for one.
    reuse: keep the process for the next trial. With workers of its own a reused process fails after
        an early stop.
    """

    resources: Mapping[str, float]
    reuse: bool = True


def run(
    searcher: Searcher,
    trainable: Callable[[dict[str, Any]], None],
    stopper: tune.schedulers.TrialScheduler,
    process: TrialProcess,
    *,
    on_step: Callable[[], None] | None = None,
    request: StopRequest | None = None,
) -> None:
    """Returns when the searcher has finished.

    Raises Interrupted after a signal, what has stopped the searcher, and EveryTrialFailed.

    on_step: called between two events of Tune's.
    request: whether the user wants to stop.
    """
    request = request or StopRequest()
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _keep_secrets_here()
    folder = tempfile.mkdtemp(prefix="search-")
    try:
        tune.Tuner(
            tune.with_resources(trainable, dict(process.resources)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=stopper,
                num_samples=-1,
                reuse_actors=process.reuse,
                trial_name_creator=lambda trial: trial.config["name"],
                trial_dirname_creator=lambda trial: f"{trial.config['name']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
                callbacks=[_Events(searcher, on_step, request)],
                stop=_Deadline(searcher),
            ),
        ).fit()
    except _StopRequested:
        request.raise_if_received()
        assert searcher.stop_error is not None
        raise searcher.stop_error from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep_secrets_here() -> None:
    """Keeps Tune from sending this process's AWS keys to its trials.

    It would send them in a runtime environment, which Ray logs and the dashboard shows. A trial has
    those of its own node's environment, as every other worker.
    """
    class_cache.ENV_VARS_TO_PROPAGATE = {
        name for name in class_cache.ENV_VARS_TO_PROPAGATE if not is_secret_variable(name)
    }


class _Deadline(_NotPickled, tune.Stopper):
    """Stops the trials of the search, and only these, once the time budget is spent.

    The starting point runs to its end, so that there is something to recommend.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        if self.searcher.searching or result.get("final"):
            return False
        job = self.searcher.jobs.get(trial_id)
        if job is None or job.label in STARTING_POINTS:
            return False
        return job.kind in CONFIGURATIONS

    def stop_all(self) -> bool:
        return False


class _Events(_NotPickled, tune.Callback):
    """Passes every epoch to the records, and looks for signals between two events."""

    def __init__(
        self, searcher: Searcher, on_step: Callable[[], None] | None, request: StopRequest
    ) -> None:
        self.searcher = searcher
        self.on_step = on_step
        self.request = request

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.log.restart_clock(trial.config["name"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        if "epoch" in result and not result.get("final") and trial.trial_id in self.searcher.jobs:
            self.searcher.log.add_epoch(trial.config["name"], result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.searcher.stopping_on_full_disk():
            self.searcher.log.explain_failure(trial.config["name"], death_reason(trial.error_file))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Stops the search where a full disk ended the trial's process, which Tune starts again."""
        if message := full_disk_message(OSError(error_text(trial.error_file))):
            self.searcher.stop(DiskFull(message))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.request.received:
            self.searcher.interrupted = True
        if self.on_step:
            self.on_step()
        if self.request.received or self.searcher.stop_error:
            raise _StopRequested
        ended = [r for r in self.searcher.log.configurations() if r.state != "running"]
        if len(ended) >= FIRST_FAILURES and all(r.state == "failed" for r in ended):
            raise EveryTrialFailed(
                f"the first {len(ended)} configurations all failed;"
                f" the last one: {ended[-1].reason}"
            )


def error_text(error_file: str | None) -> str:
    """The content of the file that Tune writes about an error, as one line without secrets."""
    try:
        return redact(" ".join(Path(error_file or "").read_text().split()))
    except OSError:
        return ""


def death_reason(error_file: str | None) -> str:
    """Why a trial's process ended, in one line, from the file that Tune writes."""
    error = error_text(error_file)
    # Ray's text on other deaths lists OOM among "Some common causes".
    if "OutOfMemory" in error or "OOM" in error.partition("Some common causes")[0]:
        return "out of memory: its process was killed"
    if not error or "died" in error or "unavailable" in error:
        return "its process died: out of memory, or killed from outside"
    return error[-300:]


def run_trial(job: dict[str, Any], context: dict[str, Any]) -> None:
    """Runs a trial in its own process, where the first trial loads torch for all that follow.

    context: fields of trial.TrialContext, a class that the driver does not load.
    """
    from distributed.searches.jobs import trial  # the driver, which loads this file, needs no torch

    trial.run(job, trial.TrialContext(**context))


def make_trainable(
    *,
    shards: str,
    base: Mapping[str, Any],
    metrics: list[str],
    folder: str,
    arrays: SplitArraysRef | None,
    ensemble: int = 1,
    corrupt: str = "",
) -> Callable[[dict[str, Any]], None]:
    """Returns the function that Tune runs for every trial; its context is a TrialContext."""
    context = {
        "shards": shards,
        "base": dict(base),
        "metrics": metrics,
        "folder": folder,
        "arrays": arrays,
        "ensemble": ensemble,
        "corrupt": corrupt,
    }
    return functools.partial(run_trial, context=context)
