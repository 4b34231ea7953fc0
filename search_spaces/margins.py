"""The loss of each class: prior strengths, margins, deferred re-weighting, focal loss.

A setting is suggested only where it has an effect: the scale of the cosine classifier with a
margin, prior strengths without the focal loss, and so on. About 30 trials settle it;
`python distributed/tune.py --space margins --trials 30`.
"""

from __future__ import annotations

import optuna


def space(trial: optuna.Trial, experts: int = 3) -> None:
    """Suggests the settings of the loss.

    experts: their number; 0 for a kind of fusion without experts, where a margin has no effect.
    """
    if trial.suggest_categorical("loss.name", ["prior", "focal"]) == "focal":
        trial.suggest_float("loss.focal_gamma", 0.5, 3.0)
    else:
        trial.suggest_float("loss.average_prior_strength", 0.0, 2.0)
        if experts > 1:
            trial.suggest_float("loss.spread_of_prior_strength", 0.0, 2.0)
    if experts and trial.suggest_float("loss.margin", 0.0, 0.5, step=0.05) > 0:
        trial.suggest_float("loss.scale", 4.0, 48.0, log=True)
    if trial.suggest_float("loss.drw", 0.0, 0.6, step=0.1) > 0:
        trial.suggest_categorical("loss.effective_beta", [0.9, 0.99, 0.999, 0.9999])
