"""Terminal tables of operating points, prediction sets, costs and subgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed.reporting.tables import ReportTable, to_text
from model.metrics.names import CHOOSE_WHEN, OPERATING_METRICS, metric

if TYPE_CHECKING:
    from distributed.inference.decisions.reports import CostReport, SetReport
    from distributed.inference.evaluating.leaderboard import Leaderboard, Standing
    from distributed.inference.evaluating.subgroups import Subgroup
    from distributed.inference.results import EvaluationResult, OperatingPoint

SUBGROUP_METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "ece")  # of the terminal


def decision_texts(result: EvaluationResult) -> list[str]:
    """Returns the tables of what was asked for, as text."""
    texts = [to_text(operating_table(result))]
    if result.sets:
        texts.append(to_text(set_table(result.sets)))
    if result.costs:
        texts.append(_cost_text(result.costs))
    if result.subgroups:
        texts.append(to_text(subgroup_table(result.subgroups)))
        texts.append(_gaps_text(result.subgroups))
    return texts


def operating_table(result: EvaluationResult) -> ReportTable:
    """The same checkpoint at every prior that has a name, and when to choose which."""
    rows = []
    for point in result.operating_points:
        own = " (its own)" if point.is_own else ""
        values = (_with_interval(point, name) for name in OPERATING_METRICS)
        rows.append((f"{point.prior}{own}", *values, CHOOSE_WHEN[point.prior]))
    headings = (metric(name).heading for name in OPERATING_METRICS)
    return ReportTable(columns=("at the prior", *headings, "choose it when"), rows=rows)


def _with_interval(scored: OperatingPoint | Subgroup | Standing, name: str) -> str:
    named = metric(name)
    value = named.value(scored.metrics.get(name))
    if name not in scored.intervals:
        return value
    low, high = scored.intervals[name]
    return f"{value} ({named.value(low)} to {named.value(high)})"


def set_table(sets: SetReport) -> ReportTable:
    """How often prediction sets hold the true class, and how large they are."""
    share = metric("coverage")
    rows = []
    for group in (*sets.groups, *sets.classes):
        interval = f"{share.value(group.low)} to {share.value(group.high)}"
        size = f"{group.mean_size:.2f}"
        rows.append((group.name, f"{group.rows:,}", share.value(group.coverage), interval, size))
    return ReportTable(
        columns=(
            f"sets for {100 * sets.thresholds.coverage:g} %",
            "rows",
            share.heading,
            "95 % interval",
            metric("mean_set_size").heading,
        ),
        rows=rows,
    )


def _cost_text(costs: CostReport) -> str:
    interval = ""
    if costs.saved_interval:
        interval = " (95 % interval {:.4g} to {:.4g})".format(*costs.saved_interval)
    return (
        f"cost        {costs.mean_cost:.4g} a decision; the most probable class would cost "
        f"{costs.of_most_probable:.4g}: {costs.saved:.4g} saved{interval}; "
        f"{100 * costs.changed:.1f} % of the rows are decided otherwise"
    )


def subgroup_table(groups: list[Subgroup]) -> ReportTable:
    """The groups of every column with their gaps."""
    points = metric("balanced_accuracy")
    rows = []
    for group in groups:
        gap = "-" if group.gap is None else f"{points.scale * group.gap:+.1f}"
        noise = "-" if group.noise is None else f"±{points.value(group.noise)}"
        verdict = "shown" if group.is_shown else "noise"
        p = "-" if group.p is None else f"{group.p:.3f}"
        rows.append(
            (
                f"{group.column}: {group.value}",
                f"{group.rows:,}",
                *(_with_interval(group, name) for name in SUBGROUP_METRICS),
                gap,
                noise,
                p,
                "-" if group.p is None else verdict,
            )
        )
    headings = (metric(name).heading for name in SUBGROUP_METRICS)
    return ReportTable(
        columns=("group", "rows", *headings, "gap", "by chance", "Holm p", "gap is"), rows=rows
    )


def _gaps_text(groups: list[Subgroup]) -> str:
    """Which gaps are more than noise, in words."""
    shown = [f"{group.column} {group.value}" for group in groups if group.is_shown]
    if shown:
        verdict = f"gaps that are shown: {', '.join(shown)}"
    else:
        verdict = "no gap is shown: all of them are as large as chance makes them"
    return (
        f"{verdict}. A gap is the group's balanced accuracy less that of all other rows, over the "
        "classes of both, in points"
    )


def leaderboard_text(board: Leaderboard) -> str:
    """The compared runs, the best first, with their paired differences and what they cost."""
    compared = metric(board.options.metric)
    others = [
        name for name in ("accuracy", "macro_f1", "few_shot_accuracy") if name != compared.name
    ]
    rows = []
    for standing in board.standings:
        run = standing.run
        difference = "-"
        if standing.difference is not None:
            difference = f"{compared.scale * standing.difference:+.{compared.digits}f}"
            if standing.difference_interval:
                low, high = (compared.scale * end for end in standing.difference_interval)
                difference += f" ({low:+.{compared.digits}f} to {high:+.{compared.digits}f})"
        rows.append(
            (
                run.name,
                _with_interval(standing, compared.name),
                compared.value(run.on_validation),
                difference,
                standing.verdict(compared.lower_is_better),
                *(metric(name).value(standing.metrics.get(name)) for name in others),
                metric("train_seconds").value(run.train_seconds),
                "-" if run.train_cpu_seconds is None else f"{run.train_cpu_seconds:.0f}",
                f"{run.scoring_cpu_seconds:.1f}",
                f"{run.size / 1e6:.1f}",
                f"{run.parameters:,}",
            )
        )
    table = ReportTable(
        columns=(
            "run",
            compared.heading,
            "on validation",
            "difference",
            "verdict",
            *(metric(name).heading for name in others),
            "training s",
            "training CPU s",
            "scoring CPU s",
            "MB",
            "parameters",
        ),
        rows=rows,
    )
    options = board.options
    head = f"data        {options.data} {options.split}: {board.rows:,} rows for all of them"
    notes = "\n".join(f"note: {text}" for text in board.notes)
    return "\n\n".join([head, to_text(table), notes])
