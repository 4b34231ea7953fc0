"""Statistics of scores over seeds: intervals, paired tests, effect sizes and corrections.

The scores of a variant are a mapping `{seed: score}`. Variants are compared in pairs, over the
seeds that both have. Results do not depend on the order of the rows. A number that cannot be
computed is None, never NaN, and `reason` says why. All numbers are in the unit of the scores.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

ALPHA = 0.05
# Seeds from which a 95 % bootstrap interval covers 92 % or more; of 2, 3 and 4 seeds it covers
# 52, 75 and 87 %.
MIN_SEEDS = 5
# Differences below this share of the scores are rounding: sums of equal numbers are not exactly
# equal.
ROUNDING_TOLERANCE = 1e-12
MAX_ENUMERATED_PAIRS = 13  # pairs of which all sign flips are enumerated
MAX_ENUMERATED_VALUES = 5  # values of which all bootstrap resamples are enumerated
RESAMPLES = 10_000  # bootstrap resamples of more values

Scores = Mapping[Hashable, float]
Floats = NDArray[np.float64]
Verdict = Literal["higher", "lower", "noise", "equal", "untested"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean, standard deviation (with n - 1) and bootstrap interval of the mean of n values."""

    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant against the reference, over the n seeds that both have.

    difference: mean of the differences (variant minus reference); low and high are its interval.
    effect: Hedges' g of the differences, which is mean / sd, corrected for few pairs.
    t_p, wilcoxon_p: p values of both tests; t_holm, wilcoxon_holm: the same after Holm's
        correction for all comparisons of the family.
    family: number of tests that are corrected together.
    """

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
    family: int = 0
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """What the t test says after Holm's correction; noise means: not shown to differ."""
        if self.difference is None:
            return "untested"
        if self.t_holm is None:
            return "equal" if self.difference == 0 and self.n > 1 else "untested"
        if self.t_holm >= ALPHA:
            return "noise"
        return "higher" if self.difference > 0 else "lower"


def summarise(values: Sequence[float], *, confidence: float = 0.95) -> Summary:
    """Returns mean, standard deviation and interval of the finite values."""
    finite = np.sort(np.asarray([v for v in values if math.isfinite(v)], dtype=float))
    dropped = len(values) - len(finite)
    reasons = []
    if dropped:
        reasons.append(f"{dropped} of {len(values)} values are not finite and were left out")
    if len(finite) == 0:
        return Summary(n=0, reason="; ".join([*reasons, "no values"]))
    mean = float(finite.mean())
    if len(finite) == 1:
        reasons.append("one seed: no spread to estimate")
        return Summary(n=1, mean=mean, reason="; ".join(reasons))
    sd = _standard_deviation(finite)
    if sd == 0:
        reasons.append("all values are equal")
        return Summary(
            n=len(finite), mean=mean, sd=0.0, low=mean, high=mean, reason="; ".join(reasons)
        )
    low, high = bootstrap_interval(finite, confidence=confidence)
    return Summary(n=len(finite), mean=mean, sd=sd, low=low, high=high, reason="; ".join(reasons))


def _standard_deviation(values: Floats) -> float:
    """Returns the standard deviation (n - 1), exactly 0 where values differ by rounding only."""
    sd = float(values.std(ddof=1))
    largest = max(1e-300, float(np.abs(values).max()))
    return 0.0 if sd <= ROUNDING_TOLERANCE * largest else sd


