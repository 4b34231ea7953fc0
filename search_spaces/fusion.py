"""How modalities are combined: the kind of fusion, and the settings of the chosen kind.

Plain concatenation is a kind of its own (uniform), so that a search can find that weighting does
not help. About 20 trials settle it;
`python distributed/tune.py --space fusion --trials 20`.
"""

from __future__ import annotations

import optuna


def space(trial: optuna.Trial) -> None:
    """Suggests the settings of the fusion."""
    kind(trial)


def kind(trial: optuna.Trial) -> str:
    """Suggests the kind of fusion and the settings that the kind uses; returns the kind."""
    kind = trial.suggest_categorical(
        "fusion.kind", ["mixture", "confidence", "uniform", "gate", "late", "evidential"]
    )
    if kind == "mixture":
        trial.suggest_float("fusion.temperature", 0.05, 20.0, log=True)
        trial.suggest_float("fusion.subset_weight", 0.1, 2.0, log=True)
        trial.suggest_float("fusion.trust_weight", 0.03, 1.0, log=True)
    if kind in ("confidence", "late"):
        score = trial.suggest_categorical("fusion.score", ["surplus", "share", "level"])
        if score == "surplus":
            trial.suggest_float("fusion.half_weight_at", 0.02, 0.5, log=True)
        trial.suggest_float("fusion.temperature", 0.05, 20.0, log=True)
        trial.suggest_int("fusion.folds", 1, 4)
        trial.suggest_float("fusion.shrinkage", 1.0, 5000.0, log=True)
    if kind in ("confidence", "gate"):
        trial.suggest_categorical("fusion.normalise", ["sum", "max"])
    trial.suggest_float("fusion.auxiliary_weight", 0.05, 2.0, log=True)
    trial.suggest_float("fusion.modality_dropout", 0.0, 0.5, step=0.05)
    trial.suggest_float("data.spoil", 0.0, 0.3, step=0.05)
    return kind
