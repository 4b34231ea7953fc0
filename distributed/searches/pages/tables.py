"""The tables of a search: comparison, best settings, all configurations, failures, test, cost."""

from __future__ import annotations

from distributed.config import setting_fields
from distributed.reporting.significance import summarise
from distributed.reporting.tables import CellContent, ReportTable, TableCell, format_number
from distributed.searches.pages.verdict import (
    interval,
    interval_name,
    score_text,
    summarise_seeds,
    title,
)
from distributed.searches.state.records import (
    AFTER_TRIALS,
    CONFIGURATIONS,
    TRAINED,
    SearchRecord,
    SettingValues,
    is_finite,
)
from distributed.searches.state.standings import Standings
from model.metrics import names
from model.metrics.names import Metric

KINDS = (*CONFIGURATIONS, *AFTER_TRIALS)
# Of the test split, beside the metrics of the search: fewer than HEADLINE_METRICS, and accuracy.
TEST_METRICS = (
    "balanced_accuracy",
    "macro_f1",
    "few_shot_accuracy",
    "accuracy",
    "worst_recall",
    "balanced_nll",
    "ece",
)
# Columns of the report's table of configurations, beside the metrics and the settings.
SHORT_COLUMNS = ("trial", "rank", "label", "state", "epochs", "seconds", "replicate_mean")
SHORT_HEADS = {"label": "name", "replicate_mean": "mean of fresh seeds"}


def comparison_table(standings: Standings, few_shot: str = "") -> ReportTable:
    """The best found, the starting point and the baselines, on validation.

    few_shot: on how many rows few-shot accuracy rests.
    """
    winner, metric = standings.winner(), names.metric(standings.metric)
    others = [names.metric(name) for name in standings.metrics[1:]]
    rows: list[tuple[CellContent, ...]] = []
    for standing in standings.ordered():
        record = standing.record
        is_best = winner is not None and record is winner.record
        summary = summarise_seeds(standings, record, metric.name)
        score = score_text(standings, record, metric.name)
        name = title(record)
        if is_best and not record.job.is_baseline:
            name += " (best found)"
        other_scores = [
            other.text(summarise_seeds(standings, record, other.name).mean, missing="none")
            for other in others
        ]
        rows.append(
            (
                TableCell(text=name, strong=is_best),
                TableCell(text=score, value=summary.mean, strong=is_best),
                *other_scores,
                summary.n,
            )
        )
    columns = (
        "configuration",
        f"{_title_with_rows(metric, few_shot)} on validation",
        *(_title_with_rows(other, few_shot) for other in others),
        "runs",
    )
    seeds = _folds_text(standings.folds) if standings.folds > 1 else ""
    seeds = seeds or _seeds_text(standings.replicates)
    if standings.ran_once():
        seeds += "; others: one run"
    return ReportTable(columns=columns, rows=rows, caption=f"Best and baselines ({seeds})")


def _title_with_rows(metric: Metric, few_shot: str) -> str:
    """A metric's title; that of few-shot accuracy says on how few rows it rests."""
    if metric.name != "few_shot_accuracy" or not few_shot:
        return metric.title
    return f"{metric.title} ({few_shot})"


def _folds_text(folds: int) -> str:
    return f"all held-out rows of up to {folds} folds together, with the 95 % interval"


def _seeds_text(replicates: int) -> str:
    if replicates == 0:
        return "one run each"
    if replicates == 1:
        return "one fresh seed"
    return f"mean of {replicates} fresh seeds with its {interval_name(replicates)}"


def winner_settings_table(
    standings: Standings, base: SettingValues, defaults: SettingValues
) -> ReportTable:
    """The winner's settings that differ from the defaults, with what each means.

    base: settings of the starting point that best.toml has.
    """
    winner = standings.winner()
    searched = {} if winner is None else winner.record.job.settings
    values = {} if winner is None else {**base, **searched}
    fields = setting_fields()
    changed = [name for name in values if name in fields and values[name] != defaults[name]]
    rows = [
        (
            name,
            _setting_text(values[name]),
            _setting_text(defaults[name]),
            "search" if name in searched else "given",
            fields[name].metadata["help"].partition(";")[0],
        )
        for name in sorted(changed, key=lambda name: (name not in searched, name))
    ]
    return ReportTable(
        columns=("setting", "best", "default", "chosen by", "meaning"),
        rows=rows,
        caption="Best settings, where they differ from the defaults",
    )


