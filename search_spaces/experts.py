"""How many experts, how large, and how far apart: spread and diversity are asked for only when there are several.

About 20 trials settle it; `python distributed/tune.py --space experts --trials 20`.
"""

from __future__ import annotations

import optuna


def space(trial: optuna.Trial) -> None:
    if count(trial) > 1:
        trial.suggest_float("loss.spread_of_prior_strength", 0.0, 2.0)
    trial.suggest_float("loss.average_prior_strength", 0.0, 2.0)


def count(trial: optuna.Trial) -> int:
    """The number of experts and what depends on nothing else."""
    experts = trial.suggest_int("experts.count", 1, 8)
    trial.suggest_categorical("experts.hidden", [64, 128, 256])
    if experts > 1:
        trial.suggest_float("loss.diversity", 0.0, 0.3, step=0.05)
    return experts
