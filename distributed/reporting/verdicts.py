"""Says in sentences what comparisons show and do not show."""

from __future__ import annotations

import itertools

from distributed.reporting.significance import ALPHA, Comparison
from model.metrics.names import Metric


def describe_comparison(comparison: Comparison, metric: Metric) -> str:
    """Returns one sentence that says what the comparison shows and what it does not."""
    c = comparison
    subject = f"{c.name} against {c.reference} in {metric.title}"
    if c.difference is None:
        return f"{subject}: nothing to compare ({c.reason})."
    if c.verdict == "equal":
        return f"{c.name} and {c.reference} have the same {metric.title} in all {c.n} seeds."
    difference = _describe_difference(c.difference, metric)
    if c.t_holm is None or c.low is None or c.high is None:
        return f"{subject}: {difference}, and nothing can be said about chance ({c.reason})."
    low, high = (format_signed(v * metric.scale, metric.digits) for v in (c.low, c.high))
    evidence = (
        f"{difference}, 95 % interval {low} to {high}, {c.n} seeds, {format_p_value(comparison)}"
    )
    if c.verdict == "noise":
        significant_alone = c.t_p is not None and c.t_p < ALPHA and not c.low <= 0 <= c.high
        why = "not shown to differ"
        if significant_alone:
            correction = f"the correction for {c.family} comparisons"
            why = f"does not survive {correction}, so not shown to differ"
        return f"{subject}: {why} ({evidence})."
    direction = "better" if is_better(comparison, metric) else "worse"
    return f"{c.name} is {direction} than {c.reference} in {metric.title} ({evidence})."


def describe_whether_helps(claim: str, comparison: Comparison, metric: Metric) -> str:
    """Returns the plain answer to "does it help?", then the comparison that it rests on.

    claim: what may help, as the subject of a sentence: "fusion", "having experts".
    """
    if comparison.verdict == "equal":
        answer = f"{claim} makes no difference here"
    elif comparison.verdict == "noise":
        answer = f"{comparison.n} seeds do not show whether {claim} helps here"
    elif comparison.verdict == "untested":
        answer = f"whether {claim} helps is not tested"
    else:
        answer = f"{claim} {'helps' if is_better(comparison, metric) else 'does harm'} here"
    return f"{answer[0].upper()}{answer[1:]}: {describe_comparison(comparison, metric)}"


def is_better(comparison: Comparison, metric: Metric) -> bool:
    """Returns whether a variant that differs from the reference is better, not worse."""
    return (comparison.verdict == "higher") != metric.lower_is_better


def format_p_value(comparison: Comparison) -> str:
    """Returns p of the t test, corrected if there is more than one comparison."""
    value = comparison.t_holm if comparison.t_holm is not None else comparison.t_p
    if value is None:
        return f"no p ({comparison.reason})"
    corrected = "Holm " if comparison.family > 1 else ""
    return f"{corrected}p {'< 0.001' if value < 0.001 else f'= {value:.3f}'}"


def smallest_wilcoxon_p(seeds: int) -> float:
    """Returns the chance that all seeds fall on one side of the truth.

    A bootstrap interval misses the truth in that case, and no Wilcoxon test has a smaller p.
    """
    return 2.0 / float(2**seeds)


def seed_limit_note(seeds: int, comparisons: int = 1) -> str:
    """Returns what the number of seeds alone prevents the tests from showing; "" if nothing.

    comparisons: how many are corrected together.
    """
    if seeds < 2:
        return "One seed: means only, no interval and no test. Use --seeds 5 or more."
    smallest = smallest_wilcoxon_p(seeds)
    if smallest * comparisons < ALPHA:
        return ""
    enough = next(n for n in itertools.count(seeds) if smallest_wilcoxon_p(n) * comparisons < ALPHA)
    corrected = ""
    if comparisons > 1:
        corrected_p = min(1.0, smallest * comparisons)
        corrected = f" ({corrected_p:.3g} after Holm's correction of {comparisons} comparisons)"
    note = (
        f"With {seeds} seeds the Wilcoxon test cannot go below p = {smallest:.3g}{corrected}, "
        f"so it cannot confirm the t test; {enough} seeds could."
    )
    if smallest > ALPHA:
        note += f" A bootstrap interval covers at most {100 - 100 * smallest:.0f} %."
    return note


def format_signed(value: float, digits: int = 1) -> str:
    """Returns +1.2, −0.3, or 0.0 without a sign if the value rounds to nothing."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def _describe_difference(difference: float, metric: Metric) -> str:
    """Returns the difference with its unit; a small one is not written as 0, it may be certain."""
    amount = difference * metric.scale
    if amount and not round(amount, metric.digits):
        text = f"less than {0.5 / 10**metric.digits:g}"
    else:
        text = format_signed(amount, metric.digits)
    return f"{text} {metric.difference_unit}".strip()
