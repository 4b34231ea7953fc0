"""The statistics of a column's finite numbers: partial sums that combine to those of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from distributed.raw.number_formats import BoolArray, FloatArray

LARGEST = float(np.finfo(np.float32).max)  # what some write for infinity or for missing


@dataclass
class NumberStats:
    """The finite numbers of some cells.

    infinite: cells that were infinite. whole: every number is an integer.
    m2: the sum of the squared distances from the mean. sample: some of the cells, NaN for none.
    """

    parsed: int = 0
    infinite: int = 0
    whole: bool = True
    mean: float = 0.0
    m2: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    sample: FloatArray = field(default_factory=lambda: np.zeros(0))


def only_finite(values: FloatArray) -> tuple[FloatArray, int]:
    """Returns the numbers with NaN for those that are infinite as float32, and their count."""
    infinite = np.isinf(values) | (np.abs(values) >= LARGEST)
    return np.where(infinite, np.nan, values), int(infinite.sum())


def number_stats(values: FloatArray, infinite: int, in_sample: BoolArray) -> NumberStats:
    """Returns the statistics of cells. values: their finite numbers, NaN where there is none."""
    exact = values[~np.isnan(values)]
    finite = exact.astype(np.float32).astype(np.float64)  # what the shards will hold
    stats = NumberStats(
        parsed=len(finite),
        infinite=infinite,
        whole=bool(np.all(exact == np.floor(exact))),
        sample=values[in_sample],
    )
    if len(finite):
        stats.mean = float(finite.mean())
        stats.low, stats.high = float(finite.min()), float(finite.max())
        stats.m2 = float(((finite - stats.mean) ** 2).sum())
    return stats


def no_numbers_like(stats: NumberStats) -> NumberStats:
    """Returns the statistics of the same cells if none of them were a number."""
    return NumberStats(sample=np.full_like(stats.sample, np.nan))


def combine_numbers(parts: Sequence[NumberStats]) -> NumberStats:
    """Returns the statistics of all parts, means and squares by Chan's rule."""
    total = NumberStats(sample=np.concatenate([part.sample for part in parts]))
    for part in parts:
        n = total.parsed + part.parsed
        if part.parsed:
            shift = part.mean - total.mean
            total.m2 += part.m2 + shift * shift * total.parsed * part.parsed / n
            total.mean += shift * part.parsed / n
        total.parsed = n
        total.infinite += part.infinite
        total.whole = total.whole and part.whole
        total.low, total.high = min(total.low, part.low), max(total.high, part.high)
    return total
