"""The tables of a study: scores, differences to the reference, confidences; one for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distributed.reporting.significance import Comparison, Summary
from distributed.reporting.tables import CellContent, ReportTable, TableCell
from distributed.reporting.verdicts import format_signed
from distributed.studies.definition import Study
from distributed.studies.views import ConditionView
from model.metrics import names
from model.metrics.names import CONFIDENCE_FACTS

# Beside the study's own two metrics; balanced accuracy only where it is one of these.
SCORE_METRICS = (
    "macro_f1",
    "worst_recall",
    "many_shot_accuracy",
    "medium_shot_accuracy",
    "few_shot_accuracy",
    "accuracy",
    "ece",
)
MAX_UNFOLDED_ROWS = 60  # a table with more rows is shown closed
SMALLEST_P = 0.001  # smaller ones are written as < 0.001
TIDY_COLUMNS = (
    "data",
    "condition",
    "variant",
    "metric",
    "seeds",
    "mean",
    "sd",
    "low",
    "high",
    "reference",
    "difference",
    "difference_low",
    "difference_high",
    "hedges_g",
    "t_p",
    "t_holm",
    "wilcoxon_p",
    "wilcoxon_holm",
)


def study_metrics(study: Study) -> list[str]:
    """The metrics of the main table: the one that decides, that of the tail, then the rest."""
    return list(dict.fromkeys((study.metric, study.tail, *SCORE_METRICS)))


def main_table(study: Study, views: Sequence[ConditionView]) -> ReportTable:
    """The scores of every variant; behind the main metric and the tail's the difference in it."""
    caption = (
        f"{study.title}: mean ± standard deviation over seeds, test split; "
        f"differences to {study.reference}, paired; best means bold."
    )
    table = score_table(views, study_metrics(study), caption)
    main_at = table.columns.index("seeds") + 1
    if study.tail != study.metric:
        prefix = f"{names.metric(study.tail).title}: "
        table = _insert_differences(table, main_at + 2, views, study.tail, prefix)
    return _insert_differences(table, main_at + 1, views, study.metric)


def _insert_differences(
    table: ReportTable,
    at: int,
    views: Sequence[ConditionView],
    metric: str,
    prefix: str = "",
) -> ReportTable:
    """A score table with two more columns: the difference to the reference, and Holm's p."""
    cells = difference_cells(views, metric)
    headings = (f"{prefix}difference", f"{prefix}Holm p")
    return replace(
        table,
        columns=(*table.columns[:at], *headings, *table.columns[at:]),
        rows=[[*row[:at], *more, *row[at:]] for row, more in zip(table.rows, cells, strict=True)],
    )


def score_table(
    views: Sequence[ConditionView], metrics: Sequence[str], caption: str
) -> ReportTable:
    """Mean ± sd of every metric; the best mean of each data set and condition is bold."""
    key_columns = varying_columns(views)
    headings = [names.metric(metric).heading for metric in metrics]
    rows = []
    for view in views:
        means = {metric: view.means(metric) for metric in metrics}
        best = {metric: _best_variants(means[metric], metric) for metric in metrics}
        for variant, count in view.finished.items():
            cells = [
                _mean_cell(means[metric].get(variant), metric, strong=variant in best[metric])
                for metric in metrics
            ]
            rows.append([*varying_values(view, key_columns), variant, count, *cells])
    columns = (*key_columns, "variant", "seeds", *headings)
    return ReportTable(columns=columns, rows=rows, caption=caption)


def varying_columns(views: Sequence[ConditionView]) -> list[str]:
    """`data` and `condition`, each only if it differs between the views."""
    values = {"data": {v.data for v in views}, "condition": {v.condition for v in views}}
    return [name for name in values if len(values[name]) > 1]


def varying_values(view: ConditionView, columns: Sequence[str]) -> list[str]:
    """The view's values of the columns that varying_columns returns."""
    values = {"data": view.data, "condition": view.condition}
    return [values[name] for name in columns]


def _best_variants(means: Mapping[str, Summary], metric: str) -> set[str]:
    """The variants with the best mean as it is written; none where all are alike.

    None either for metrics of which more is not better.
    """
    written = {
        variant: names.metric(metric).value(summary.mean)
        for variant, summary in means.items()
        if summary.mean is not None
    }
    if len(set(written.values())) < 2 or names.metric(metric).is_descriptive:
        return set()
    pick_best = min if names.metric(metric).lower_is_better else max
    best = pick_best(written.values(), key=float)
    return {variant for variant, text in written.items() if text == best}


def _mean_cell(summary: Summary | None, metric: str, *, strong: bool = False) -> TableCell | None:
    if summary is None or summary.mean is None:
        return None
    text = names.metric(metric).value(summary.mean)
    if summary.sd is not None:
        text += f" ± {names.metric(metric).value(summary.sd)}"
    return TableCell(text=text, value=summary.mean, strong=strong)


