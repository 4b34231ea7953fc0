"""What comparisons show and do not show, in words."""

from __future__ import annotations

import itertools

from distributed.reporting.significance import ALPHA, Comparison


def describe_comparison(
    c: Comparison,
    metric: str,
    *,
    scale: float = 100.0,
    unit: str = "points",
    lower_is_better: bool = False,
) -> str:
    """One sentence that says what this comparison shows and what it does not."""
    if c.difference is None:
        return f"{c.name} against {c.reference} in {metric}: nothing to compare ({c.reason})."
    amount, digits = c.difference * scale, _digits(scale)
    small = amount and not round(amount, digits)  # it may be sure all the same
    gap = f"{f'less than {0.5 / 10**digits:g}' if small else format_signed(amount, digits)} {unit}".strip()
    if c.verdict == "equal":
        return f"{c.name} and {c.reference} have the same {metric} in all {c.n} seeds."
    if c.t_holm is None or c.low is None or c.high is None:
        return f"{c.name} against {c.reference} in {metric}: {gap}, and nothing can be said about chance ({c.reason})."
    low, high = (format_signed(v * scale, digits) for v in (c.low, c.high))
    figures = f"{gap}, 95 % interval {low} to {high}, {c.n} seeds, {format_p_value(c)}"
    if c.verdict == "noise":
        alone = c.t_p is not None and c.t_p < ALPHA and not c.low <= 0 <= c.high
        why = (
            f"does not survive the correction for {c.family} comparisons, so inside the noise"
            if alone
            else "inside the noise"
        )
        return f"{c.name} against {c.reference} in {metric}: {why} ({figures})."
    good = (c.verdict == "higher") != lower_is_better
    return (
        f"{c.name} is {'better' if good else 'worse'} than {c.reference} in {metric} ({figures})."
    )


def describe_whether_helps(
    what: str,
    c: Comparison,
    metric: str,
    *,
    scale: float = 100.0,
    unit: str = "points",
    lower_is_better: bool = False,
) -> str:
    """The plain answer to `does it help?`, then the comparison behind it."""
    detail = describe_comparison(c, metric, scale=scale, unit=unit, lower_is_better=lower_is_better)
    good = (c.verdict == "higher") != lower_is_better
    decided = f"{what} {'helps' if good else 'does harm'} here"
    answer = {
        "higher": decided,
        "lower": decided,
        "equal": f"{what} does not help here",
        "noise": f"{what} does not help here as far as {c.n} seeds can show",
        "untested": f"whether {what} helps is not tested",
    }[c.verdict]
    return f"{answer[0].upper()}{answer[1:]}: {detail}"


def format_p_value(c: Comparison) -> str:
    """p of the t test, corrected when there is more than one comparison."""
    value = c.t_holm if c.t_holm is not None else c.t_p
    if value is None:
        return f"no p ({c.reason})"
    return f"{'Holm ' if c.family > 1 else ''}p {'< 0.001' if value < 0.001 else f'= {value:.3f}'}"


def smallest_wilcoxon_p(seeds: int) -> float:
    """The chance that all seeds fall on one side of the truth: no bootstrap interval reaches it there, no Wilcoxon test goes below it."""
    return 2.0 / 2**seeds


def seed_limit_note(seeds: int, comparisons: int = 1) -> str:
    """What the number of seeds alone forbids the tests to show, where as many comparisons are corrected together."""
    if seeds < 2:
        return "One seed: means only, no interval and no test. Use --seeds 5 or more."
    smallest = smallest_wilcoxon_p(seeds)
    if smallest * comparisons < ALPHA:
        return ""
    enough = next(n for n in itertools.count(seeds) if smallest_wilcoxon_p(n) * comparisons < ALPHA)
    corrected = (
        f" ({min(1.0, smallest * comparisons):.3g} after Holm's correction of {comparisons} comparisons)"
        if comparisons > 1
        else ""
    )
    cover = (
        f" A bootstrap interval covers at most {100 - 100 * smallest:.0f} %."
        if smallest > ALPHA
        else ""
    )
    return (
        f"With {seeds} seeds the Wilcoxon test cannot go below p = {smallest:.3g}{corrected}, so it cannot confirm the t test; "
        f"{enough} seeds could.{cover}"
    )


def format_signed(value: float, digits: int = 1) -> str:
    """+1.2, −0.3, and 0.0 without a sign when it rounds to nothing."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def _digits(scale: float) -> int:
    return 1 if scale >= 100 else 3
