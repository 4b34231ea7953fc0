"""Says in sentences what a study shows: who differs from the reference, and whether claims hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from distributed.reporting.significance import (
    MIN_SEEDS,
    Scores,
    Summary,
    compare_to_reference,
    paired_comparison,
    summarise,
)
from distributed.reporting.tables import ReportTable, TableCell
from distributed.reporting.verdicts import describe_whether_helps
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Claim, Study
from distributed.studies.pages.tables import (
    signed_difference,
    varying_columns,
    varying_values,
    verdict_text,
)
from distributed.studies.placeholders import PLACEHOLDER, fill_text
from distributed.studies.views import ConditionView
from model.metrics import names

VERDICT_ORDER = ("better", "worse", "not shown to differ", "equal", "not tested")


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """What a claim came to on one data set under one condition.

    claim: with its placeholders filled in.
    outcome: for a claim with a limit `holds` or `does not hold` and how surely, without a limit the
    whole sentence.
    measured: the mean (or mean difference) that the limit applies to; None if it was not measured.
    """

    claim: Claim
    data: str
    condition: str
    outcome: str
    measured: Summary | None = None


def comparison_lines(views: Sequence[ConditionView], metric: str) -> list[str]:
    """A line for each data set and condition: who is better, worse, or not shown to differ."""
    lines = []
    title = names.metric(metric).title
    for view in views:
        where = _where(view, views)
        scores = view.scores(metric)
        reference = view.study.reference
        if scores and reference not in scores:
            lines.append(
                f"{where}{reference} has no result in {title}: nothing is compared with it."
            )
        by_verdict: dict[str, list[str]] = {}
        for comparison in view.comparisons(metric):
            verdict = verdict_text(comparison, metric).split(":")[0]
            text = comparison.name
            if comparison.difference is not None and verdict != "equal":
                text += f" ({signed_difference(comparison.difference, metric)})"
            by_verdict.setdefault(verdict, []).append(text)
        parts = [
            f"{verdict}: {', '.join(by_verdict[verdict])}"
            for verdict in VERDICT_ORDER
            if verdict in by_verdict
        ]
        if parts:
            lines.append(f"{where}{_capitalised(title)}. {_capitalised('; '.join(parts))}.")
    return lines


def _capitalised(text: str) -> str:
    """The text with a capital first letter; the rest keeps its case, unlike with str.capitalize."""
    return text[0].upper() + text[1:]


def _where(view: ConditionView, views: Sequence[ConditionView]) -> str:
    """The view's data set and condition, as far as they differ between the views."""
    condition = ", ".join(varying_values(view, varying_columns(views)))
    return f"{condition}: " if condition else ""


def check_claims(
    study: Study, planned: Mapping[str, DataSetCells], views: Sequence[ConditionView]
) -> list[ClaimResult]:
    """The result of every claim on every data set and under every condition that it concerns."""
    results = []
    for claim in study.claims:
        for view in views:
            part = planned.get(view.data)  # None for a mean over data sets
            for meanings in _placeholder_meanings(claim, view, part):
                filled = _fill_claim(claim, meanings)
                concerns_condition = not filled.conditions or view.condition in filled.conditions
                if concerns_condition and _applies(filled, view, part):
                    results.append(_check_claim(filled, view))
    return results


def claim_sentences(results: Sequence[ClaimResult], views: Sequence[ConditionView]) -> list[str]:
    """A sentence for every claim without a limit."""
    prefixes = {(view.data, view.condition): _where(view, views) for view in views}
    return [
        f"{prefixes[result.data, result.condition]}{result.outcome}"
        for result in results
        if not result.claim.has_limit
    ]


def claim_table(
    results: Sequence[ClaimResult], views: Sequence[ConditionView]
) -> ReportTable | None:
    """The claims with a limit and what was measured; None if there are none."""
    key_columns = varying_columns(views)
    view_of = {(view.data, view.condition): view for view in views}
    rows = []
    for result in results:
        if not result.claim.has_limit:
            continue
        measured = interval = None
        summary = result.measured
        if summary is not None and summary.mean is not None:
            text = _format_measured(result.claim, summary.mean)
            measured = TableCell(text=text, value=summary.mean)
            if summary.low is not None and summary.high is not None:
                low, high = (_format_measured(result.claim, v) for v in (summary.low, summary.high))
                interval = f"{low} to {high}"
        view = view_of[result.data, result.condition]
        seeds = summary.n if summary is not None else 0
        rows.append(
            [
                result.claim.text,
                *varying_values(view, key_columns),
                measured,
                interval,
                seeds,
                result.outcome,
            ]
        )
    if not rows:
        return None
    return ReportTable(
        columns=("claim", *key_columns, "measured", "95 % interval", "seeds", "verdict"),
        rows=rows,
        caption="Claims with limits, and what was measured.",
    )


