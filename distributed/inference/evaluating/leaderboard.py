"""Compares several checkpoints on the same rows: a leaderboard with paired differences.

Every bootstrap replicate draws the same rows for all of them, so that a difference is not blurred
by rows that are hard for all. Which one is the best was decided on validation, where the runs have
noted it: choosing by the rows of the comparison would flatter the choice.

Legend: N rows, R bootstrap replicates, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from distributed.inference.decision_tables import leaderboard_text
from distributed.inference.evaluating.compared_runs import ComparedRun, score_runs
from distributed.inference.evaluating.evaluation import check_writable_file
from distributed.inference.options import EvaluateOptions
from distributed.reporting.significance import holm_correction
from distributed.runtime.errors import OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.storage import write_file
from model.metrics.metrics import bootstrap_values, metric_values, percentile_interval
from model.metrics.names import check_name, metric

if TYPE_CHECKING:
    import os

# Beside the compared metric.
SHOWN = ("balanced_accuracy", "accuracy", "macro_f1", "few_shot_accuracy", "worst_recall", "ece")
ALPHA = 0.05
SEED_NOTE = (
    "intervals and differences are those of the rows; another seed of the training may move a "
    "metric by as much again"
)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One checkpoint of a leaderboard.

    metrics, intervals: the metrics SHOWN and the compared one, with intervals of 95 %.
    difference, p: to the reference in the compared metric; p by Holm's correction. Both are None
        for the reference itself.
    """

    run: ComparedRun
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    difference: float | None
    difference_interval: tuple[float, float] | None
    p: float | None

    def verdict(self, lower_is_better: bool) -> str:
        """Whether it is shown to be better or worse than the reference."""
        if self.difference is None:
            return "reference"
        if self.p is None or self.p >= ALPHA or not self.difference:
            return "not shown to differ"
        return "better" if (self.difference > 0) != lower_is_better else "worse"


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Several checkpoints on the same rows, the best first."""

    options: EvaluateOptions
    standings: Sequence[Standing]
    reference: str
    rows: int
    notes: Sequence[str]

    def frame(self) -> pd.DataFrame:
        """Returns a row for each checkpoint."""
        return pd.DataFrame([self._record(standing) for standing in self.standings])

    def _record(self, standing: Standing) -> dict[str, object]:
        name = self.options.metric
        low, high = standing.difference_interval or (None, None)
        record: dict[str, object] = {
            "model": standing.run.name,
            name: standing.metrics.get(name),
            f"{name}_validation": standing.run.on_validation,
            "difference": standing.difference,
            "difference_low": low,
            "difference_high": high,
            "p": standing.p,
            "verdict": standing.verdict(metric(name).lower_is_better),
        }
        for other in dict.fromkeys((name, *SHOWN)):
            record[other] = standing.metrics.get(other)
            if other in standing.intervals:
                record[f"{other}_low"], record[f"{other}_high"] = standing.intervals[other]
        facts = (
            "train_seconds",
            "train_cpu_seconds",
            "scoring_cpu_seconds",
            "size",
            "parameters",
            "location",
        )
        return record | {fact: getattr(standing.run, fact) for fact in facts}

    def flat(self) -> dict[str, object]:
        """Returns everything as one flat object, as the option json writes it."""
        entries: dict[str, object] = {
            "data": self.options.data,
            "split": self.options.split,
            "metric": self.options.metric,
            "rows": self.rows,
            "reference": self.reference,
            "notes": "; ".join(self.notes),
        }
        for standing in self.standings:
            record = self._record(standing)
            entries |= {f"{standing.run.name}/{key}": value for key, value in record.items()}
        return entries

    def show(self) -> None:
        """Prints the table and the notes."""
        print(leaderboard_text(self))
        if self.options.json:
            print(f"\nwritten     {self.options.json}")


def leaderboard(
    checkpoints: Sequence[str | os.PathLike[str]],
    data: str | os.PathLike[str],
    *,
    split: str = "test",
    metric: str = "balanced_accuracy",
    prior: str = "",
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Returns a frame with a row for each checkpoint, scored on the same rows, the best first.

    checkpoints: runs or their checkpoint folders. data: labelled shards.
    prior: the class prior at which all of them are scored; see PredictOptions.
    replicates: of the bootstrap behind intervals and paired differences.
    """
    options = EvaluateOptions(
        compare=tuple(map(str, checkpoints)),
        data=str(data),
        split=split,
        metric=metric,
        prior=prior,
        replicates=replicates,
        seed=seed,
    )
    return compare_runs(options).frame()


