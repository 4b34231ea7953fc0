"""Margins, experts and fusion together, with step size and decay: the search for a new data set, and that of `make demo`.

20 trials find a good corner, 100 a good setting; `python distributed/tune.py --space full --trials 100`.
"""

from __future__ import annotations

import optuna

from search_spaces import experts, fusion, margins


def space(trial: optuna.Trial) -> None:
    kind = fusion.kind(trial)
    if kind != "late":  # its modalities' own heads learn with a loss of their own
        margins.space(trial, experts=0 if kind == "evidential" else experts.count(trial))
    trial.suggest_float("optim.lr", 2e-4, 2e-2, log=True)
    trial.suggest_float("optim.weight_decay", 1e-4, 0.5, log=True)
    trial.suggest_categorical("data.sampler", ["instance", "sqrt", "balanced", "progressive"])
