"""One configuration -> its metrics: in this process for one worker, through Ray Train for several. Searches and studies share this code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from distributed.training.run import RunSpec, failure_reason, run_once

Progress = Callable[[dict[str, float]], bool | None]


@dataclasses.dataclass(frozen=True)
class TrialContext:
    """What all trials of a search have in common."""

    shards: str
    base: dict[str, Any]  # dotted differences of the search's configuration from the defaults
    metrics: list[str]
    folder: str  # states go to folder/NAME/state; all nodes must see it, or a trial that moves starts anew
    arrays: Any = None  # reference to what `share` made


def settings_of(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    seed = {} if config.get("seed") is None else {"optim.seed": config["seed"]}
    return {**base, **config["settings"], **seed}


def trainable(config: dict[str, Any], plan: TrialContext) -> None:
    """A trial of the search: every epoch and the end are reported to Tune; what goes wrong is reported too, and fails this trial alone."""
    from ray import tune

    try:
        metrics = train(config, plan)
    except Exception as error:
        tune.report({"final": 1, "failed": failure_reason(error), "metrics": {}})
        return
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    split = "test" if config["kind"] == "test" else "val"
    values = {**metrics[split], "train_seconds": metrics["train_seconds"]}
    value, epochs = values.get(plan.metrics[0]), metrics["epochs"]
    tune.report({"final": 1, "epoch": epochs, "epochs": epochs, "value": value, "metrics": values})


def train(config: Mapping[str, Any], plan: TrialContext) -> dict[str, Any]:
    """The metrics of one job, trained here or by workers of its own."""
    import ray
    from ray import tune

    settings, test = settings_of(config, plan.base), config["kind"] == "test"
    whole = RunSpec(shards=plan.shards, settings=settings).config
    folder = f"{plan.folder}/{config['state'] or config['name']}"

    def report(epoch: dict[str, float]) -> bool:
        tune.report(
            as_result(epoch, plan.metrics, whole.optim.epochs)
        )  # Tune may end the trial in here
        return False

    if whole.scaling.workers > 1:
        from distributed.training.workers.follow import run_nested

        return run_nested(plan.shards, settings, folder, report, test)
    arrays = ray.get(plan.arrays) if plan.arrays is not None else None
    return run_once(
        plan.shards, settings, arrays=arrays, progress=report, state=f"{folder}/state", test=test
    ).metrics


def as_result(epoch: Mapping[str, float], names: list[str], epochs: int) -> dict[str, Any]:
    """An epoch's metrics as Tune, the stoppers and the records want them."""
    metrics = {k.removeprefix("val/"): v for k, v in epoch.items() if k.startswith("val/")}
    metrics |= {k: epoch[k] for k in ("loss", "train_seconds", "rows_per_second") if k in epoch}
    return {
        "epoch": int(epoch["epoch"]),
        "epochs": epochs,
        "value": metrics.get(names[0]),
        "metrics": metrics,
    }
