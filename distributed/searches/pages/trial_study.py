"""Rebuilds the trials of a search as an Optuna study in memory, which its figures are drawn from.

Trials are rows `{dotted name of a setting or metric: value}`, with the trial's name under TRIAL.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from distributed.reporting.figure_style import short_label
from model.metrics.names import Metric

Trials = Sequence[Mapping[str, object]]
TRIAL = "trial"  # of a row: the name of the configuration, for tooltips


def is_usable(value: object) -> bool:
    """Returns whether a trial has this value: it is set, and finite if it is a number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is not None and value != ""


def varied(trials: Trials, names: Iterable[str]) -> list[str]:
    """Returns the names that take at least two values."""
    return [
        name for name in names if len({str(t[name]) for t in trials if is_usable(t.get(name))}) > 1
    ]


def with_metrics(trials: Trials, *metrics: Metric) -> list[Mapping[str, object]]:
    """Returns the trials that have a value of every one of these metrics."""
    return [t for t in trials if all(is_usable(t.get(metric.name)) for metric in metrics)]


def shown_value(trial: Mapping[str, object], metric: Metric) -> float:
    """Returns a trial's value of a metric as figures show it: percentages for shares."""
    return number(trial[metric.name]) * metric.scale


def rebuild_study(rows: Trials, names: Sequence[str], *metrics: Metric) -> optuna.Study:
    """Returns a study in memory with one finished trial for each row, its values as shown.

    names: the settings that the trials get; each must take at least two values.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # otherwise it logs every new study
    study = optuna.create_study(
        directions=["minimize" if metric.lower_is_better else "maximize" for metric in metrics]
    )
    settings = {name: DrawnSetting(rows, name) for name in names}
    for row in rows:
        present = [name for name in names if is_usable(row.get(name))]
        study.add_trial(
            optuna.create_trial(
                params={name: settings[name].value(row[name]) for name in present},
                distributions={name: settings[name].distribution for name in present},
                values=[shown_value(row, metric) for metric in metrics],
            )
        )
    return study


class DrawnSetting:
    """The values of one setting as an Optuna distribution: numbers as floats, all else as texts."""

    distribution: BaseDistribution

    def __init__(self, rows: Trials, name: str) -> None:
        values = [row[name] for row in rows if is_usable(row.get(name))]
        numbers = [float(value) for value in values if is_number(value)]
        self.labels: dict[str, str] = {}
        if len(numbers) == len(values):
            self.distribution = FloatDistribution(
                min(numbers), max(numbers), log=reads_better_in_log(numbers)
            )
        else:
            self.labels = _choice_labels({str(value) for value in values})
            self.distribution = CategoricalDistribution(sorted(self.labels.values()))

    def value(self, value: object) -> float | str:
        """A value as it stands in the study."""
        return self.labels[str(value)] if self.labels else number(value)

    def value_on_axis(self, value: object) -> float | str | None:
        """A value of another trial on Optuna's axis; None where the axis has no place for it."""
        if not self.labels:
            return number(value) if is_number(value) else None
        label = self.labels.get(str(value))
        return None if label is None else repr(label)  # Optuna shows categories in quotes


def _choice_labels(choices: Iterable[str]) -> dict[str, str]:
    """Returns short texts for choices; choices whose short texts are equal keep all their text."""
    short = {choice: short_label(choice, 14) for choice in choices}
    count = Counter(short.values())
    return {
        choice: label if count[label] == 1 else short_label(choice, len(choice))
        for choice, label in short.items()
    }


def is_number(value: object) -> TypeGuard[int | float]:
    """Returns whether the value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: object) -> float:
    """Returns a value that must be a number as a float."""
    assert isinstance(value, int | float)
    return float(value)


def reads_better_in_log(values: Sequence[float]) -> bool:
    """Returns whether the values are positive and span more than a factor of 20."""
    return min(values) > 0 and max(values) / min(values) > 20


def tooltip(trial: Mapping[str, object], *metrics: Metric) -> str:
    """What a figure says of a trial under the pointer: its name and its scores."""
    scores = [f"{metric.title} {metric.text(number(trial[metric.name]))}" for metric in metrics]
    return "<br>".join(short_label(line, 60) for line in [trial.get(TRIAL, "trial"), *scores])