def _setting_text(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format_number(value, 3)
    return str(value)


def configuration_row(
    standings: Standings, record: SearchRecord, rank: int | None
) -> dict[str, CellContent]:
    """A configuration as a row of trials.csv, by column. rank: from Standings.ranked."""
    standing = standings.standing(record)
    leading = list(dict.fromkeys([*standings.metrics, "train_seconds"]))
    others = {
        name: value
        for name, value in record.metrics.items()
        if name not in (*leading, "loss", "rows_per_second")
    }
    return {
        "trial": record.name,
        "rank": rank,
        "label": record.job.label,
        "state": record.state,
        "reason": record.reason,
        "epochs": record.epoch,
        "seconds": round(record.seconds, 2),
        **{name: record.metrics.get(name) for name in leading},
        "replicates": standing.repeats,
        "replicate_mean": standing.score(standings.metric) if standing.repeats else None,
        **record.job.settings,
        **others,
    }


def configurations_table(
    standings: Standings, *, short: bool = False, folded: bool = False
) -> ReportTable:
    """Every configuration in the order it was tried.

    short: only the columns that a reader wants; without it those of trials.csv.
    folded: the report shows the table closed.
    """
    configurations = standings.log.configurations()
    ranks = {s.record.name: rank for rank, s in enumerate(standings.ranked(), start=1)}
    rows = [configuration_row(standings, r, ranks.get(r.name)) for r in configurations]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if short:
        searched = {name for record in configurations for name in record.job.settings}
        kept = {*SHORT_COLUMNS, *standings.metrics, *searched}
        columns = [column for column in columns if column in kept]
        rows = [_with_units(standings, row) for row in rows]
    heads = {**SHORT_HEADS, **{name: names.metric(name).title for name in standings.metrics}}
    if standings.folds > 1:
        heads["replicate_mean"] = "all its folds"
    return ReportTable(
        columns=tuple(heads.get(column, column) if short else column for column in columns),
        rows=[[row.get(column) for column in columns] for row in rows],
        caption="All configurations",
        folded=folded,
    )


def _with_units(standings: Standings, row: dict[str, CellContent]) -> dict[str, CellContent]:
    """A row of trials.csv with its scores as a reader sees them."""
    shown = dict(row)
    for column in (*standings.metrics, "replicate_mean"):
        name = standings.metric if column == "replicate_mean" else column
        value = row.get(column)
        if isinstance(value, int | float):
            shown[column] = TableCell(text=names.metric(name).text(value), value=value)
    return shown


def failures_table(standings: Standings) -> ReportTable:
    """The failed runs with their reasons."""
    failed = [r for r in standings.log.of_kind(*KINDS) if r.state == "failed"]
    return ReportTable(
        columns=("run", "reason"), rows=[(r.name, r.reason) for r in failed], caption="Failed runs"
    )


def test_table(standings: Standings, few_shot: str) -> ReportTable:
    """The best settings and the model of several runs on the test split.

    few_shot: on how many rows few-shot accuracy rests.
    """
    runs, model = standings.tests(), standings.model_test()
    distilled = standings.distilled_test()
    rows: list[tuple[CellContent, ...]] = []
    for name in dict.fromkeys([*standings.metrics, *TEST_METRICS]):
        values = [r.value(name) for r in runs if is_finite(r.metrics.get(name))]
        if not values or name == "train_seconds":
            continue
        metric, summary = names.metric(name), summarise(values)
        score = metric.text(summary.mean, missing="none") + interval(summary, name)
        row: list[CellContent] = [
            _title_with_rows(metric, few_shot),
            TableCell(text=score, value=summary.mean),
        ]
        if model is not None:
            value = model.value(name)
            row.append(TableCell(text=metric.text(value, missing="none"), value=value))
        if distilled is not None:
            value = distilled.value(name)
            row.append(TableCell(text=metric.text(value, missing="none"), value=value))
        rows.append(tuple(row))
    what = "The best settings" if model is None else "The best settings and the model"
    caption = f"{what} on the test split, {_when_test_was_read(standings)}"
    if len(runs) > 1:
        caption += f" (best settings: mean of {len(runs)} runs with its {interval_name(len(runs))})"
    models = ["the model"] if model is not None else []
    models += ["distilled"] if distilled is not None else []
    columns = ("metric", "best settings", *models)
    return ReportTable(columns=columns, rows=rows, caption=caption)


def is_of_settings(test: SearchRecord) -> bool:
    """Whether a test is of a configuration, and not of the model or the distilled network."""
    return not test.job.members and not test.job.method


def _when_test_was_read(standings: Standings) -> str:
    """Whether an earlier winner was tested before. No decision of a search uses the test split."""
    if not standings.was_extended_after_test():
        return "read once, after everything was decided"
    count = len({r.job.of for r in standings.log.of_kind("test") if is_of_settings(r)})
    if count == 1:
        return "read before the extension"
    return f"which was read before this search was extended too, by {count} configurations in all"


def cost_table(standings: Standings, wall_seconds: float) -> ReportTable:
    """How many runs there were, and what they took. wall_seconds: of this process."""
    log = standings.log
    runs = [r for r in log.ended() if r.job.kind in TRAINED]
    trained = sum(r.metrics.get("train_seconds") or 0.0 for r in runs)
    states = [r.state for r in log.configurations()]
    rows = [
        ("configurations run to the end", states.count("complete")),
        ("stopped early", states.count("stopped")),
        ("failed", states.count("failed")),
        ("replicates", len(log.of_kind("replicate"))),
        ("runs on other folds", len(log.of_kind("fold"))),
        ("seconds of training, all runs together", round(trained, 1)),
        ("seconds on the clock, since the last start", round(wall_seconds, 1)),
    ]
    return ReportTable(columns=("what", "how much"), rows=rows, caption="Cost")
