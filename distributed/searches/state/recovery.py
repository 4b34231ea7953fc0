"""Brings Optuna's study and the records of a search in line after a kill, or a loss of either."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from distributed.runtime.errors import OptionError
from distributed.searches.choosing.spaces import Space, answer, probe
from distributed.searches.state.records import (
    SearchJob,
    SearchRecord,
    SettingValues,
    is_finite,
)
from model.metrics import names

OPTUNA_STATES = {
    "complete": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
RECORD_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped"}


def trial_name(trial: optuna.Trial | FrozenTrial) -> str:
    """The name of a trial's job: its number in four digits."""
    return f"{trial.number:04d}"


def objectives(metrics: Sequence[str], values_of: Mapping[str, float | None]) -> list[float]:
    """The values that Optuna optimises; NaN where one is undefined or absent."""
    values: Iterable[float | None] = (values_of.get(name) for name in metrics)
    return [math.nan if value is None else float(value) for value in values]


def smooth_values(metric: str, metrics: Mapping[str, float | None]) -> dict[str, float]:
    """What a trial has in the study beside its objectives: the deciding metric's smooth form."""
    name = names.smooth_metric(metric)
    value = metrics.get(name)
    return {name: value} if name != metric and is_finite(value) else {}


def rebuild_record(
    frozen: FrozenTrial, space: Space, pins: SettingValues, metrics: Sequence[str]
) -> SearchRecord:
    """The record of a finished trial that was lost with the driver, from Optuna's study.

    metrics: the names of the search's metrics; the first one decides.
    """
    metric = metrics[0]
    job = SearchJob(
        name=trial_name(frozen),
        kind="search",
        label=str(frozen.user_attrs.get("label", "")),
        settings=probe(space, frozen.params, pins) or dict(frozen.params),
        number=frozen.number,
    )
    history: list[dict[str, float]] = [
        {"epoch": epoch, metric: value}
        for epoch, value in sorted(frozen.intermediate_values.items())
    ]
    state = RECORD_STATES.get(frozen.state, "failed")
    values: dict[str, float | None] = {metric: history[-1][metric]} if history else {}
    if state == "complete":
        values = {**smooth_values(metric, frozen.user_attrs), **dict(zip(metrics, frozen.values))}
    return SearchRecord(
        job,
        state=state,
        reason="its record was lost with the driver" if state == "failed" else "",
        epoch=int(history[-1]["epoch"]) if history else 0,
        metrics=values,
        history=history,
        started=frozen.datetime_start.timestamp() if frozen.datetime_start else 0.0,
        seconds=frozen.duration.total_seconds() if frozen.duration else 0.0,
    )


def restore_trials(
    study: optuna.Study,
    records: Iterable[SearchRecord],
    space: Space,
    pins: SettingValues,
    owner: str,
    metrics: Sequence[str],
) -> None:
    """Adds to the study the finished trials that it lacks and the records have.

    A journal that was lost, or cut at its end, would otherwise give their numbers to other
    configurations. Numbers of trials that had no record yet are filled with failed trials that
    belong to no search.
    """
    restored = 0
    finished = [record for record in records if record.job.number is not None]
    for record in sorted(finished, key=lambda record: record.job.number or 0):
        number = record.job.number or 0
        trials = study.get_trials(deepcopy=False)
        if number < len(trials):
            present = trials[number]
            if present.user_attrs.get("owner", owner) != owner:
                raise OptionError(
                    f"storage must hold the trials of this search; trial {number} of the study"
                    f" {study.study_name!r} there is another search's",
                    "storage",
                )
            if "owner" not in present.user_attrs and not present.state.is_finished():
                # The journal was cut between the trial and its owner.
                optuna.Trial(study, present._trial_id).set_user_attr("owner", owner)
            continue
        for _ in range(number - len(trials)):
            study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
        study.add_trial(_trial_of(record, space, pins, owner, metrics))
        restored += 1
    if restored:
        study.sampler.reseed_rng()  # its seed follows from the number of trials it has seen
        print(
            f"note: Optuna's study had lost {restored} trials of {len(finished)};"
            " they were restored from the records",
            file=sys.stderr,
        )


def _trial_of(
    record: SearchRecord, space: Space, pins: SettingValues, owner: str, metrics: Sequence[str]
) -> FrozenTrial:
    """The trial of a finished record, as Optuna's study would hold it."""
    answered = answer(space, record.job.settings, pins)
    values = objectives(metrics, record.metrics)
    state = OPTUNA_STATES[record.state]
    if state == TrialState.COMPLETE and not all(map(is_finite, values)):
        state = TrialState.FAIL
    curve = {
        int(entry["epoch"]): entry[metrics[0]]
        for entry in record.history
        if len(metrics) == 1 and is_finite(entry.get(metrics[0]))
    }
    return optuna.trial.create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=answered.params if answered else {},
        distributions=answered.distributions if answered else {},
        user_attrs={
            "owner": owner,
            "label": record.job.label,
            **smooth_values(metrics[0], record.metrics),
        },
        intermediate_values=curve,
    )
