"""How modalities are combined: the kind of fusion, and the settings of the chosen kind.

Plain concatenation is a kind of its own (uniform), so that a search can find that weighting does
not help. About 20 trials settle it;
`python distributed/tune.py --space fusion --trials 20`.
"""

from __future__ import annotations

from search_spaces import Trial


def space(trial: Trial) -> None:
    """Suggests the settings of the fusion."""
    kind(trial)


def kind(trial: Trial) -> str:
    """Suggests the kind of fusion and the settings that the kind uses; returns the kind."""
    kind: str = trial.suggest_categorical(
        "fusion.kind", ["mixture", "confidence", "uniform", "gate", "late", "evidential"], keep=0.9
    )
    if kind == "mixture":
        trial.suggest_float("fusion.temperature", 0.05, 20.0, log=True, width=0.15)
        trial.suggest_float("fusion.subset_weight", 0.1, 2.0, log=True, width=0.2)
        trial.suggest_float("fusion.trust_weight", 0.03, 1.0, log=True, width=0.2)
    if kind in ("confidence", "late"):
        score = trial.suggest_categorical("fusion.score", ["surplus", "share", "level"], keep=0.8)
        if score == "surplus":
            trial.suggest_float("fusion.half_weight_at", 0.02, 0.5, log=True, width=0.2)
        trial.suggest_float("fusion.temperature", 0.05, 20.0, log=True, width=0.15)
        trial.suggest_int("fusion.folds", 1, 4, width=0.2)
        trial.suggest_float("fusion.shrinkage", 1.0, 5000.0, log=True, width=0.25)
    if kind in ("confidence", "gate"):
        trial.suggest_categorical("fusion.normalise", ["sum", "max"], keep=0.6)
    trial.suggest_float("fusion.auxiliary_weight", 0.05, 2.0, log=True, width=0.2)
    trial.suggest_float("fusion.modality_dropout", 0.0, 0.5, step=0.05, width=0.2)
    trial.suggest_float("data.spoil", 0.0, 0.3, step=0.05, width=0.2)
    return kind
