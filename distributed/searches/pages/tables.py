"""The tables of a search: who leads and by how much, the best settings in words, every configuration, what failed, what it cost."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from typing import Any

from distributed.config import setting_fields, to_toml
from distributed.reporting.files import write_atomically
from distributed.reporting.significance import (
    ALPHA,
    Comparison,
    Summary,
    compare_to_reference,
    summarise,
)
from distributed.reporting.tables import ReportTable, TableCell, format_number
from distributed.reporting.verdicts import describe_comparison, seed_limit_note, smallest_wilcoxon_p
from distributed.searches.baselines import STARTING_POINT
from distributed.searches.experiment import Experiment, Standing
from distributed.searches.records import SearchRecord
from model.metrics.names import metric as metric_named

IN_WORDS = {
    "defaults": "this project's defaults",
    STARTING_POINT: "the starting point",
    "concatenation": "plain concatenation: no confidence weights",
    "one expert": "a single expert",
    "plain softmax": "plain softmax: experts without class priors",
}
SHARES = ("seconds", "nll", "mcc")  # not shown in percent


def percent(metric: str) -> bool:
    return not any(word in metric for word in SHARES) and metric != "brier"


def scale_of(metric: str) -> float:
    return 100.0 if percent(metric) else 1.0


def shown(value: float | None, metric: str) -> str:
    """A metric's value as people read it: 63.2 %, 12 s."""
    if value is None or not math.isfinite(value):
        return "none"
    if metric.endswith("seconds"):
        return f"{value:.0f} s"
    return f"{100 * value:.1f} %" if percent(metric) else f"{value:.3f}"


def plain(metric: str) -> str:
    return metric.replace("_", " ")


def seeds_of(experiment: Experiment, record: SearchRecord, metric: str) -> dict[Any, float]:
    """Value by seed, of the replicates; of the one run where there are none."""
    runs = experiment.replicates_of(record.name) or [record]
    return {
        r.job.seed if r is not record else 0: r.metrics[metric]
        for r in runs
        if math.isfinite(r.metrics.get(metric, math.nan))
    }


def summary(experiment: Experiment, record: SearchRecord, metric: str) -> Summary:
    return summarise(list(seeds_of(experiment, record, metric).values()))


def interval(found: Summary, metric: str) -> str:
    """The interval behind a mean, in the digits of the mean: (62.1 to 64.9), (0.481 to 0.502)."""
    if found.low is None or found.high is None:
        return ""
    digits, scale = 1 if percent(metric) or metric.endswith("seconds") else 3, scale_of(metric)
    return f" ({scale * found.low:.{digits}f} to {scale * found.high:.{digits}f})"


def start_of(experiment: Experiment) -> SearchRecord | None:
    """The run that the others are compared with: the defaults, or what --config and --set made of them."""
    return next(
        (r for r in experiment.named() if r.job.label in ("defaults", STARTING_POINT)), None
    )


def against_start(experiment: Experiment, winner: Standing) -> Comparison | None:
    """The winner against the starting point over the seeds they share, corrected for all that were compared: it is the best of them."""
    start = start_of(experiment)
    if start is None or start is winner.record:
        return None
    compared = {r.name: seeds_of(experiment, r, experiment.metric) for r in experiment.candidates()}
    found = next(
        c for c in compare_to_reference(compared, start.name) if c.name == winner.record.name
    )
    return dataclasses.replace(found, name="the best found", reference=called(start))


def called(start: SearchRecord) -> str:
    return "the starting point" if start.job.label == STARTING_POINT else "the defaults"


def verdict(experiment: Experiment) -> str:
    """One honest sentence on what the search gave."""
    winner = experiment.winner()
    if winner is None:
        return "No configuration has finished yet."
    if winner.record is start_of(experiment):
        return f"The search found nothing better than {called(winner.record)}: nothing else is to be recommended."
    found = against_start(experiment, winner)
    if found is None:
        return f"The best so far is {title(winner.record)}; there is no finished run of the starting point to compare it with."
    metric, lower = experiment.metric, metric_named(experiment.metric).lower_is_better
    unit = "points" if percent(metric) else ""
    words = describe_comparison(
        found, plain(metric), scale=scale_of(metric), unit=unit, lower_is_better=lower
    )
    chosen = f" p is corrected for the {found.family} that were compared with {found.reference}; the gap is that of the best of them."
    return words[0].upper() + words[1:] + (chosen if found.family > 1 else "")