def compare_runs(options: EvaluateOptions) -> Leaderboard:
    """Scores every checkpoint of options.compare on the same rows."""
    options = check_options(EvaluateOptions, options)
    if options.checkpoint or options.by or options.coverage or options.cost:
        raise OptionError(
            "compare goes without checkpoint, by, coverage and cost",
            *("compare", "checkpoint", "by", "coverage", "cost"),
        )
    check_name("metric", options.metric)
    if options.json:
        check_writable_file(options.json)
    runs, passed_over = score_runs(options)
    reference = _reference(runs, options.metric)
    standings = _standings(runs, reference, options)
    found = Leaderboard(
        options=options,
        standings=sorted(
            standings,
            key=lambda standing: standing.metrics[options.metric],
            reverse=not metric(options.metric).lower_is_better,
        ),
        reference=runs[reference].name,
        rows=int((runs[reference].labels_N >= 0).sum()),
        notes=[*_reference_notes(runs, reference), SEED_NOTE, *passed_over],
    )
    if options.json:
        content = json.dumps(found.flat(), indent=1)
        write_file(options.json, content.encode(), shared=True)
    return found


def _reference(runs: Mapping[str, ComparedRun], name: str) -> str:
    """Returns the location of the best run on validation; of the first one where one has none."""
    on_validation = {place: run.on_validation for place, run in runs.items()}
    known = {place: value for place, value in on_validation.items() if value is not None}
    if len(known) < len(runs):
        return next(iter(runs))
    best = min if metric(name).lower_is_better else max
    return best(known, key=known.__getitem__)


def _reference_notes(runs: Mapping[str, ComparedRun], reference: str) -> list[str]:
    name = runs[reference].name
    if all(run.on_validation is not None for run in runs.values()):
        return [f"{name} is the best on validation, by which to choose; differences are to it"]
    return [f"differences are to {name}, the first: not every run has its validation metrics"]


def _standings(
    runs: Mapping[str, ComparedRun], reference: str, options: EvaluateOptions
) -> list[Standing]:
    """Returns the standing of every run; each replicate draws the same rows for all of them."""
    names = tuple(dict.fromkeys((options.metric, *SHOWN)))
    replicates = {
        place: bootstrap_values(
            *run.scored,
            names,
            options.replicates,
            options.seed,
            classes=run.classes,
            predictions_N=run.decisions_N,
        )
        for place, run in runs.items()
    }
    values = {
        place: metric_values(*run.scored, names, classes=run.classes, predictions_N=run.decisions_N)
        for place, run in runs.items()
    }
    paired = {
        place: _paired(replicates[place], replicates[reference], options.metric)
        for place in runs
        if place != reference
    }
    corrected = dict(zip(paired, holm_correction([p for _, p in paired.values()]), strict=True))
    standings = []
    for place, run in runs.items():
        difference = None
        if place != reference:
            difference = values[place][options.metric] - values[reference][options.metric]
        standings.append(
            Standing(
                run=run,
                metrics=values[place],
                intervals={
                    name: interval
                    for name, values_R in replicates[place].items()
                    if (interval := percentile_interval(values_R))
                },
                difference=difference,
                difference_interval=paired[place][0] if place in paired else None,
                p=corrected.get(place),
            )
        )
    return standings


def _paired(
    replicates: Mapping[str, Tensor], reference: Mapping[str, Tensor], name: str
) -> tuple[tuple[float, float] | None, float | None]:
    """Returns the interval of the difference to the reference, and its two-sided p-value."""
    difference_R = replicates[name] - reference[name]
    difference_R = difference_R[~difference_R.isnan()]
    if not len(difference_R):
        return None, None
    tail = min(int((difference_R <= 0).sum()), int((difference_R >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(difference_R) + 1))
    return percentile_interval(difference_R), p
