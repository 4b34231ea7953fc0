"""What a study shows, in sentences: who differs from the reference, and what its claims came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed.reporting.significance import (
    MIN_SEEDS,
    Summary,
    compare_to_reference,
    paired_comparison,
    summarise,
)
from distributed.reporting.tables import ReportTable, TableCell
from distributed.reporting.verdicts import describe_whether_helps, format_signed
from distributed.studies.cells import PLACEHOLDER, DataSetCells, fill_placeholders
from distributed.studies.definition import Claim, Study
from distributed.studies.tables import varying_columns, varying_values, verdict_text
from distributed.studies.views import ConditionView, digits_of, name_of, scale_of
from model.metrics.names import metric as metric_named


def comparison_lines(seen: Sequence[ConditionView], metric: str) -> list[str]:
    """One line a data set and condition: who is better, who is worse, who is inside the noise."""
    lines = []
    for view in seen:
        groups: dict[str, list[str]] = {}
        if view.scores(metric) and view.study.reference not in view.scores(metric):
            lines.append(
                f"{_where(view, seen)}{view.study.reference} has no result in {name_of(metric)}: nothing is compared with it."
            )
        for c in view.comparisons(metric):
            kind = verdict_text(c, metric).split(":")[0]
            gap = (
                ""
                if c.difference is None or kind == "equal"
                else f" ({format_signed(c.difference * scale_of(metric)[0], digits_of(metric))})"
            )
            groups.setdefault(kind, []).append(f"{c.name}{gap}")
        order = ("better", "worse", "inside the noise", "equal", "not tested")
        said = "; ".join(f"{kind}: {', '.join(groups[kind])}" for kind in order if kind in groups)
        if said:
            lines.append(
                f"{_where(view, seen)}{name_of(metric)[0].upper()}{name_of(metric)[1:]}. {said[0].upper()}{said[1:]}."
            )
    return lines


def _where(view: ConditionView, seen: Sequence[ConditionView]) -> str:
    """Data set and condition, as far as they vary."""
    words = ", ".join(varying_values(view, varying_columns(seen)))
    return f"{words}: " if words else ""


def answers(
    study: Study, plans: Mapping[str, DataSetCells], seen: Sequence[ConditionView]
) -> tuple[list[str], ReportTable | None]:
    """The study's claims: sentences for `does it help?`, a table of limits with what was measured."""
    lines, rows = [], []
    labels = varying_columns(seen)
    for claim in study.claims:
        for view in seen:
            plan = plans.get(view.data)
            for words in _bindings(claim, view, plan):
                bound = replace(
                    claim,
                    **{
                        n: fill_placeholders(getattr(claim, n), words)
                        for n in ("text", "variant", "metric", "against")
                    },
                )
                asked = {fill_placeholders(name, words) for name in claim.conditions}
                if (asked and view.condition not in asked) or not _applies(bound, view, plan):
                    continue
                scores = view.scores(bound.metric)
                missing = [
                    name for name in (bound.variant, bound.against) if name and name not in scores
                ]
                reason = (
                    f"no result of {' and '.join(missing)} in {name_of(bound.metric)}"
                    if missing
                    else ""
                )
                if claim.at_least is not None or claim.at_most is not None:
                    found = (
                        [None, None, 0, f"not measured: {reason}"]
                        if missing
                        else _limit(bound, scores)
                    )
                    rows.append([bound.text, *varying_values(view, labels), *found])
                else:
                    said = (
                        f"{bound.text[0].upper()}{bound.text[1:]} is not measured: {reason}."
                        if missing
                        else _helps(bound, view)
                    )
                    lines.append(f"{_where(view, seen)}{said}")
    columns = ("claim", *labels, "measured", "95 % interval", "seeds", "verdict")
    return lines, ReportTable(
        columns=columns, rows=rows, caption="Claims with limits, and what was measured."
    ) if rows else None


def _applies(claim: Claim, view: ConditionView, plan: DataSetCells | None) -> bool:
    """Whether the study has what the claim speaks of here: its variants, two of them if it compares, and another modality to weigh."""
    if claim.variant == claim.against or (
        claim.metric.startswith("weight/") and plan and len(plan.modalities) < 2
    ):
        return False
    planned = (
        {c.variant for c in plan.cells if c.condition == view.condition}
        if plan
        else set(view.finished)
    )
    return {claim.variant, claim.against} - {""} <= planned


def _bindings(
    claim: Claim, view: ConditionView, plan: DataSetCells | None
) -> list[Mapping[str, str]]:
    """What {modality} stands for: the condition's own, else each modality of the data set in turn."""
    own = next((c.bound for c in plan.conditions if c.name == view.condition), {}) if plan else {}
    if own or not PLACEHOLDER.search(claim.text + claim.variant + claim.metric + claim.against):
        return [own]
    return [{"modality": m} for m in plan.modalities] if plan else []


def _helps(claim: Claim, view: ConditionView) -> str:
    """Against the reference, by the corrected test of the study's tables; against another variant, by the one test that was planned."""
    metric = claim.metric
    scores = view.scores(metric)
    family = (
        scores
        if claim.against == view.study.reference
        else {name: scores[name] for name in (claim.variant, claim.against)}
    )
    tested = next(c for c in compare_to_reference(family, claim.against) if c.name == claim.variant)
    scale, unit = scale_of(metric)
    return describe_whether_helps(
        claim.text,
        tested,
        name_of(metric),
        scale=scale,
        unit=unit,
        lower_is_better=metric_named(metric).lower_is_better,
    )


def _limit(claim: Claim, scores: Mapping[str, Mapping[int, float]]) -> list[Any]:
    """Measured, interval, seeds, verdict: whether the mean lies where the claim puts it, and whether its whole interval does, one way or
    the other. With few seeds an interval says too little for that."""
    scale, digits = scale_of(claim.metric)[0], digits_of(claim.metric)
    if claim.against:
        gap = paired_comparison(scores[claim.variant], scores[claim.against])
        found = Summary(n=gap.n, mean=gap.difference, low=gap.low, high=gap.high, reason=gap.reason)
    else:
        found = summarise(list(scores[claim.variant].values()))
    if found.mean is None:
        return [None, None, found.n, f"not measured: {found.reason}"]

    def write(value: float) -> str:
        return (
            format_signed(value * scale, digits) if claim.against else f"{value * scale:.{digits}f}"
        )

    lowest, highest = (
        (-math.inf if claim.at_least is None else claim.at_least),
        (math.inf if claim.at_most is None else claim.at_most),
    )
    measured = TableCell(text=write(found.mean), value=found.mean)
    inside = lowest <= found.mean <= highest
    outcome = "holds" if inside else "does not hold"
    if found.low is None or found.high is None:
        outcome += f" on the mean, untested: {found.reason}"
    elif found.n < MIN_SEEDS:
        outcome += f" on the mean, untested: {MIN_SEEDS} seeds and more can tell"
    elif not (
        lowest <= found.low and found.high <= highest
        if inside
        else found.high < lowest or found.low > highest
    ):
        outcome += " on the mean, the interval reaches past the limit"
    between = (
        None
        if found.low is None or found.high is None
        else f"{write(found.low)} to {write(found.high)}"
    )
    return [measured, between, found.n, outcome]
