"""The loss of each class: prior strengths, margins, deferred re-weighting, focal loss.

A setting is suggested only where it has an effect: the scale of the cosine classifier with a
margin, prior strengths without the focal loss, and so on. About 30 trials settle it;
`python distributed/tune.py --space margins --trials 30`.
"""

from __future__ import annotations

from search_spaces import Trial


def space(trial: Trial, experts: int = 3) -> None:
    """Suggests the settings of the loss.

    experts: their number; 0 for a kind of fusion without experts, where a margin has no effect.
    """
    if trial.suggest_categorical("loss.name", ["prior", "focal"], keep=0.9) == "focal":
        trial.suggest_float("loss.focal_gamma", 0.5, 3.0, centre=2.0)
    else:
        trial.suggest_float("loss.average_prior_strength", 0.0, 2.0, width=0.1)
        if experts > 1:
            trial.suggest_float("loss.spread_of_prior_strength", 0.0, 2.0, width=0.15)
    if experts and trial.suggest_float("loss.margin", 0.0, 0.5, step=0.05, width=0.3) > 0:
        trial.suggest_float("loss.scale", 4.0, 48.0, log=True, width=0.2)
    if trial.suggest_float("loss.drw", 0.0, 0.6, step=0.1, width=0.3) > 0:
        trial.suggest_categorical("loss.effective_beta", [0.9, 0.99, 0.999, 0.9999], keep=0.5)
