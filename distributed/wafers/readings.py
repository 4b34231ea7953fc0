"""Draws the process readings of wafers.

They show what the cause of a defect pattern does to sensors and tools, and miss what the loggers
lose. Readings are drawn as distances from the typical value in spreads (z), and put into their
units at the end.

Legend: N wafers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distributed.wafers.maps import GRIDS

FloatArray = NDArray[np.float64]
Words = NDArray[np.object_]

# Reading: typical value, spread (of the logarithm where it is log-normal), whether it is
# log-normal, decimals, whether the logger may lose it.
READINGS: dict[str, tuple[float, float, bool, int, bool]] = {
    "chamber_pressure_mtorr": (42.0, 1.5, False, 2, True),
    "rf_power_w": (1500.0, 18.0, False, 1, True),
    "etch_time_s": (61.0, 1.2, False, 2, False),
    "temperature_delta_c": (2.0, 0.6, False, 2, True),  # centre minus edge of the chuck
    "spin_speed_rpm": (2400.0, 20.0, False, 0, False),  # of the resist coater
    "slurry_flow_ml_min": (210.0, 7.0, False, 1, True),
    "pad_age_h": (22.0, 0.45, True, 1, True),
    "vibration_mm_s": (0.8, 0.3, True, 3, True),
    "particle_count": (35.0, 0.5, True, 0, True),
    "queue_time_h": (6.0, 0.6, True, 1, False),  # says nothing: every real table has such columns
}

# What a pattern's cause does to the readings, in spreads. Patterns that look alike when faint
# differ here; some that never look alike do not.
CAUSES: dict[str, dict[str, float]] = {
    "none": {},
    "edge-ring": {"temperature_delta_c": 4.2, "rf_power_w": -1.5, "etch_time_s": 1.7},
    "edge-loc": {"temperature_delta_c": 1.9, "spin_speed_rpm": -3.4},
    "center": {"rf_power_w": 3.8, "chamber_pressure_mtorr": -1.9, "temperature_delta_c": 1.5},
    "loc": {"particle_count": 3.6, "slurry_flow_ml_min": -1.5},
    "scratch": {"pad_age_h": 3.2, "vibration_mm_s": 3.2},
    "random": {"particle_count": 3.6, "chamber_pressure_mtorr": 1.7},
    "donut": {"spin_speed_rpm": -3.0, "etch_time_s": 1.9, "rf_power_w": 1.5},
    "near-full": {
        "chamber_pressure_mtorr": 4.2,
        "rf_power_w": -4.2,
        "etch_time_s": 3.8,
        "slurry_flow_ml_min": -2.3,
    },
}

TOOLS: dict[str, tuple[str, ...]] = {
    "etch_tool": ("ETCH-A", "ETCH-B", "ETCH-C", "ETCH-D"),
    "cmp_tool": ("CMP-1", "CMP-2", "CMP-3"),
    "coater": ("COAT-1", "COAT-2"),
}

# The tool to blame for a pattern, and the probability that a wafer with the pattern has been
# through it for that reason.
BLAME: dict[str, dict[str, tuple[str, float]]] = {
    "edge-ring": {"etch_tool": ("ETCH-C", 0.7)},
    "center": {"etch_tool": ("ETCH-B", 0.5)},
    "scratch": {"cmp_tool": ("CMP-3", 0.7)},
    "edge-loc": {"coater": ("COAT-2", 0.6)},
    "donut": {"coater": ("COAT-2", 0.4)},
    "near-full": {"etch_tool": ("ETCH-D", 0.5)},
}

# The recipes' own set points, in spreads: a reading means something only together with its
# recipe. They belong to the factory, so they are the same for every seed.
SET_POINTS = np.random.default_rng(20).normal(0, 1, (len(GRIDS), len(READINGS)))


def draw_readings(
    labels_N: Words,
    recipes_N: Words,
    lots_N: NDArray[np.int64],
    share_N: FloatArray,
    faulty_N: NDArray[np.bool_],
    seed: np.random.SeedSequence,
) -> dict[str, FloatArray]:
    """Returns what the sensors measure, as z.

    share_N: in 0..1, how much of the cause shows. faulty_N: the logger writes nonsense.
    """
    rng, n = np.random.default_rng(seed), len(labels_N)
    recipe_N = np.searchsorted(sorted(GRIDS), recipes_N.astype(str))
    z = {}
    for k, name in enumerate(READINGS):
        effect_N = np.array([CAUSES[label].get(name, 0.0) for label in labels_N])
        # The wafers of a lot share the tool's condition of that hour.
        drift_N = rng.normal(0, 0.35, lots_N.max() + 1)[lots_N]
        value_N = effect_N * share_N * rng.uniform(0.5, 1.4, n) + drift_N + rng.normal(0, 1, n)
        z[name] = np.where(faulty_N, rng.normal(0, 3, n), value_N + SET_POINTS[recipe_N, k])
    return z


def draw_tools(
    labels_N: Words, share_N: FloatArray, faulty_N: NDArray[np.bool_], seed: np.random.SeedSequence
) -> dict[str, Words]:
    """Returns the tools that each wafer went through."""
    rng, columns = np.random.default_rng(seed), {}
    for column, tools in TOOLS.items():
        usual_N = np.array(tools, object)[rng.integers(0, len(tools), len(labels_N))]
        blamed = [BLAME.get(label, {}).get(column, ("", 0.0)) for label in labels_N]
        tool_N = np.array([tool for tool, _ in blamed], object)
        probability_N = np.array([probability for _, probability in blamed])
        at_fault_N = (rng.random(len(labels_N)) < probability_N * share_N) & ~faulty_N
        columns[column] = np.where(at_fault_N, tool_N, usual_N)
    return columns


def lose_and_scale(
    z: dict[str, FloatArray], missing: float, seed: np.random.SeedSequence
) -> dict[str, FloatArray]:
    """Returns the readings in their units, some of them lost (NaN).

    The further a reading is out of range, the likelier it is lost: a saturated sensor logs
    nothing. missing: the mean share of lost readings.
    """
    rng, columns = np.random.default_rng(seed), {}
    for name, (typical, spread, log_normal, decimals, may_lose) in READINGS.items():
        value_N = typical * np.exp(spread * z[name]) if log_normal else typical + spread * z[name]
        far_N = np.abs(z[name])
        lost_N = rng.random(len(far_N)) < missing * (0.3 + 0.7 * far_N / far_N.mean())
        columns[name] = np.where(lost_N & may_lose, np.nan, np.round(value_N, decimals))
    return columns
