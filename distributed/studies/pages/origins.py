"""The sections of a study's report on what failed and on how the results were made."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

from distributed.reporting.page import Block, Bullets, Code, Heading, Text
from distributed.reporting.significance import summarise
from distributed.reporting.tables import CellContent, ReportTable
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Choice, Study
from distributed.studies.pages.tables import score_table
from distributed.studies.results import CellRow
from distributed.studies.views import ConditionView
from model.metrics import names

ROW_FACTS = {
    "train_rows": "training rows",
    "train_imbalance": "imbalance ratio",
    "test/rows": "test rows",
}
PACKAGES = ("torch", "ray", "scipy", "scikit-learn")
METHOD = (
    "Every number is of the test split; epochs, temperatures and thresholds were chosen on "
    "validation. Seeds vary weights, order and augmentation, and which rows a condition cuts or "
    "spoils, on one fixed split, so intervals and tests concern training chance on this split, "
    "not of new data.",
    "Intervals are expanded percentile bootstrap intervals of the mean over seeds (95 %). Tests "
    "are paired by seed against the reference: t test and Wilcoxon's signed ranks, each corrected "
    "after Holm over the comparisons of one data set, condition and metric. `shown` follows the "
    "corrected t test at 5 %; not shown to differ does not mean that there is no difference.",
    "Claims stand in the study file. What helps against the reference follows the corrected test "
    "of its table; against another variant, and within a limit, each claim is one planned "
    "comparison without correction. A claim `holds`, or does not, where the whole interval lies on "
    "one side of its limit.",
    "Hedges g is the mean paired difference over its standard deviation, corrected for few seeds.",
)


def failure_blocks(planned: Mapping[str, DataSetCells], rows: Sequence[CellRow]) -> list[Block]:
    """Cells that are missing, failed or were left out, and notes of test-time aggregation."""
    blocks: list[Block] = []
    missing = sum(len(part.cells) for part in planned.values()) - len(rows)
    if missing:
        blocks.append(Text(f"{missing} cells have not run yet; --resume runs them."))
    columns = ("data", "variant", "condition", "seed", "reason")
    failed: list[list[CellContent]] = [
        [*row.name, row.reason] for row in rows if row.state == "failed"
    ]
    if failed:
        caption = "Failed cells; --resume runs them again."
        blocks.append(ReportTable(columns=columns, rows=failed, caption=caption))
    reasons = [f"{data}: {reason}" for data, part in planned.items() for reason in part.left_out]
    if reasons:
        blocks.append(Bullets(list(dict.fromkeys(reasons))))
    if fallbacks := _fallbacks(planned, rows):
        blocks.append(Text(f"Test-time aggregation fell back to uniform weights: {fallbacks}."))
    notes: list[list[CellContent]] = [[*row.name, row.note] for row in rows if row.note]
    if notes:
        caption = "Notes of test-time aggregation."
        blocks.append(ReportTable(columns=columns, rows=notes, caption=caption, folded=True))
    return blocks


def _fallbacks(planned: Mapping[str, DataSetCells], rows: Sequence[CellRow]) -> str:
    """In how many cells the guard refused each variant that weights experts at test time."""
    aggregating = {
        (data, cell.variant, cell.condition, cell.seed)
        for data, part in planned.items()
        for cell in part.cells
        if cell.test.get("aggregation")
    }
    refused: dict[str, list[bool]] = {}
    for row in rows:
        if row.state == "done" and row.name in aggregating:
            was_refused = bool(row.metrics.get("test/fell_back"))
            refused.setdefault(row.variant, []).append(was_refused)
    return ", ".join(
        f"{variant} in {sum(cells)} of {len(cells)} cells" for variant, cells in refused.items()
    )


def origin_blocks(command: str) -> list[Block]:
    """The command, the method of the statistics, and the versions of the libraries."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return [Code(command), *map(Text, METHOD), Text(f"Versions: {versions}.")]


def result_blocks(
    study: Study,
    planned: Mapping[str, DataSetCells],
    views: Sequence[ConditionView],
    rows: Sequence[CellRow],
) -> list[Block]:
    """What the results rest on: rows, variants, training time and every cell."""
    caption = "Seconds of training, evaluation left out."
    return [
        _rows_table(views),
        Heading("Variants"),
        _variants_table(planned),
        score_table(views, ["train_seconds"], caption),
        _cells_table(study, rows),
    ]


def _rows_table(views: Sequence[ConditionView]) -> ReportTable:
    """How many rows training and test had, and how unequal the classes were in training."""
    table = []
    for view in views:
        means = []
        for fact in ROW_FACTS:
            values = [row.metrics[fact] for row in view.rows if fact in row.metrics]
            mean = summarise(values).mean
            means.append(None if mean is None else round(mean, 1))
        table.append([view.data, view.condition, *means])
    caption = (
        "Rows used: in training, the largest class over the smallest there, in the test. "
        "With few test rows, single rows weigh much."
    )
    return ReportTable(
        columns=("data", "condition", *ROW_FACTS.values()), rows=table, caption=caption
    )


def _variants_table(planned: Mapping[str, DataSetCells]) -> ReportTable:
    variants = {variant.name: variant for part in planned.values() for variant in part.variants}
    rows = [[name, _changes_text(variant)] for name, variant in variants.items()]
    return ReportTable(
        columns=("variant", "settings"), rows=rows, caption="What each variant changes."
    )


def _changes_text(variant: Choice) -> str:
    if variant.model == "boosting":
        return "gradient boosting on the table"
    settings = [f"{name} = {value}" for name, value in variant.settings.items()]
    test = [f"test {name} = {value}" for name, value in variant.test.items()]
    return ", ".join([*settings, *test]) or "the defaults"


def _cells_table(study: Study, rows: Sequence[CellRow]) -> ReportTable:
    metrics = (study.metric, study.tail)
    table = [
        [
            row.data,
            row.condition,
            row.variant,
            row.seed,
            row.state,
            *(row.metrics.get(f"test/{metric}") for metric in metrics),
        ]
        for row in rows
    ]
    titles = [names.metric(metric).title for metric in metrics]
    return ReportTable(
        columns=("data", "condition", "variant", "seed", "state", *titles),
        rows=table,
        caption="All cells",
        folded=True,
    )
