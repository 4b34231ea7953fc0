"""Ranks variants over data sets and tests whether their mean ranks differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from distributed.reporting.significance import ALPHA, Floats


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Mean ranks of variants over data sets and what Friedman's and Nemenyi's tests say of them.

    ranks: mean rank of each variant; 1 is the best.
    p: p value of Friedman's test.
    critical_difference: Nemenyi's; None unless Friedman's test finds a difference.
    groups: largest groups of variants whose mean ranks lie within the critical difference.
    """

    ranks: dict[str, float]
    data_sets: int
    p: float | None = None
    critical_difference: float | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    reason: str = ""


def rank_variants(
    scores: Mapping[str, Mapping[str, float]], *, lower_is_better: bool = False
) -> Ranking:
    """Ranks variants over data sets and tests whether their mean ranks differ.

    scores: `{variant: {data set: score}}`; only the data sets that every variant has are ranked.
    """
    names = sorted(scores)
    if not names:
        return Ranking(ranks={}, data_sets=0, reason="no variants")
    finite = [{d for d, v in scores[name].items() if math.isfinite(v)} for name in names]
    shared = sorted(set.intersection(*finite))
    if len(names) < 2:
        return Ranking(ranks={}, data_sets=len(shared), reason="one variant: nothing to rank")
    if not shared:
        return Ranking(ranks={}, data_sets=0, reason="no data set that every variant has")
    scores_DV = np.array([[scores[name][d] for name in names] for d in shared])
    ranks_DV = stats.rankdata(scores_DV if lower_is_better else -scores_DV, axis=1)
    means = zip(names, ranks_DV.mean(axis=0))
    ranks = {name: float(rank) for name, rank in sorted(means, key=lambda pair: (pair[1], pair[0]))}
    return _test_ranks(scores_DV, ranks_DV, ranks)


def _test_ranks(scores_DV: Floats, ranks_DV: Floats, ranks: dict[str, float]) -> Ranking:
    """Tests the mean ranks of variants: Friedman's test, then Nemenyi's critical difference."""
    data_sets, variants = ranks_DV.shape
    untested = Ranking(ranks=ranks, data_sets=data_sets)
    everyone = (tuple(ranks),)
    if data_sets < 2:
        return replace(untested, reason="one data set: ranks only, no test over data sets")
    if (ranks_DV == ranks_DV[:, :1]).all():
        return replace(untested, groups=everyone, reason="all variants tie on every data set")
    if variants < 3:
        return replace(untested, reason="two variants: Friedman's test needs three")
    p = float(stats.friedmanchisquare(*scores_DV.T).pvalue)
    reason = ""
    if data_sets < 10:
        reason = f"{data_sets} data sets: Friedman's chi-square is rough below 10"
    if p >= ALPHA:  # Nemenyi's test is only valid after Friedman's has found a difference
        return replace(untested, p=p, groups=everyone, reason=reason)
    critical_difference = float(
        stats.studentized_range.ppf(1 - ALPHA, variants, np.inf)
        / math.sqrt(2)
        * math.sqrt(variants * (variants + 1) / (6 * data_sets))
    )
    return replace(
        untested,
        p=p,
        critical_difference=critical_difference,
        groups=_groups_within(list(ranks.items()), critical_difference),
        reason=reason,
    )


def _groups_within(
    ranked: list[tuple[str, float]], critical_difference: float
) -> tuple[tuple[str, ...], ...]:
    """Returns the largest groups of two or more variants that are not shown to differ.

    ranked: names and mean ranks, the best first. Within a group the best and the worst mean rank
    differ by no more than the critical difference.
    """
    spans: list[tuple[int, int]] = []
    for first, (_, best) in enumerate(ranked):
        last = max(
            i for i in range(first, len(ranked)) if ranked[i][1] - best <= critical_difference
        )
        if last > first and not any(a <= first and last <= b for a, b in spans):
            spans.append((first, last))
    return tuple(tuple(name for name, _ in ranked[a : b + 1]) for a, b in spans)
