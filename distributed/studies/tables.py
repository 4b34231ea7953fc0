"""The tables of a study: scores, differences to the reference, their tests, confidences against the truth; and one for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distributed.reporting.significance import Comparison, Summary
from distributed.reporting.tables import ReportTable, TableCell
from distributed.reporting.verdicts import format_signed
from distributed.studies.views import (
    PLACES,
    ConditionView,
    digits_of,
    in_percent,
    name_of,
    scale_of,
    shown,
)
from model.metrics.names import CONFIDENCE_FACTS
from model.metrics.names import metric as metric_named

SCORE_METRICS = (
    "macro_f1",
    "worst_recall",
    "many_shot_accuracy",
    "medium_shot_accuracy",
    "few_shot_accuracy",
    "accuracy",
    "ece",
)
MOST_OPEN = 60  # rows of a table that is not folded


def score_table(seen: Sequence[ConditionView], metrics: Sequence[str], caption: str) -> ReportTable:
    """Mean ± sd of every metric; the best mean of each data set and condition is bold."""
    labels = varying_columns(seen)
    head = [
        *labels,
        "variant",
        "seeds",
        *(f"{name_of(m)}{' %' if in_percent(m) else ''}" for m in metrics),
    ]
    rows = []
    for view in seen:
        means = {m: view.means(m) for m in metrics}
        best = {m: _best(values, m) for m, values in means.items()}
        for name, count in view.finished.items():
            cells = [_mean_cell(means[m].get(name), m, name in best[m]) for m in metrics]
            rows.append([*varying_values(view, labels), name, count, *cells])
    return ReportTable(columns=tuple(head), rows=rows, caption=caption)


def varying_columns(seen: Sequence[ConditionView]) -> list[str]:
    """data and condition only where they vary."""
    parts = {"data": {v.data for v in seen}, "condition": {v.condition for v in seen}}
    return [name for name, values in parts.items() if len(values) > 1]


def varying_values(view: ConditionView, labels: Sequence[str]) -> list[str]:
    return [{"data": view.data, "condition": view.condition}[name] for name in labels]


def _best(means: Mapping[str, Summary], metric: str) -> set[str]:
    """The best as they are shown; nobody where all are alike, and where more is not better."""
    known = {name: shown(metric, s.mean) for name, s in means.items() if s.mean is not None}
    if len(set(known.values())) < 2 or metric.partition("/")[0] in PLACES:
        return set()
    top = (min if metric_named(metric).lower_is_better else max)(known.values(), key=float)
    return {name for name, text in known.items() if text == top}


def _mean_cell(summary: Summary | None, metric: str, strong: bool) -> TableCell | None:
    if summary is None or summary.mean is None:
        return None
    spread = "" if summary.sd is None else f" ± {shown(metric, summary.sd)}"
    return TableCell(
        text=f"{shown(metric, summary.mean)}{spread}", value=summary.mean, strong=strong
    )


def confidence_table(seen: Sequence[ConditionView]) -> ReportTable:
    """Every modality's confidence in every variant against the truth that it speaks of, and how the seeds agree on it."""
    labels = varying_columns(seen)
    rows = []
    for view in seen:
        facts = sorted(
            {
                n.removeprefix("test/")
                for r in view.rows
                for n in r
                if n.startswith("test/confidence/") and n.count("/") == 4
            }
        )
        means = {fact: view.means(fact) for fact in facts}
        for name in view.finished:
            for place in dict.fromkeys(
                fact.rpartition("/")[0] for fact in facts if name in means[fact]
            ):
                _, modality, group = place.split("/")
                told = [
                    _mean_cell(means.get(f"{place}/{fact}", {}).get(name), fact, False)
                    for fact in CONFIDENCE_FACTS
                ]
                rows.append([*varying_values(view, labels), name, modality, group, *told])
    caption = (
        "Confidence against the truth, over all classes and over the few-shot ones: what was predicted, what of it the fusion uses "
        "(drawn towards the mean of its class), the true-class probability that came, the rank correlation of the first with it over the "
        "records, and the fusion weight. The standard deviation over seeds says how stable each is."
    )
    columns = (
        *labels,
        "variant",
        "modality",
        "classes",
        *(fact.replace("_", " ") for fact in CONFIDENCE_FACTS),
    )
    return ReportTable(columns=columns, rows=rows, caption=caption, folded=len(rows) > MOST_OPEN)