def limits(experiment: Experiment) -> str:
    """What so few seeds cannot show; nothing where there are no replicates, or enough."""
    return seed_limit_note(experiment.replicates) if experiment.replicates > 1 else ""


def _nominal(seeds: int) -> str:
    """How the interval of so few seeds is to be read."""
    missed = smallest_wilcoxon_p(seeds)
    return (
        "95 % interval"
        if seeds < 2 or missed <= ALPHA
        else f"95 % interval, which of {seeds} seeds covers at most {100 - 100 * missed:.0f} %"
    )


def title(record: SearchRecord) -> str:
    return IN_WORDS.get(record.job.label, record.job.label) or f"trial {record.name}"


def standings(experiment: Experiment) -> ReportTable:
    """The best found, the defaults and the baselines, on validation."""
    winner, metric = experiment.winner(), experiment.metric
    rows = []
    others = sorted(
        experiment.candidates(),
        key=lambda r: -experiment.sign * experiment.standing(r).score(metric),
    )
    for record in others:
        value = summary(experiment, record, metric)
        best = winner is not None and record is winner.record
        words = shown(value.mean, metric) + interval(value, metric)
        name = f"{title(record)}{' (best found)' if best and not record.job.label else ''}"
        rest = [shown(summary(experiment, record, m).mean, m) for m in experiment.metrics[1:]]
        rows.append(
            (
                TableCell(text=name, strong=best),
                TableCell(text=words, value=value.mean, strong=best),
                *rest,
                value.n,
            )
        )
    columns = (
        "configuration",
        f"{plain(metric)} on validation",
        *(plain(m) for m in experiment.metrics[1:]),
        "runs",
    )
    count = experiment.replicates
    seeds = (
        "one run each"
        if not count
        else "one fresh seed"
        if count == 1
        else f"mean of {count} fresh seeds with its {_nominal(count)}"
    )
    return ReportTable(columns=columns, rows=rows, caption=f"Best and baselines ({seeds})")


def settings(
    experiment: Experiment, base: Mapping[str, Any], defaults: Mapping[str, Any]
) -> ReportTable:
    """The winner's settings that differ from the defaults, with what each means."""
    winner = experiment.winner()
    values = {} if winner is None else {**base, **winner.record.job.settings}
    known = setting_fields()
    changed = {k: v for k, v in sorted(values.items()) if k in known and v != defaults[k]}
    found = () if winner is None else winner.record.job.settings
    order = sorted(
        changed, key=lambda k: (k not in found, k)
    )  # what the search found comes before what it was told
    rows = [
        (
            k,
            _value(changed[k]),
            _value(defaults[k]),
            "search" if k in found else "given",
            known[k].metadata["help"].partition(";")[0],
        )
        for k in order
    ]
    columns = ("setting", "best", "default", "chosen by", "meaning")
    return ReportTable(
        columns=columns, rows=rows, caption="Best settings, where they differ from the defaults"
    )


