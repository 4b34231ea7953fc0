"""What a set of scores over seeds shows and does not show: intervals, paired tests, effect sizes, ranks over data sets.

Scores are `{seed: value}`, one mapping a variant; pairs are the seeds that two variants share. Results never depend on the order of
the rows. Nothing is NaN: a number that cannot be computed is None and `reason` says why. Numbers are in the scores' own unit.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

ALPHA = 0.05
MIN_SEEDS = 5  # seeds from which a 95 % interval covers 92 % and more; of 2, 3 and 4 seeds it covers 52, 75 and 87 %
Scores = Mapping[Hashable, float]
ROUNDING_TOLERANCE = 1e-12  # differences below this, relative to the scores, are rounding: the float sum of equal numbers is not exactly equal


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean, standard deviation (n - 1) and bootstrap interval of the mean."""

    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One variant against the reference, paired. effect is Hedges' g of the differences (mean / sd, corrected for few pairs)."""

    name: str
    reference: str
    n: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    effect: float | None = None
    t_p: float | None = None
    wilcoxon_p: float | None = None
    t_holm: float | None = None
    wilcoxon_holm: float | None = None
    family: int = 0  # tests corrected together
    reason: str = ""

    @property
    def verdict(self) -> str:
        """higher, lower (both after Holm's correction), noise, equal or untested."""
        if self.difference is None:
            return "untested"
        if self.t_holm is None:
            return "equal" if self.difference == 0 and self.n > 1 else "untested"
        if self.t_holm >= ALPHA:
            return "noise"
        return "higher" if self.difference > 0 else "lower"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Friedman's test over data sets and, where it finds a difference, Nemenyi's critical one; rank 1 is the best."""

    ranks: dict[str, float]
    data_sets: int
    p: float | None = None
    critical_difference: float | None = None
    groups: tuple[
        tuple[str, ...], ...
    ] = ()  # maximal groups whose mean ranks lie within the critical difference
    reason: str = ""


def summarise(values: Sequence[float], *, confidence: float = 0.95) -> Summary:
    """Mean, sd and interval of finite values; what could not be computed is None with its reason."""
    finite = np.sort(np.asarray([v for v in values if math.isfinite(v)], dtype=float))
    dropped = len(values) - len(finite)
    reasons = (
        [f"{dropped} of {len(values)} values are not finite and were left out"] if dropped else []
    )
    if len(finite) == 0:
        return Summary(n=0, reason="; ".join([*reasons, "no values"]))
    mean = float(finite.mean())
    if len(finite) == 1:
        return Summary(
            n=1, mean=mean, reason="; ".join([*reasons, "one seed: no spread to estimate"])
        )
    sd = _spread(finite)
    if sd == 0:
        return Summary(
            n=len(finite),
            mean=mean,
            sd=0.0,
            low=mean,
            high=mean,
            reason="; ".join([*reasons, "all values are equal"]),
        )
    low, high = bootstrap_interval(finite, confidence=confidence)
    return Summary(n=len(finite), mean=mean, sd=sd, low=low, high=high, reason="; ".join(reasons))


def _spread(values: np.ndarray) -> float:
    """Standard deviation (n - 1), exactly 0 where only rounding differs."""
    sd = float(values.std(ddof=1))
    return 0.0 if sd <= ROUNDING_TOLERANCE * max(1e-300, float(np.abs(values).max())) else sd


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Expanded percentile bootstrap interval of the mean (Hesterberg 2015, section 5.3).

    The plain percentile interval of few values is too narrow, by sqrt((n - 1) / n) and for want of a t quantile; this one takes more
    extreme percentiles to make up for both. Up to 5 values every resample is enumerated, beyond that they are drawn with a fixed seed.
    """
    return _interval(tuple(sorted(float(v) for v in values)), confidence)


@functools.lru_cache(maxsize=4096)
def _interval(ordered: tuple[float, ...], confidence: float) -> tuple[float, float]:
    assert len(ordered) > 1, "an interval needs two values"
    picks, tail = _resamples(len(ordered), confidence)
    means = np.sort(np.array(ordered)[picks].mean(axis=1))
    places = np.array([tail, 1 - tail]) * (len(means) - 1)
    low, high = np.interp(places, np.arange(len(means)), means)
    return float(low), float(high)