def difference_columns(
    seen: Sequence[ConditionView], metric: str, prefix: str = ""
) -> tuple[tuple[str, str], list[list[TableCell | None]]]:
    """Difference to the reference with its interval, and Holm's p, for each row of `score_table`."""
    scale, _ = scale_of(metric)
    digits = digits_of(metric)
    rows: list[list[TableCell | None]] = []
    for view in seen:
        found = {c.name: c for c in view.comparisons(metric)}
        for name in view.finished:
            c = found.get(name)
            rows.append(
                [None, None]
                if c is None or c.difference is None
                else [_gap_cell(c, scale, digits), _p_cell(c.t_holm)]
            )
    return (f"{prefix}difference", f"{prefix}Holm p"), rows


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
)
TIDY_COLUMNS += ("difference_high", "hedges_g", "t_p", "t_holm", "wilcoxon_p", "wilcoxon_holm")


def tidy_table(seen: Sequence[ConditionView], metrics: Sequence[str]) -> ReportTable:
    """For programs: a line a data set, condition, variant and metric, shares as shares, with everything that is known of it."""
    rows = []
    for view in seen:
        for metric in metrics:
            against = {c.name: c for c in view.comparisons(metric)}
            for name, s in view.means(metric).items():
                c = against.get(name)
                tested = (
                    [None] * 8
                    if c is None
                    else [
                        c.reference,
                        c.difference,
                        c.low,
                        c.high,
                        c.effect,
                        c.t_p,
                        c.t_holm,
                        c.wilcoxon_p,
                    ]
                )
                last = None if c is None else c.wilcoxon_holm
                rows.append(
                    [
                        view.data,
                        view.condition,
                        name,
                        metric,
                        s.n,
                        s.mean,
                        s.sd,
                        s.low,
                        s.high,
                        *tested,
                        last,
                    ]
                )
    return ReportTable(columns=TIDY_COLUMNS, rows=rows)


def _gap_cell(c: Comparison, scale: float, digits: int) -> TableCell:
    assert c.difference is not None
    between = (
        ""
        if c.low is None or c.high is None
        else f" ({format_signed(c.low * scale, digits)} to {format_signed(c.high * scale, digits)})"
    )
    return TableCell(
        text=f"{format_signed(c.difference * scale, digits)}{between}", value=c.difference
    )


def _p_cell(p: float | None) -> TableCell | None:
    return None if p is None else TableCell(text="< 0.001" if p < 0.001 else f"{p:.3f}", value=p)


def significance_table(seen: Sequence[ConditionView], metric: str, caption: str) -> ReportTable:
    """Each variant against the reference: difference, interval, effect, both tests before and after Holm's correction, the verdict."""
    scale, _ = scale_of(metric)
    digits = digits_of(metric)
    labels = varying_columns(seen)
    head = [
        *labels,
        "variant",
        "difference",
        "95 % interval",
        "shown",
        "Hedges g",
        "t p",
        "Holm",
        "Wilcoxon p",
        "Holm ",
    ]
    rows = []
    for view in seen:
        for c in view.comparisons(metric):
            low, high = (
                None if v is None else format_signed(v * scale, digits) for v in (c.low, c.high)
            )
            gap = (
                None
                if c.difference is None
                else TableCell(text=format_signed(c.difference * scale, digits), value=c.difference)
            )
            between = None if low is None else f"{low} to {high}"
            p_values = [_p_cell(p) for p in (c.t_p, c.t_holm, c.wilcoxon_p, c.wilcoxon_holm)]
            effect = (
                None
                if c.effect is None
                else TableCell(text=f"{c.effect:.2f}".replace("-", "−"), value=c.effect)
            )
            rows.append(
                [
                    *varying_values(view, labels),
                    c.name,
                    gap,
                    between,
                    verdict_text(c, metric),
                    effect,
                    *p_values,
                ]
            )
    return ReportTable(columns=tuple(head), rows=rows, caption=caption)


def verdict_text(c: Comparison, metric: str) -> str:
    good = (c.verdict == "higher") != (metric_named(metric).lower_is_better)
    words = {"noise": "inside the noise", "equal": "equal", "untested": f"not tested: {c.reason}"}
    return words.get(c.verdict) or ("better" if good else "worse")
