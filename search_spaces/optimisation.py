"""The optimiser, learning rate, weight decay, batch size, sampler and blending of samples.

About 30 trials settle it; `python distributed/tune.py --space optimisation --trials 30`.
"""

from __future__ import annotations

from search_spaces import Trial


def space(trial: Trial) -> None:
    """Suggests the settings of the optimiser, the batches and the blending."""
    name = trial.suggest_categorical("optim.name", ["adamw", "sam", "imbsam"], keep=0.8)
    if name != "adamw":
        trial.suggest_float("optim.sam_rho", 0.01, 0.5, log=True, width=0.2)
    trial.suggest_float("optim.lr", 2e-4, 2e-2, log=True, width=0.15)
    trial.suggest_float("optim.weight_decay", 1e-4, 0.5, log=True, width=0.2)
    trial.suggest_categorical("data.batch_size", [32, 64, 128, 256], keep=0.6)
    trial.suggest_categorical(
        "data.sampler", ["instance", "sqrt", "balanced", "progressive"], keep=0.7
    )
    trial.suggest_float("optim.warmup", 0.0, 0.3, step=0.05, width=0.2)
    mix = trial.suggest_categorical("loss.mix", ["none", "mixup", "remix"], keep=0.7)
    if mix != "none":
        trial.suggest_float("loss.mix_alpha", 0.05, 1.0, log=True, width=0.2)
