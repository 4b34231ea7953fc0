"""Number and size of the experts, and how different they are.

The settings of their differences are suggested only where there are several experts. About 20
trials settle it; `python distributed/tune.py --space experts --trials 20`.
"""

from __future__ import annotations

from search_spaces import Trial


def space(trial: Trial) -> None:
    """Suggests the experts and the prior strengths of their losses."""
    if count(trial) > 1:
        trial.suggest_float("loss.spread_of_prior_strength", 0.0, 2.0, width=0.15)
    trial.suggest_float("loss.average_prior_strength", 0.0, 2.0, width=0.1)


def count(trial: Trial) -> int:
    """Suggests the number of experts, their size and their diversity; returns the number."""
    experts: int = trial.suggest_int("experts.count", 1, 8, width=0.2)
    trial.suggest_categorical("experts.hidden", [64, 128, 256], keep=0.6)
    if experts > 1:
        trial.suggest_float("loss.diversity", 0.0, 0.3, step=0.05, width=0.3)
    return experts