def confidence_table(views: Sequence[ConditionView]) -> ReportTable:
    """Every modality's predicted confidence beside the truth that it predicts."""
    key_columns = varying_columns(views)
    rows = []
    for view in views:
        means = {fact: view.means(fact) for fact in confidence_facts(view)}
        for variant in view.finished:
            own = [fact for fact in means if variant in means[fact]]
            # A fact is called confidence/MODALITY/CLASSES/FACT; a row has all facts of one group.
            for group in dict.fromkeys(fact.rpartition("/")[0] for fact in own):
                _, modality, classes = group.split("/")
                cells = [
                    _mean_cell(means.get(f"{group}/{fact}", {}).get(variant), f"{group}/{fact}")
                    for fact in CONFIDENCE_FACTS
                ]
                rows.append(
                    [*varying_values(view, key_columns), variant, modality, classes, *cells]
                )
    caption = (
        "Confidence against the truth, over all classes and over the few-shot ones: what was "
        "predicted, what of it the fusion uses (drawn towards the mean of its class), the "
        "true-class probability that came, the rank correlation of the first with it over the "
        "records, and the fusion weight: its mean, its standard deviation over the records, and "
        "its rank correlation with how much better the modality alone knows the class than the "
        "others. The standard deviation over seeds says how stable each is."
    )
    facts = [fact.replace("_", " ") for fact in CONFIDENCE_FACTS]
    columns = (*key_columns, "variant", "modality", "classes", *facts)
    folded = len(rows) > MAX_UNFOLDED_ROWS
    return ReportTable(columns=columns, rows=rows, caption=caption, folded=folded)


def confidence_facts(view: ConditionView) -> list[str]:
    """The metrics confidence/MODALITY/CLASSES/FACT that the view's rows have."""
    return [name for name in view.test_metrics("confidence") if name.count("/") == 3]


def difference_cells(views: Sequence[ConditionView], metric: str) -> list[list[TableCell | None]]:
    """For each row of `score_table`: the difference to the reference, and its p after Holm."""
    rows: list[list[TableCell | None]] = []
    for view in views:
        comparisons = {comparison.name: comparison for comparison in view.comparisons(metric)}
        for variant in view.finished:
            comparison = comparisons.get(variant)
            if comparison is None or comparison.difference is None:
                rows.append([None, None])
                continue
            gap = signed_difference(comparison.difference, metric)
            interval = _interval_text(comparison, metric)
            text = f"{gap} ({interval})" if interval else gap
            difference = TableCell(text=text, value=comparison.difference)
            rows.append([difference, _p_cell(comparison.t_holm)])
    return rows


def signed_difference(value: float, metric: str) -> str:
    """A difference of two values with its sign, in points for shares, in the metric's digits."""
    unit = names.metric(metric)
    return format_signed(value * unit.scale, unit.digits)


def _interval_text(comparison: Comparison, metric: str) -> str:
    if comparison.low is None or comparison.high is None:
        return ""
    low, high = (signed_difference(v, metric) for v in (comparison.low, comparison.high))
    return f"{low} to {high}"


def _p_cell(p: float | None) -> TableCell | None:
    if p is None:
        return None
    return TableCell(text=f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}", value=p)


def tidy_table(views: Sequence[ConditionView], metrics: Sequence[str]) -> ReportTable:
    """For programs: a row for each data set, condition, variant and metric; shares from 0 to 1."""
    rows: list[list[CellContent]] = []
    for view in views:
        for metric in metrics:
            comparisons = {comparison.name: comparison for comparison in view.comparisons(metric)}
            for variant, mean in view.means(metric).items():
                row_key = [view.data, view.condition, variant, metric]
                score = [mean.n, mean.mean, mean.sd, mean.low, mean.high]
                rows.append([*row_key, *score, *_tidy_comparison(comparisons.get(variant))])
    return ReportTable(columns=TIDY_COLUMNS, rows=rows)


def _tidy_comparison(comparison: Comparison | None) -> list[CellContent]:
    """The last nine columns of the table for programs."""
    if comparison is None:
        return [None] * 9
    return [
        comparison.reference,
        comparison.difference,
        comparison.low,
        comparison.high,
        comparison.effect,
        comparison.t_p,
        comparison.t_holm,
        comparison.wilcoxon_p,
        comparison.wilcoxon_holm,
    ]


def significance_table(views: Sequence[ConditionView], metric: str, caption: str) -> ReportTable:
    """Each variant against the reference: difference, interval, verdict, effect and p values."""
    key_columns = varying_columns(views)
    rows = []
    for view in views:
        for comparison in view.comparisons(metric):
            difference = effect = None
            if comparison.difference is not None:
                gap = signed_difference(comparison.difference, metric)
                difference = TableCell(text=gap, value=comparison.difference)
            if comparison.effect is not None:
                text = f"{comparison.effect:.2f}".replace("-", "−")
                effect = TableCell(text=text, value=comparison.effect)
            row = [
                *varying_values(view, key_columns),
                comparison.name,
                difference,
                _interval_text(comparison, metric) or None,
                verdict_text(comparison, metric),
                effect,
                _p_cell(comparison.t_p),
                _p_cell(comparison.t_holm),
                _p_cell(comparison.wilcoxon_p),
                _p_cell(comparison.wilcoxon_holm),
            ]
            rows.append(row)
    columns = (
        *key_columns,
        "variant",
        "difference",
        "95 % interval",
        "shown",
        "Hedges g",
        "t p",
        "Holm",
        "Wilcoxon p",
        "Holm ",  # of the Wilcoxon test; the space keeps the two apart
    )
    return ReportTable(columns=columns, rows=rows, caption=caption)


def verdict_text(comparison: Comparison, metric: str) -> str:
    """better, worse, not shown to differ, equal, or why it was not tested."""
    if comparison.verdict == "noise":
        return "not shown to differ"
    if comparison.verdict == "equal":
        return "equal"
    if comparison.verdict == "untested":
        return f"not tested: {comparison.reason}"
    is_higher = comparison.verdict == "higher"
    return "better" if is_higher != names.metric(metric).lower_is_better else "worse"
