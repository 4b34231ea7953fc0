"""What the terminal shows of an evaluation and of a batch prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distributed.inference.decision_tables import decision_texts
from distributed.inference.weighing import GIVEN
from distributed.reporting.tables import ReportTable, to_text
from distributed.runtime.storage import join
from model.metrics.names import METRICS, PER_CLASS, metric, worst_class
from model.schema import join_names

if TYPE_CHECKING:
    from distributed.inference.options import EvaluateOptions
    from distributed.inference.results import EvaluationResult, PredictResult
    from distributed.inference.score import PredictionScore


def evaluation_text(result: EvaluationResult) -> str:
    """Returns conditions, metrics with intervals, recalls, confidences and remarks as text."""
    options = result.options
    cut = ""
    if options.shift:
        cut = f", cut from {result.available:,} by {options.shift} ({_ratio_text(result)})"
    lines = [
        f"checkpoint  {options.checkpoint}",
        f"data        {options.data} {options.split}: {result.rows:,} rows{cut}",
        *(f"conditions  {text}" for text in _condition_texts(options)),
        f"experts     {_experts_text(result)}",
    ]
    parts = [
        "\n".join(lines),
        to_text(_metric_table(result)),
        *decision_texts(result),
        to_text(_class_table(result)),
        to_text(_confidence_table(result)),
    ]
    remarks = [*result.remarks, *_metric_notes(result.notes)]
    if remarks:
        parts.append("\n".join(f"note: {text}" for text in remarks))
    return "\n\n".join(parts)


def _ratio_text(result: EvaluationResult) -> str:
    """How steep the cut is: every class keeps a row, so few rows fall short of a steep shape."""
    sizes = [count for count in result.class_rows.values() if count]
    ratio = max(sizes) / min(sizes)
    return f"the largest class has {ratio:.3g} times the rows of the smallest"


def _condition_texts(options: EvaluateOptions) -> list[str]:
    given = {
        "only": options.modalities,
        "corrupt": options.corrupt,
        "known prior": options.prior,
        "costs": options.cost,
    }
    texts = [f"{name} {value}" for name, value in given.items() if value]
    if options.trust_unfamiliar:
        texts.append("trusts what is unlike training")
    return texts


def _experts_text(result: EvaluationResult) -> str:
    """How the experts were weighted, and why another method was refused."""
    aggregation = result.aggregation
    weights = " ".join(
        metric(f"expert_weight/{expert}").value(weight)
        for expert, weight in enumerate(aggregation.weights_E.tolist())
    )
    text = f"{aggregation.method} weights {weights}"
    if aggregation.method == GIVEN:
        text = f"known prior, weights {weights}"
    if aggregation.fell_back:
        text += f"; {result.requested_aggregation} was refused ({aggregation.reason})"
    return text


def _metric_table(result: EvaluationResult) -> ReportTable:
    rows = []
    for name, entry in METRICS.items():
        low, high = result.intervals.get(name, (None, None))
        values = (result.metrics.get(name), low, high)
        heading = entry.heading
        if name == "worst_recall" and (worst := worst_class(result.metrics, [*result.class_rows])):
            heading += f" ({worst})"
        rows.append((heading, *(entry.value(value) for value in values)))
    return ReportTable(columns=("metric", "value", "95 % from", "to"), rows=rows)


def _class_table(result: EvaluationResult) -> ReportTable:
    rows = []
    for label, count in result.class_rows.items():
        names = [f"{family}/{label}" for family in PER_CLASS]
        values = (metric(name).value(result.metrics.get(name)) for name in names)
        rows.append((label, f"{count:,}", *values))
    headings = (metric(family).heading for family in PER_CLASS)
    return ReportTable(columns=("class", "rows", *headings), rows=rows)


def _confidence_table(result: EvaluationResult) -> ReportTable:
    """Predicted against true probability of the true class, by modality and shot group."""
    rows = []
    for row in result.confidence:
        place = f"confidence/{row['modality']}/{row['group']}"
        values = []
        for fact in ("predicted", "true", "rank_correlation", "weight", "weight_correlation"):
            value = row[fact]
            assert not isinstance(value, str)  # only the modality and the group are texts
            values.append(metric(f"{place}/{fact}").value(value))
        group = "all classes alike" if row["group"] == "all" else row["group"]
        rows.append((f"{row['modality']}, {group}", f"{row['rows']:,}", *values))
    return ReportTable(
        columns=("confidence", "rows", "predicted", "true", "rank corr.", "weight", "weight corr."),
        rows=rows,
    )


def _metric_notes(notes: Mapping[str, str]) -> list[str]:
    """Notes on metrics, those with the same text on one line."""
    names: dict[str, list[str]] = {}
    for name, text in notes.items():
        names.setdefault(text, []).append(name)
    return [f"{join_names(same).replace('_', ' ')}: {text}" for text, same in names.items()]


SCORE_LINES = (
    "balanced_accuracy",
    "accuracy",
    "macro_f1",
    "worst_recall",
    "coverage",
    "mean_set_size",
    "mean_cost",
    "most_probable/mean_cost",
)


def prediction_text(result: PredictResult) -> str:
    """Returns counts, classes, fusion weights and notes of a batch prediction as text."""
    lines = [
        f"predicted   {result.predicted:,} of {result.rows:,} rows in {result.seconds:.1f} s "
        f"({result.rows_per_second:,.0f} rows/s)"
    ]
    if result.refused:
        lines.append(f"refused     {result.refused:,}: the rows with a reason in the predictions")
        lines += [f"  {count:,} x {reason}" for reason, count in result.reasons.items()]
    if result.options.abstain:
        lines.append(
            f"abstained   {result.abstained:,}: best probability below {result.options.abstain:g}"
        )
    lines.append(f"experts     {_aggregation_text(result.aggregation)}")
    total = max(1, sum(result.class_rows.values()))
    table = ReportTable(
        columns=("class", "rows", "%"),
        rows=[
            (name, f"{count:,}", f"{100 * count / total:.1f}")
            for name, count in result.class_rows.items()
        ],
    )
    lines += ["", to_text(table), ""]
    if result.set_rows:
        lines += [_set_sizes_text(result), ""]
    if result.score:
        lines += [score_text(result.score), ""]
    lines += [
        f"fusion weight {name}: {metric(f'weight/{name}').value(value)}"
        for name, value in result.weights.items()
    ]
    lines += [f"note: {text}" for text in result.notes]
    lines += [f"warning: {text}" for text in result.warnings]
    written = {"csv": "predictions.csv", "parquet": "predictions/*.parquet"}[result.options.format]
    return "\n".join([*lines, "", f"written     {join(result.out, written)}"])


def _set_sizes_text(result: PredictResult) -> str:
    """How large the prediction sets are."""
    total = sum(result.set_rows.values())
    mean = sum(size * rows for size, rows in result.set_rows.items()) / max(1, total)
    one = result.set_rows.get(1, 0) / max(1, total)
    return (
        f"sets        {mean:.2f} classes on average, one class in {100 * one:.1f} % of the rows, "
        f"at most {max(result.set_rows)}; meant to hold the true class of "
        f"{100 * (result.options.coverage or 0):g} % of each class"
    )


def score_text(score: PredictionScore) -> str:
    """How predictions compare with the labels of their rows."""
    lines = [f"score       {score.decided:,} rows with a label and a class"]
    shown = [metric(name) for name in SCORE_LINES if name in score.metrics]
    width = max((len(named.title) for named in shown), default=0) + 2
    for named in shown:
        more = f" ({score.worst_class})" if named.name == "worst_recall" else ""
        lines.append(f"  {named.title:{width}}{named.text(score.metrics[named.name])}{more}")
    return "\n".join(lines)


def _aggregation_text(facts: Mapping[str, str | float]) -> str:
    method = facts["aggregation"]
    text = "known prior" if method == GIVEN else f"{method} weights"
    if facts.get("aggregation/fell_back"):
        text += f"; {facts['aggregation/asked']} was refused ({facts['aggregation/reason']})"
    return text
