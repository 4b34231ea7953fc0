"""Number and size of the experts, and how different they are.

The settings of their differences are suggested only where there are several experts. About 20
trials settle it; `python distributed/tune.py --space experts --trials 20`.
"""

from __future__ import annotations

import optuna


def space(trial: optuna.Trial) -> None:
    """Suggests the experts and the prior strengths of their losses."""
    if count(trial) > 1:
        trial.suggest_float("loss.spread_of_prior_strength", 0.0, 2.0)
    trial.suggest_float("loss.average_prior_strength", 0.0, 2.0)


def count(trial: optuna.Trial) -> int:
    """Suggests the number of experts, their size and their diversity; returns the number."""
    experts = trial.suggest_int("experts.count", 1, 8)
    trial.suggest_categorical("experts.hidden", [64, 128, 256])
    if experts > 1:
        trial.suggest_float("loss.diversity", 0.0, 0.3, step=0.05)
    return experts
