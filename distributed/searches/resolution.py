"""How small a difference between two configurations the validation rows of a search can show."""

from __future__ import annotations

import math
from collections.abc import Mapping

from model.metrics import names

# Share of the rows of a class on which exactly one of two configurations is right. Measured: 8 % of
# the rows of a class on the mean, for two networks on the wafers that differ in seed and step size.
ONLY_ONE_IS_RIGHT = 0.1
NORMAL_95 = 1.96  # standard errors within which 95 % of chance differences lie
RARE_SHARE = 3  # a third of the classes are called the rarest


def smallest_difference(metric: str, rows: Mapping[str, int]) -> tuple[str, float] | None:
    """The difference below which two configurations are not told apart, and in which metric.

    The rows are the same for both, so the comparison is a paired one. Where exactly one of the two
    is right on a share d of the rows of a class, its two recalls differ by chance with the variance
    d / n, and balanced accuracy, the mean over K classes, with d * sum(1 / n) / K^2. Metrics other
    than accuracy and recall/CLASS are answered for by balanced accuracy.

    rows: validation rows of every class; classes without rows do not count. None: without any row.
    """
    counts = [count for count in rows.values() if count]
    if not counts:
        return None
    of_class = rows.get(metric.removeprefix("recall/"), 0) if "/" in metric else 0
    if of_class:
        variance = ONLY_ONE_IS_RIGHT / of_class
    elif metric == "accuracy":
        variance = ONLY_ONE_IS_RIGHT / sum(counts)
    else:
        metric = "balanced_accuracy"
        variance = ONLY_ONE_IS_RIGHT * sum(1 / count for count in counts) / len(counts) ** 2
    return metric, NORMAL_95 * math.sqrt(variance)


def resolution_note(metric: str, rows: Mapping[str, int]) -> str:
    """One sentence on the rows and what they can show; "" without any row.

    metric: that decides. rows: validation rows of every class.
    """
    smallest = smallest_difference(metric, rows)
    if smallest is None:
        return ""
    named, difference = names.metric(smallest[0]), smallest[1]
    amount = f"{named.scale * difference:.{named.digits}f} {named.difference_unit}"
    return (
        f"{sum(rows.values()):,} validation rows, {_rarest(rows)}: differences below about {amount}"
        f" of {named.title} are noise (95 %, if two configurations differ in being right on one row"
        f" in {round(1 / ONLY_ONE_IS_RIGHT)})."
    )


def _rarest(rows: Mapping[str, int]) -> str:
    """How many rows the rarest third of the classes have."""
    counts = sorted(count for count in rows.values() if count)
    rarest = counts[: max(1, len(counts) // RARE_SHARE)]
    if len(rarest) == 1:
        return f"{rarest[0]:,} of the rarest class"
    spread = f"{rarest[0]:,}" if rarest[0] == rarest[-1] else f"{rarest[0]:,} to {rarest[-1]:,}"
    return f"{spread} of each of the {len(rarest)} rarest classes"
