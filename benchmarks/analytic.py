"""A cheap objective that reports like a real trial: epochs, a result, failures, a saved state."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

EPOCHS = 6


def space(trial: Any) -> None:
    x = trial.suggest_float("optim.lr", 0.0, 1.0)
    if trial.suggest_categorical("fusion.kind", ["confidence", "uniform"]) == "confidence":
        trial.suggest_float("fusion.temperature", 0.01, 1.0)
    if x > 0.9:
        trial.suggest_int("experts.count", 1, 3)


def score(settings: dict[str, Any]) -> float:
    distance = (settings["optim.lr"] - 0.3) ** 2
    return float(1.0 - distance - 0.1 * abs(settings.get("fusion.temperature", 0.9) - 0.25))


def trainable(
    config: dict[str, Any], pause: float = 0.0, trouble: bool = False, folder: str = ""
) -> None:
    from ray import tune

    settings, number = config["settings"], config["number"]
    if trouble and number == 2:
        tune.report({"final": 1, "failed": "a bad combination", "metrics": {}})
        return
    if trouble and number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    saved = Path(folder, f"{config['name']}.epoch") if folder else None
    first = int(saved.read_text()) if saved and saved.exists() else 0
    value = score(settings)
    if trouble and number == 4:
        value = math.nan
    for epoch in range(first + 1, EPOCHS + 1):
        time.sleep(pause)
        at = value * epoch / EPOCHS
        if saved:
            saved.write_text(str(epoch))
        result = {
            "epoch": epoch,
            "epochs": EPOCHS,
            "value": at,
            "metrics": {"balanced_accuracy": at, "worst_recall": at / 2},
            "first": first,
        }
        tune.report(result)
    tune.report(
        {
            "final": 1,
            "epoch": EPOCHS,
            "value": value,
            "metrics": {"balanced_accuracy": value, "worst_recall": -value, "started_at": first},
        }
    )


def broken(config: dict[str, Any]) -> None:
    from ray import tune

    tune.report({"final": 1, "failed": "the data is gone", "metrics": {}})
