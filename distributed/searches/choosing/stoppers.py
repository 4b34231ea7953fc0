"""When a weak trial is stopped early: successive halving, Hyperband or the median rule.

Trials are ranked by the smooth form of the search's metric (model/metrics/names.py): after a third
of the epochs a few rows of a rare class would decide about accuracies. What wins in the end is the
user's metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from distributed.searches.state.records import (
    AFTER_TRIALS,
    CONFIGURATIONS,
    SearchRecord,
    is_finite,
)
from model.metrics import names

EpochResult = Mapping[str, Any]  # of an epoch, as a trial reports it to Ray Tune
AnyTrial = Any  # one of Ray Tune's trials, or an EarlierTrial


class EarlierTrial:
    """A trial of an earlier process of the search, with the attributes that a stopper reads."""

    def __init__(self, record: SearchRecord) -> None:
        self.trial_id, self.config = f"past-{record.name}", record.job.to_dict()


@runtime_checkable
class RecallingStopper(Protocol):
    """A stopper that can take in the epochs of earlier trials.

    ranked_by: the metric that it compares; empty: a trial's value, which is the search's metric.
    """

    ranked_by: str

    def recall(self, trial: EarlierTrial, results: Sequence[EpochResult]) -> None: ...


def make_stopper(name: str, metric: str, epochs: int) -> TrialScheduler:
    """Returns the stopper of that name for a search by that metric.

    epochs: of a whole trial.
    """
    ranked_by = names.smooth_metric(metric)
    stopper = STOPPERS[name](names.metric(ranked_by).direction, epochs)
    if isinstance(stopper, RecallingStopper):
        stopper.ranked_by = ranked_by
    return stopper


def recall(stopper: TrialScheduler, records: Iterable[SearchRecord], metric: str) -> TrialScheduler:
    """Gives the stopper the epochs of trials that have ended, and returns it.

    So a resumed search is as strict as one that was never interrupted.
    """
    if not isinstance(stopper, RecallingStopper):
        return stopper
    compared = stopper.ranked_by or metric
    for record in records:
        results = [
            {"epoch": entry["epoch"], "value": entry[compared]}
            for entry in record.history
            if is_finite(entry.get(compared))
        ]
        if results and record.state in ("complete", "stopped"):
            stopper.recall(EarlierTrial(record), results)
    return stopper


class _Exemptions:
    """Mixed into Ray's stoppers: what they compare, and what they may not decide about.

    Baselines, replicates and folds always run to their end; the values of baselines still count.
    An epoch in which the metric is undefined, such as the precision of a class that was never
    predicted, decides nothing; nor does the last one, after which there is nothing to save.
    """

    ranked_by = ""

    def _compared(self, result: EpochResult) -> EpochResult:
        """The result with the metric that ranks as its value."""
        if not self.ranked_by:
            return result
        # Ray Tune flattens the results of a trial: metrics/accuracy.
        return {**result, "value": result.get(f"metrics/{self.ranked_by}")}

    def on_trial_result(self, controller: object, trial: AnyTrial, result: EpochResult) -> str:
        result = self._compared(result)
        kind = trial.config.get("kind", "search")
        if not _is_scored(result) or kind in AFTER_TRIALS:
            return str(TrialScheduler.CONTINUE)
        decision: str = super().on_trial_result(controller, trial, result)  # type: ignore[misc]
        is_baseline = kind != "search" or trial.config.get("label")
        is_last_epoch = result["epoch"] >= result.get("epochs", math.inf)
        return str(TrialScheduler.CONTINUE) if is_baseline or is_last_epoch else decision

    def on_trial_complete(self, controller: object, trial: AnyTrial, result: EpochResult) -> None:
        result = self._compared(result)
        if _is_scored(result) and trial.config.get("kind", "search") in CONFIGURATIONS:
            super().on_trial_complete(controller, trial, result)  # type: ignore[misc]


def _is_scored(result: EpochResult) -> bool:
    return "epoch" in result and is_finite(result.get("value"))


class Halving(_Exemptions, AsyncHyperBandScheduler):
    """Asynchronous successive halving (ASHA); with several brackets, asynchronous Hyperband."""

    def recall(self, trial: EarlierTrial, results: Sequence[EpochResult]) -> None:
        # Its types want Ray's controller and Ray's trials, of which it reads nothing here.
        rule: Any = AsyncHyperBandScheduler
        rule.on_trial_add(self, None, trial)
        for result in results:
            rule.on_trial_result(self, None, trial, result)
        rule.on_trial_remove(self, None, trial)


class Median(_Exemptions, MedianStoppingRule):
    """Stops a trial whose best value is below the median of the other trials' running means."""

    def recall(self, trial: EarlierTrial, results: Sequence[EpochResult]) -> None:
        self._results[trial].extend(results)

    def on_trial_result(self, controller: object, trial: AnyTrial, result: EpochResult) -> str:
        """Stops or continues. A pause, as Ray's rule wants while others wait, would cost the trial
        its last epochs.
        """
        if super().on_trial_result(controller, trial, result) == TrialScheduler.STOP:
            return str(TrialScheduler.STOP)
        # Ray's rule asserts that a trial that it wanted to stop never reports again.
        self._stopped_trials.discard(trial)
        return str(TrialScheduler.CONTINUE)


def _asha(mode: str, epochs: int) -> TrialScheduler:
    return _halving(mode, epochs, grace_period=_first_deciding_epoch(epochs))


def _hyperband(mode: str, epochs: int) -> TrialScheduler:
    return _halving(mode, epochs, grace_period=_first_deciding_epoch(epochs), brackets=2)


def _halving(mode: str, epochs: int, **options: int) -> TrialScheduler:
    return Halving(
        time_attr="epoch",
        metric="value",
        mode=mode,
        max_t=max(epochs, 2),
        reduction_factor=2,  # after one and after two thirds
        stop_last_trials=False,
        **options,
    )


def _median(mode: str, epochs: int) -> TrialScheduler:
    return Median(
        time_attr="epoch",
        metric="value",
        mode=mode,
        grace_period=_first_deciding_epoch(epochs),
        min_samples_required=3,
    )


def _none(mode: str, epochs: int) -> TrialScheduler:
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def _first_deciding_epoch(epochs: int) -> int:
    """No trial is stopped before a third of its epochs."""
    return max(1, math.ceil(epochs / 3))


# name -> function of (`min` or `max`, epochs of a whole trial)
STOPPERS: dict[str, Callable[[str, int], TrialScheduler]] = {
    "asha": _asha,
    "median": _median,
    "hyperband": _hyperband,
    "none": _none,
}
