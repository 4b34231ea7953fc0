"""The training statistics of a numeric column as the schema keeps them."""

from __future__ import annotations

import numpy as np

from distributed.raw.number_formats import FloatArray
from distributed.raw.number_stats import NumberStats
from model.schema import MAX_DEVIATIONS, Numeric

MAX_STEP = 0.01  # of the spread: larger steps between neighbouring float32 numbers are reported
QUANTILES = 33  # kept for a numeric column
NORMAL_QUARTILE_RANGE = 1.349  # of a normal distribution, in standard deviations


def with_statistics(
    name: str, numbers: NumberStats, missing: float
) -> tuple[Numeric, list[str], str]:
    """Returns a numeric column with its statistics, notes, and a warning or ""."""
    sample = numbers.sample[~np.isnan(numbers.sample)]
    observed = np.r_[sample, numbers.low, numbers.high].astype(np.float32)
    knots = np.quantile(observed, np.linspace(0, 1, QUANTILES))
    # Rounded, so that sums added in another order on another machine give the same file.
    mean, std = _rounded(numbers.mean), _rounded(np.sqrt(numbers.m2 / numbers.parsed))
    notes, warning = [], ""
    step = float(np.spacing(np.float32(max(-numbers.low, numbers.high))))
    if step > MAX_STEP * std and np.any(sample != sample[:1]):
        notes.append(
            f"kept to about {step:g}: values of this size have no more digits here; "
            "subtract an offset"
        )
    if numbers.low == numbers.high:
        mean, std = numbers.low, 1.0
    elif _few_values_dwarf(sample, mean, std):
        mean, std = _robust_centre_and_spread(sample)
        knots = knots.clip(mean - MAX_DEVIATIONS * std, mean + MAX_DEVIATIONS * std)
        above = numbers.high - mean > mean - numbers.low
        huge = numbers.high if above else numbers.low
        warning = (
            f"{name}: a few values such as {huge:g} dwarf the others and are cut; "
            "if that is a code for missing, leave those cells empty"
        )
    quantiles = tuple(float(knot) for knot in np.unique(knots.astype(np.float32)))
    column = Numeric(name=name, mean=mean, std=std, quantiles=quantiles, missing=missing)
    return column, notes, warning


def _rounded(value: float) -> float:
    return float(f"{value:.8g}")


def _few_values_dwarf(sample: FloatArray, mean: float, std: float) -> bool:
    """Whether standardising makes most values one and the same float32 number.

    That is so where a few values are very much larger than all others.
    """
    values = np.unique(sample.astype(np.float32)).astype(np.float64)
    standardised = ((values - mean) / std).astype(np.float32)
    return len(np.unique(standardised)) < 0.5 * len(values)


def _robust_centre_and_spread(sample: FloatArray) -> tuple[float, float]:
    """Returns the median of the different values, and their spread by the quartiles."""
    low, middle, high = np.quantile(np.unique(sample), [0.25, 0.5, 0.75])
    return _rounded(middle), _rounded((high - low) / NORMAL_QUARTILE_RANGE)