def _value(value: Any) -> str:
    return (
        format_number(value, 3)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def row(experiment: Experiment, record: SearchRecord) -> dict[str, Any]:
    """One configuration as a flat row."""
    replicates = experiment.standing(record).replicates
    return {
        "trial": record.name,
        "label": record.job.label,
        "state": record.state,
        "reason": record.reason,
        "epochs": record.epoch,
        "seconds": round(record.seconds, 2),
        **{m: record.metrics.get(m) for m in dict.fromkeys([*experiment.metrics, "train_seconds"])},
        "replicates": len(replicates),
        "replicate_mean": sum(replicates) / len(replicates) if replicates else None,
        **record.job.settings,
        **{
            k: v
            for k, v in record.metrics.items()
            if k not in (*experiment.metrics, "train_seconds", "loss", "rows_per_second")
        },
    }


def trials(experiment: Experiment, *, short: bool = False, folded: bool = False) -> ReportTable:
    """Every configuration in the order it was tried: every column there is, or with `short` those that a reader wants."""
    rows = [row(experiment, r) for r in experiment.configurations()]
    searched = list(dict.fromkeys(k for r in experiment.configurations() for k in r.job.settings))
    columns = list(dict.fromkeys(k for r in rows for k in r))
    if short:
        columns = [
            c
            for c in columns
            if c
            in (
                "trial",
                "label",
                "state",
                "epochs",
                "seconds",
                *experiment.metrics,
                "replicate_mean",
            )
            or c in searched
        ]
    return ReportTable(
        columns=tuple(columns),
        rows=[[r.get(c) for c in columns] for r in rows],
        caption="All configurations",
        folded=folded,
    )


def failures(experiment: Experiment) -> ReportTable:
    failed = [
        r for r in experiment.of_kind("search", "named", "replicate", "test") if r.state == "failed"
    ]
    return ReportTable(
        columns=("run", "reason"), rows=[(r.name, r.reason) for r in failed], caption="Failed runs"
    )


def test_scores(experiment: Experiment) -> ReportTable:
    """The winner on the test split."""
    runs, rows = experiment.tests(), []
    for metric in dict.fromkeys(
        [
            *experiment.metrics,
            "balanced_accuracy",
            "macro_f1",
            "few_shot_accuracy",
            "accuracy",
            "worst_recall",
            "ece",
        ]
    ):
        values = [r.metrics[metric] for r in runs if math.isfinite(r.metrics.get(metric, math.nan))]
        if values and metric != "train_seconds":
            found = summarise(values)
            rows.append(
                (
                    plain(metric),
                    TableCell(
                        text=shown(found.mean, metric) + interval(found, metric), value=found.mean
                    ),
                    found.n,
                )
            )
    caption = f"The winner on the test split, {when_read(experiment)}"
    if len(runs) > 1:
        caption += f" (mean with its {_nominal(len(runs))})"
    return ReportTable(columns=("metric", "test split", "runs"), rows=rows, caption=caption)


def when_read(experiment: Experiment) -> str:
    """How fresh the test split was; no decision of a search ever uses it."""
    if not experiment.read_before():
        return "read once, after everything was decided"
    count = len({r.job.of for r in experiment.of_kind("test")})
    return (
        f"which was read before this search was extended too, by {count} configurations in all"
        if count > 1
        else "read before the extension"
    )


def cost(experiment: Experiment, wall: float) -> ReportTable:
    ended = [
        r
        for r in experiment.of_kind("search", "named", "replicate", "test")
        if r.state != "running"
    ]
    trained = sum(r.metrics.get("train_seconds", 0.0) for r in ended if r.job.kind != "test")
    states = [r.state for r in experiment.configurations()]
    rows = [
        ("configurations run to the end", states.count("complete")),
        ("stopped early", states.count("stopped")),
        ("failed", states.count("failed")),
        ("replicates", len(experiment.of_kind("replicate"))),
        ("seconds of training, all runs together", round(trained, 1)),
        ("seconds on the clock, this sitting", round(wall, 1)),
    ]
    return ReportTable(columns=("what", "how much"), rows=rows, caption="Cost")


def write_files(experiment: Experiment, base: Mapping[str, Any]) -> None:
    """trials.csv and best.toml."""
    table, text = trials(experiment), io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
    write_atomically(experiment.folder / "trials.csv", text.getvalue())
    winner = experiment.winner()
    if winner is not None:
        score = shown(winner.score(experiment.metric), experiment.metric)
        head = f"# {title(winner.record)}: {plain(experiment.metric)} {score} on validation. For python distributed/train.py --config\n"
        write_atomically(
            experiment.folder / "best.toml", head + to_toml({**base, **winner.record.job.settings})
        )