def bootstrap_interval(
    values: Sequence[float] | Floats, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the expanded percentile bootstrap interval of the mean (Hesterberg 2015, 5.3).

    The plain percentile interval of few values is too narrow, by sqrt((n - 1) / n) and for want of
    a t quantile; this one takes more extreme percentiles to make up for both. Up to 5 values every
    resample is enumerated; of more values resamples are drawn with a fixed seed.
    """
    return _interval(tuple(sorted(float(v) for v in values)), confidence)


@functools.lru_cache(maxsize=4096)
def _interval(ordered: tuple[float, ...], confidence: float) -> tuple[float, float]:
    assert len(ordered) > 1, "an interval needs two values"
    resamples, tail = _resamples(len(ordered), confidence)
    means = np.sort(np.array(ordered)[resamples].mean(axis=1))
    positions = np.array([tail, 1 - tail]) * (len(means) - 1)
    low, high = np.interp(positions, np.arange(len(means)), means)
    return float(low), float(high)


@functools.lru_cache
def _resamples(n: int, confidence: float) -> tuple[NDArray[np.int64], float]:
    """Returns the indices of each resample, and the share of resamples below the interval."""
    if n <= MAX_ENUMERATED_VALUES:
        indices = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        indices = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))
    quantile = stats.t.ppf((1 - confidence) / 2, n - 1)
    return indices, float(special.ndtr(math.sqrt(n / (n - 1)) * quantile))


def paired_comparison(
    scores: Scores, reference: Scores, *, name: str = "", against: str = ""
) -> Comparison:
    """Compares two variants over the seeds that both have, without any correction.

    name, against: the names of the variant and of the reference.
    """
    differences = _paired_differences(scores, reference)
    if len(differences) == 0:
        return Comparison(name=name, reference=against, n=0, reason="no seed in common")
    mean = float(differences.mean())
    base = Comparison(name=name, reference=against, n=len(differences), difference=mean)
    if len(differences) == 1:
        return replace(base, reason="one seed in common")
    if not differences.any():
        return replace(base, low=0.0, high=0.0, reason="equal in every seed: nothing to test")
    sd = _standard_deviation(differences)
    wilcoxon_p = _wilcoxon(tuple(differences.tolist()))
    if sd == 0:
        reason = "the same difference in every seed: no spread for a t test"
        return replace(base, low=mean, high=mean, wilcoxon_p=wilcoxon_p, reason=reason)
    low, high = bootstrap_interval(differences)
    correction = _hedges_correction(len(differences) - 1)
    return replace(
        base,
        low=low,
        high=high,
        effect=None if correction is None else float(differences.mean() / sd * correction),
        t_p=float(stats.ttest_1samp(differences, 0.0).pvalue),
        wilcoxon_p=wilcoxon_p,
        reason="two seeds: no unbiased effect size" if correction is None else "",
    )


def _paired_differences(scores: Scores, reference: Scores) -> Floats:
    """Returns the sorted differences over the seeds for which both scores are finite.

    They are rounded, so that equal differences are equal numbers: 0.53 - 0.50 and 0.03 are a tie.
    """
    seeds = sorted(
        (
            seed
            for seed in scores
            if seed in reference and math.isfinite(scores[seed]) and math.isfinite(reference[seed])
        ),
        key=repr,
    )
    if not seeds:
        return np.array([])
    ours, theirs = (np.array([s[k] for k in seeds], dtype=float) for s in (scores, reference))
    largest = max(1e-300, float(np.abs([ours, theirs]).max()))
    return np.sort(np.round((ours - theirs) / largest, 12) * largest)


def _hedges_correction(degrees: int) -> float | None:
    """Returns Hedges' factor for few degrees of freedom; None for one, where there is none.

    It is in closed form, as the usual 1 - 3 / (4 df - 1) is rough for few degrees of freedom.
    """
    if degrees <= 1:
        return None
    ratio = math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2))
    return ratio / math.sqrt(degrees / 2)


@functools.lru_cache(maxsize=4096)
def _wilcoxon(gaps: tuple[float, ...]) -> float:
    """Returns the two-sided p value of the signed-rank test; zeros are dropped.

    The exact distribution that scipy uses for few pairs does not hold with ties. Up to 13 pairs
    with ties all sign flips are enumerated instead (2^13 is below the 9999 resamples from which
    scipy would draw them at random); that takes up to a second, so results are kept.
    """
    kept = np.array([gap for gap in gaps if gap != 0])
    if len(kept) == 1:
        return 1.0  # scipy's permutations need two pairs
    has_ties = len(np.unique(np.abs(kept))) < len(kept)
    enumerate_flips = has_ties and len(kept) <= MAX_ENUMERATED_PAIRS
    method = stats.PermutationMethod() if enumerate_flips else "auto"
    return float(stats.wilcoxon(kept, method=method).pvalue)


def holm_correction(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p values after Holm's step-down correction; None stays None and does not count."""
    ordered = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, i) in enumerate(ordered):
        highest = max(highest, min(1.0, p * (len(ordered) - step)))
        corrected[i] = highest
    return corrected


def compare_to_reference(scores: Mapping[str, Scores], reference: str) -> list[Comparison]:
    """Compares every variant with the named reference, corrected as one family.

    The comparisons are in the order of `scores`.
    """
    if reference not in scores:
        raise ValueError(
            f"the reference must be one of the variants: {', '.join(scores)}; got {reference!r}"
        )
    comparisons = [
        paired_comparison(values, scores[reference], name=name, against=reference)
        for name, values in scores.items()
        if name != reference
    ]
    t_values = holm_correction([c.t_p for c in comparisons])
    wilcoxon_values = holm_correction([c.wilcoxon_p for c in comparisons])
    family = sum(c.t_p is not None for c in comparisons)
    return [
        replace(comparison, t_holm=t, wilcoxon_holm=wilcoxon, family=family)
        for comparison, t, wilcoxon in zip(comparisons, t_values, wilcoxon_values)
    ]