@functools.lru_cache
def _resamples(n: int, confidence: float) -> tuple[np.ndarray, float]:
    """Which values each resample takes, and the share of resamples that lie below the interval."""
    from scipy import special, stats

    picks = (
        np.array(list(itertools.product(range(n), repeat=n)))
        if n <= 5
        else np.random.default_rng(0).integers(0, n, size=(10_000, n))
    )
    return picks, float(
        special.ndtr(math.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
    )


def paired_comparison(
    scores: Scores, reference: Scores, *, name: str = "", against: str = ""
) -> Comparison:
    """The paired comparison of two variants over the seeds they share, before any correction."""
    from scipy import stats

    shared = sorted(
        (
            k
            for k in scores
            if k in reference and math.isfinite(scores[k]) and math.isfinite(reference[k])
        ),
        key=repr,
    )
    if not shared:
        return Comparison(name=name, reference=against, n=0, reason="no seed in common")
    ours, theirs = (np.array([s[k] for k in shared], dtype=float) for s in (scores, reference))
    size = max(1e-300, float(np.abs([ours, theirs]).max()))
    gaps = np.sort(
        np.round((ours - theirs) / size, 12) * size
    )  # 0.53 - 0.50 and 0.03 are the same gap: ties must be ties
    base = Comparison(name=name, reference=against, n=len(gaps), difference=float(gaps.mean()))
    if len(gaps) == 1:
        return replace(base, reason="one seed in common")
    if not gaps.any():
        return replace(base, low=0.0, high=0.0, reason="equal in every seed: nothing to test")
    sd = _spread(gaps)
    wilcoxon = _wilcoxon(gaps)
    if sd == 0:
        reason = "the same difference in every seed: no spread for a t test"
        return replace(
            base, low=base.difference, high=base.difference, wilcoxon_p=wilcoxon, reason=reason
        )
    low, high = bootstrap_interval(gaps)
    degrees = len(gaps) - 1
    # Hedges' correction in closed form, exp(lgamma) for few degrees of freedom where the usual 1 - 3 / (4 df - 1) is rough
    correction = (
        math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2)) / math.sqrt(degrees / 2)
        if degrees > 1
        else None
    )
    return replace(
        base,
        low=low,
        high=high,
        effect=None if correction is None else float(gaps.mean() / sd * correction),
        t_p=float(stats.ttest_1samp(gaps, 0.0).pvalue),
        wilcoxon_p=wilcoxon,
        reason="two seeds: no unbiased effect size" if correction is None else "",
    )


def _wilcoxon(gaps: np.ndarray) -> float:
    """Two-sided signed-rank p, zeros dropped; up to 13 pairs by enumerating all sign flips, which ties do not disturb."""
    from scipy import stats

    kept = gaps[gaps != 0]
    if len(kept) > 13:
        return float(stats.wilcoxon(kept).pvalue)
    ranks = stats.rankdata(np.abs(kept))
    flips = np.array(list(itertools.product((-1.0, 1.0), repeat=len(kept))))
    return float((np.abs(flips @ ranks) >= abs(np.sign(kept) @ ranks) - 1e-9).mean())


def holm_correction(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None stays None and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - step)))
        corrected[i] = highest
    return corrected


def compare_to_reference(scores: Mapping[str, Scores], reference: str) -> list[Comparison]:
    """Every variant against the named reference, corrected as one family, in the order of `scores`."""
    if reference not in scores:
        raise ValueError(
            f"the reference must be one of the variants: {', '.join(scores)}; got {reference!r}"
        )
    found = [
        paired_comparison(values, scores[reference], name=name, against=reference)
        for name, values in scores.items()
        if name != reference
    ]
    t_values, w_values = (
        holm_correction([c.t_p for c in found]),
        holm_correction([c.wilcoxon_p for c in found]),
    )
    family = sum(c.t_p is not None for c in found)
    return [
        replace(c, t_holm=t, wilcoxon_holm=w, family=family)
        for c, t, w in zip(found, t_values, w_values)
    ]


def rank_variants(
    table: Mapping[str, Mapping[str, float]], *, lower_is_better: bool = False
) -> Ranking:
    """Mean ranks of variants over data sets, `{variant: {data set: score}}`; only data sets that every variant has count."""
    from scipy import stats

    names = sorted(table)
    if not names:
        return Ranking(ranks={}, data_sets=0, reason="no variants")
    shared = sorted(
        set.intersection(*({d for d, v in table[n].items() if math.isfinite(v)} for n in names))
    )
    k, n = len(names), len(shared)
    if k < 2 or n == 0:
        return Ranking(
            ranks={},
            data_sets=n,
            reason="one variant: nothing to rank"
            if k < 2
            else "no data set that every variant has",
        )
    scores = np.array([[table[name][d] for name in names] for d in shared])
    ranks = stats.rankdata(scores if lower_is_better else -scores, axis=1)
    means = {
        name: float(r)
        for name, r in sorted(zip(names, ranks.mean(axis=0)), key=lambda pair: (pair[1], pair[0]))
    }
    if n < 2:
        return Ranking(
            ranks=means, data_sets=n, reason="one data set: ranks only, no test over data sets"
        )
    if (ranks == ranks[:, :1]).all():
        return Ranking(
            ranks=means,
            data_sets=n,
            groups=(tuple(means),),
            reason="all variants tie on every data set",
        )
    if k < 3:
        return Ranking(ranks=means, data_sets=n, reason="two variants: Friedman's test needs three")
    p = float(stats.friedmanchisquare(*scores.T).pvalue)
    rough = f"{n} data sets: Friedman's chi-square is rough below 10" if n < 10 else ""
    if p >= ALPHA:  # a critical difference is for after Friedman's test has said that there is one
        return Ranking(ranks=means, data_sets=n, p=p, groups=(tuple(means),), reason=rough)
    distance = float(
        stats.studentized_range.ppf(1 - ALPHA, k, np.inf)
        / math.sqrt(2)
        * math.sqrt(k * (k + 1) / (6 * n))
    )
    return Ranking(
        ranks=means,
        data_sets=n,
        p=p,
        critical_difference=distance,
        groups=_cliques(list(means.items()), distance),
        reason=rough,
    )


def _cliques(ranked: list[tuple[str, float]], distance: float) -> tuple[tuple[str, ...], ...]:
    """Maximal runs of at least two variants whose best and worst mean rank differ by no more than the critical difference."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranked)):
        last = max(
            j for j in range(first, len(ranked)) if ranked[j][1] - ranked[first][1] <= distance
        )
        if last > first and not any(a <= first and last <= b for a, b in found):
            found.append((first, last))
    return tuple(tuple(name for name, _ in ranked[a : b + 1]) for a, b in found)
