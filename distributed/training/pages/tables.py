"""The tables of a run's page: headline metrics, classes, confidences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distributed.reporting.tables import CellContent, ReportTable, TableCell
from distributed.training.pages.splits import PageSplit, shot_names
from model.classifier import Classifier
from model.metrics.confidences import ConfidenceRow
from model.metrics.names import (
    CHOOSE_WHEN,
    METRICS,
    OPERATING_METRICS,
    OPERATING_PRIORS,
    Metric,
    at_prior,
    metric,
)

LONG_TABLE = 40  # rows; longer tables are folded


def headline_table(splits: Sequence[PageSplit]) -> ReportTable:
    """Returns every metric of every split, with its interval where there is one."""
    columns = ["metric"]
    for split in splits:
        columns += [split.title, "95 % interval"]
    rows: list[list[CellContent]] = []
    for name, entry in METRICS.items():
        row: list[CellContent] = [entry.heading]
        for split in splits:
            row += [
                _value_cell(entry, split.metrics.get(name)),
                interval_text(entry, split.intervals.get(name)),
            ]
        rows.append(row)
    return ReportTable(columns=tuple(columns), rows=rows)


def operating_table(splits: Sequence[PageSplit]) -> ReportTable | None:
    """Returns what the model scores at the class priors that have a name, and when to choose which.

    None where that was not measured.
    """
    rows: list[list[CellContent]] = []
    for prior in OPERATING_PRIORS:
        for name in OPERATING_METRICS:
            values = [split.metrics.get(at_prior(name, prior)) for split in splits]
            if any(value is not None for value in values):
                cells = [_value_cell(metric(name), value) for value in values]
                rows.append([f"--prior {prior}", metric(name).heading, *cells])
    if not rows:
        return None
    choose = "; ".join(f"{prior} where {CHOOSE_WHEN[prior]}" for prior in OPERATING_PRIORS)
    return ReportTable(
        columns=("predict with", "metric", *(split.title for split in splits)),
        rows=rows,
        caption=(
            f"The same model at two class priors. Choose {choose}. A model that is compared by "
            "accuracy alone must be compared at the training prior."
        ),
    )


def interval_text(entry: Metric, interval: tuple[float, float] | None) -> str:
    """Returns an interval in the metric's digits; empty where there is none."""
    if interval is None:
        return ""
    return f"{entry.value(interval[0])} to {entry.value(interval[1])}"


def _value_cell(entry: Metric, value: float | None) -> TableCell:
    return TableCell(text=entry.value(value), value=value)


def class_table(splits: Sequence[PageSplit], network: Classifier) -> ReportTable:
    """Returns a row a class, by training rows: counts, recall, precision, what it is taken for.

    The recall has its interval on the last split.
    """
    schema = network.schema
    columns = ["class", "group", "training rows"]
    for split in splits:
        recall_title = "recall % (95 % interval)" if split is splits[-1] else "recall %"
        columns += [f"{split.title} rows", recall_title, "precision %"]
    groups = shot_names(network)
    confusions = [split.confusion(len(schema.classes)) for split in splits]
    rows: list[list[CellContent]] = []
    for c in sorted(range(len(schema.classes)), key=lambda c: -schema.counts[c]):
        name = schema.classes[c]
        row: list[CellContent] = [name, groups[c], schema.counts[c]]
        for split, rows_CC in zip(splits, confusions, strict=True):
            recall = metric(f"recall/{name}")
            value = split.metrics.get(recall.name)
            interval = interval_text(recall, split.intervals.get(recall.name))
            text = recall.value(value)
            if interval and split is splits[-1]:
                text += f" ({interval})"
            row += [
                int(rows_CC[c].sum()),
                TableCell(text=text, value=value),
                _value_cell(recall, split.metrics.get(f"precision/{name}")),
            ]
        rows.append([*row, _taken_for(confusions[0], c, schema.classes)])
    return ReportTable(
        columns=(*columns, f"{splits[0].title}: mostly taken for"),
        rows=rows,
        caption="Classes by training rows; a click on a heading sorts.",
        folded=len(rows) > LONG_TABLE,
    )


def _taken_for(rows_CC: Tensor, c: int, classes: Sequence[str]) -> str:
    """Returns the class that most wrong rows of class c were decided as, and how many."""
    wrong_C = rows_CC[c].clone()
    wrong_C[c] = 0
    count, other = (int(value) for value in wrong_C.max(0))
    return f"{classes[other]} ({count})" if count else ""


def confidence_table(rows: Sequence[ConfidenceRow]) -> ReportTable:
    """Returns the confidence report: predicted against true probability of the true class."""
    facts = (
        *("predicted", "true", "rank_correlation", "used"),
        *("weight", "weight_spread", "weight_correlation"),
    )
    shown = [
        [
            str(row["modality"]),
            "all classes alike" if row["group"] == "all" else str(row["group"]),
            int(row["rows"] or 0),
            *(_fact_cell(row[fact]) for fact in facts),
        ]
        for row in rows
    ]
    return ReportTable(
        columns=(
            "modality",
            "classes",
            "rows",
            "estimated",
            "true",
            "rank correlation",
            "in use",
            "weight",
            "weight spread",
            "weight correlation",
        ),
        rows=shown,
        caption=(
            "Confidence in each modality: the estimated and the real probability of the true class "
            "by it alone, how well they agree in order, and what the fusion uses. The weight: its "
            "mean, its standard deviation over the records, and the rank correlation with how much "
            "better this modality alone knows the class than the others do (1: the weight always "
            "goes to the one that is right, 0: it does not depend on that)."
        ),
    )


def _fact_cell(value: str | int | float | None) -> CellContent:
    if value is None or isinstance(value, str):
        return None
    return TableCell(text=f"{value:.2f}", value=float(value))
