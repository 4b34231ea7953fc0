"""Margins, experts and fusion together, with learning rate, weight decay and sampler.

This is the search for a new data set, and that of `make demo`. 20 trials find a good region, 100 a
good setting; `python distributed/tune.py --space full --trials 100`.
"""

from __future__ import annotations

from search_spaces import Trial, experts, fusion, margins


def space(trial: Trial) -> None:
    """Suggests settings of the loss, the experts, the fusion and the optimiser."""
    kind = fusion.kind(trial)
    if kind != "late":  # late fusion uses the auxiliary heads, which have a loss of their own
        margins.space(trial, experts=0 if kind == "evidential" else experts.count(trial))
    trial.suggest_float("optim.lr", 2e-4, 2e-2, log=True, width=0.15)
    trial.suggest_float("optim.weight_decay", 1e-4, 0.5, log=True, width=0.2)
    trial.suggest_categorical(
        "data.sampler", ["instance", "sqrt", "balanced", "progressive"], keep=0.7
    )