def _format_measured(claim: Claim, value: float) -> str:
    """A difference with its sign where the claim compares two variants, else the value itself."""
    if claim.against:
        return signed_difference(value, claim.metric)
    return names.metric(claim.metric).text(value)


def _placeholder_meanings(
    claim: Claim, view: ConditionView, part: DataSetCells | None
) -> list[Mapping[str, str]]:
    """Returns the modality names to put in place of {modality}.

    They are the condition's own, else there is one entry for each modality of the data set.
    """
    if part is None:
        return [{}] if not _has_placeholder(claim) else []
    of_condition = part.placeholders(view.condition)
    if of_condition or not _has_placeholder(claim):
        return [of_condition]
    return [{"modality": modality} for modality in part.modalities]


def _has_placeholder(claim: Claim) -> bool:
    texts = claim.text + claim.variant + claim.metric + claim.against
    return PLACEHOLDER.search(texts) is not None


def _fill_claim(claim: Claim, meanings: Mapping[str, str]) -> Claim:
    return replace(
        claim,
        text=fill_text(claim.text, meanings),
        variant=fill_text(claim.variant, meanings),
        metric=fill_text(claim.metric, meanings),
        against=fill_text(claim.against, meanings),
        conditions=tuple(fill_text(name, meanings) for name in claim.conditions),
    )


def _applies(claim: Claim, view: ConditionView, part: DataSetCells | None) -> bool:
    """Whether the study has what the claim is about here.

    That is its variant and the one it is compared with, and a second modality for a claim about
    fusion weights.
    """
    if claim.variant == claim.against:
        return False
    if claim.metric.startswith("weight/") and part is not None and len(part.modalities) < 2:
        return False
    if part is None:
        available = set(view.finished)
    else:
        available = {cell.variant for cell in part.cells if cell.condition == view.condition}
    return claim.variant in available and (not claim.against or claim.against in available)


def _check_claim(claim: Claim, view: ConditionView) -> ClaimResult:
    """What a claim comes to in a view."""
    scores = view.scores(claim.metric)
    compared = [name for name in (claim.variant, claim.against) if name]
    missing = [name for name in compared if name not in scores]
    measured = None
    if missing:
        title = names.metric(claim.metric).title
        reason = f"no result of {' and '.join(missing)} in {title}"
        outcome = f"not measured: {reason}"
        if not claim.has_limit:
            outcome = f"{_capitalised(claim.text)} is {outcome}."
    elif claim.has_limit:
        measured = _measure(claim, scores)
        outcome = _limit_outcome(claim, measured)
    else:
        outcome = _whether_it_helps(claim, view)
    return ClaimResult(
        claim=claim,
        data=view.data,
        condition=view.condition,
        outcome=outcome,
        measured=measured,
    )


def _whether_it_helps(claim: Claim, view: ConditionView) -> str:
    """The sentence that answers a claim without a limit.

    Against the reference it follows the corrected test of the study's tables; against another
    variant the one test that was planned.
    """
    scores = view.scores(claim.metric)
    if claim.against != view.study.reference:
        scores = {name: scores[name] for name in (claim.variant, claim.against)}
    comparisons = compare_to_reference(scores, claim.against)
    comparison = next(c for c in comparisons if c.name == claim.variant)
    metric = names.metric(claim.metric)
    return describe_whether_helps(claim.text, comparison, metric)


def _measure(claim: Claim, scores: Mapping[str, Scores]) -> Summary:
    """The mean of the variant, or of its paired difference to the other one, over seeds."""
    if not claim.against:
        return summarise(list(scores[claim.variant].values()))
    gap = paired_comparison(scores[claim.variant], scores[claim.against])
    return Summary(n=gap.n, mean=gap.difference, low=gap.low, high=gap.high, reason=gap.reason)


def _limit_outcome(claim: Claim, measured: Summary) -> str:
    """Whether the mean lies where the claim puts it, and whether its whole interval does.

    With few seeds an interval covers too little to say the latter.
    """
    if measured.mean is None:
        return f"not measured: {measured.reason}"
    lowest = -math.inf if claim.at_least is None else claim.at_least
    highest = math.inf if claim.at_most is None else claim.at_most
    holds = lowest <= measured.mean <= highest
    outcome = "holds" if holds else "does not hold"
    if measured.low is None or measured.high is None:
        return f"{outcome} on the mean, untested: {measured.reason}"
    if measured.n < MIN_SEEDS:
        return f"{outcome} on the mean, untested: {MIN_SEEDS} seeds and more can tell"
    if holds:
        decided = lowest <= measured.low and measured.high <= highest
    else:
        decided = measured.high < lowest or measured.low > highest
    return outcome if decided else f"{outcome} on the mean, the interval reaches past the limit"
