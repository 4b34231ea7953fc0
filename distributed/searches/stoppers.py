"""When a trial is stopped early: successive halving, Hyperband, the median rule, each with what an earlier sitting of the search knew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from distributed.searches.records import SearchRecord


class EarlierTrial:
    """A trial of an earlier sitting, as a stopper sees it."""

    def __init__(self, record: SearchRecord) -> None:
        self.trial_id, self.config = f"past-{record.name}", record.job.to_dict()


def recall(stopper: Any, records: Iterable[SearchRecord], metric: str) -> Any:
    """The stopper, with the epochs of trials that have ended: a resumed search is as strict as one that was never interrupted."""
    for record in records:
        results = [
            {"epoch": e["epoch"], "value": e[metric]}
            for e in record.history
            if math.isfinite(e.get(metric, math.nan))
        ]
        if results and record.state in ("complete", "stopped") and hasattr(stopper, "recall"):
            stopper.recall(EarlierTrial(record), results)
    return stopper


class _Spares:
    """Named configurations and replicates always run to their end; named ones still set the bar for others.

    An epoch in which the metric is undefined, such as the precision of a class that was never predicted, decides nothing; nor does the last
    one, after which there is nothing to save.
    """

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        kind = trial.config.get("kind", "search")
        if not _scored(result) or kind in ("replicate", "test"):
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(controller, trial, result)  # type: ignore[misc]
        spared = (
            kind != "search"
            or trial.config.get("label")
            or result["epoch"] >= result.get("epochs", math.inf)
        )
        return TrialScheduler.CONTINUE if spared else decision

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if _scored(result) and trial.config.get("kind", "search") in ("search", "named"):
            super().on_trial_complete(controller, trial, result)  # type: ignore[misc]


def _scored(result: Mapping[str, Any]) -> bool:
    value = result.get("value")
    return "epoch" in result and isinstance(value, int | float) and math.isfinite(value)


class Asha(_Spares, AsyncHyperBandScheduler):
    """Asynchronous successive halving; with several brackets, asynchronous Hyperband."""

    def recall(self, trial: Any, results: Sequence[dict[str, Any]]) -> None:
        self.on_trial_add(None, trial)
        for result in results:
            AsyncHyperBandScheduler.on_trial_result(self, None, trial, result)
        self.on_trial_remove(None, trial)


class Median(_Spares, MedianStoppingRule):
    """Stops a trial whose best value is below the median of the others' running means."""

    def recall(self, trial: Any, results: Sequence[dict[str, Any]]) -> None:
        self._results[trial].extend(results)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stops or goes on: a pause, which Ray's rule asks for while others wait, would cost a trial its last epochs."""
        if super().on_trial_result(controller, trial, result) == TrialScheduler.STOP:
            return TrialScheduler.STOP
        self._stopped_trials.discard(
            trial
        )  # Ray's rule asserts that what it wanted to stop never reports again
        return TrialScheduler.CONTINUE


def _asha(mode: str, epochs: int) -> Any:
    return _halving(mode, epochs, grace_period=_grace(epochs))


def _hyperband(mode: str, epochs: int) -> Any:
    return _halving(mode, epochs, grace_period=1, brackets=2)


def _halving(mode: str, epochs: int, **options: int) -> Any:
    kept = {"time_attr": "epoch", "metric": "value", "stop_last_trials": False}
    return Asha(mode=mode, max_t=max(epochs, 2), reduction_factor=3, **kept, **options)


def _median(mode: str, epochs: int) -> Any:
    return Median(
        time_attr="epoch",
        metric="value",
        mode=mode,
        grace_period=_grace(epochs),
        min_samples_required=3,
    )


def _none(mode: str, epochs: int) -> Any:
    return FIFOScheduler()


def _grace(epochs: int) -> int:
    """Nobody is stopped in the first fifth of the epochs."""
    return max(1, round(epochs / 5))


STOPPERS: dict[str, Callable[[str, int], Any]] = {
    "asha": _asha,
    "median": _median,
    "hyperband": _hyperband,
    "none": _none,
}
