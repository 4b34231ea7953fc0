"""Runs a searcher's jobs under Ray Tune: quiet, in reused actors, with failures kept to the trial they happen in."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed.runtime.signals import StopRequest

# Before Tune is imported: no files of its own in the experiment (it has better ones), no strictness about names, no noise.
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the study and the records are the state
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the searcher says how many trials there are at a time
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
}
FIRST_FAILURES = (
    5  # a search of which the first so many jobs all fail has a cause that no setting will cure
)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; what was running goes on at --resume."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class EveryTrialFailed(Exception):
    """Everything fails from the start."""


class Unpickled:
    """Tune pickles what it is given for a restore of its own, which is not used here."""

    def __reduce__(self) -> Any:
        return object, ()

    def __deepcopy__(self, memo: Any) -> Any:
        return self


def run(
    searcher: Any,
    trainable: Callable[[dict[str, Any]], Any],
    stopper: Any,
    *,
    resources: Mapping[str, float],
    reuse_actors: bool = True,
    on_step: Callable[[], None] | None = None,
    request: StopRequest | None = None,
) -> None:
    """Returns when the searcher has finished; raises Interrupted or Hopeless."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    from ray import tune

    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    folder = tempfile.mkdtemp(prefix="search-")
    try:
        tune.Tuner(
            tune.with_resources(trainable, dict(resources)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=stopper,
                num_samples=-1,
                reuse_actors=reuse_actors,
                trial_name_creator=lambda trial: trial.config["name"],
                trial_dirname_creator=lambda trial: f"{trial.config['name']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
                callbacks=[_watch(searcher, on_step, request or StopRequest())],
                stop=_deadline(searcher),
            ),
        ).fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _deadline(searcher: Any) -> Any:
    """Stops the trials of the search, and only those, once the time budget is spent."""
    from ray.tune import Stopper

    class Deadline(Unpickled, Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            job = searcher.jobs.get(trial_id)
            return (
                not searcher.searching
                and job is not None
                and job.kind in ("search", "named")
                and not result.get("final")
            )

        def stop_all(self) -> bool:
            return False

    return Deadline()


def _watch(searcher: Any, on_step: Callable[[], None] | None, request: StopRequest) -> Any:
    from ray.tune import Callback

    class Watch(Unpickled, Callback):  # type: ignore[misc]
        """Passes every epoch to the experiment's records, and looks for signals between two events."""

        def on_trial_start(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            searcher.experiment.begin(trial.config["name"])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if "epoch" in result and not result.get("final") and trial.trial_id in searcher.jobs:
                searcher.experiment.progress(trial.config["name"], result)

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            searcher.experiment.explain(trial.config["name"], death(trial.error_file))

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            searcher.interrupted = bool(request.received)
            if on_step:
                on_step()
            if request.received:
                raise Interrupted(request.received)
            ended = [r for r in searcher.experiment.configurations() if r.state != "running"]
            if len(ended) >= FIRST_FAILURES and all(r.state == "failed" for r in ended):
                raise EveryTrialFailed(
                    f"the first {len(ended)} configurations all failed; the last one: {ended[-1].reason}"
                )

    return Watch()


def death(error_file: str | None) -> str:
    """Why a trial's process ended, in one line, from what Tune wrote down."""
    try:
        words = " ".join(Path(error_file or "").read_text().split())
    except OSError:
        words = ""
    if "OutOfMemory" in words or "OOM" in words.partition("Some common causes")[0]:
        return "out of memory: its process was killed"
    if not words or "died" in words or "unavailable" in words:
        return "its process died: out of memory, or killed from outside"
    return words[-300:]


def run_trial(config: dict[str, Any], plan: dict[str, Any]) -> None:
    """A trial, in its own process; torch is loaded there once, since processes are used again."""
    from distributed.searches import trial

    trial.trainable(config, trial.TrialContext(**plan))


def make_trainable(
    shards: str, base: dict[str, Any], metrics: list[str], folder: str, arrays: Any
) -> Callable[[dict[str, Any]], None]:
    """What Tune runs."""
    return functools.partial(
        run_trial,
        plan={
            "shards": shards,
            "base": base,
            "metrics": metrics,
            "folder": folder,
            "arrays": arrays,
        },
    )
