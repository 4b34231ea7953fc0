"""One configuration -> its metrics: in this process for one worker, through Ray Train for several. Searches and studies share this code."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from distributed import checkpoints, loop, runs
from distributed.scores import Scores
from distributed.watch import Diverged

Progress = Callable[[dict[str, float]], bool | None]
SAVE_EVERY = 5.0  # seconds between two saved states of a running trial


def run_once(
    shards: str,
    settings: Mapping[str, Any],
    *,
    arrays: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    state: str = "",
    test: bool = False,
    device: str | None = None,
) -> runs.Finished:
    """Trains, picks the best epoch and calibrates on validation; reads the test split only when `test` asks for it.

    state: a folder or URI for resumable states; a run that finds one there goes on from it, also past its last epoch to the metrics.
    progress: sees the metrics of every epoch, `train_seconds` among them, and may return True to stop.
    """
    job = runs.Job(shards=shards, settings=dict(settings), test=test)
    opened, config = runs.start(job, loop.Exchange(), arrays), job.config
    place = torch.device(device or ("cuda" if config.scaling.gpus_per_worker and torch.cuda.is_available() else "cpu"))
    states = checkpoints.States(state) if state else None
    try:
        saved = states.load() if states else None
    except checkpoints.OtherFormat as error:
        print(f"warning: {error}; this training starts anew", file=sys.stderr)
        saved = None
    history: list[dict[str, float]] = saved.get("history", []) if saved else []
    written = time.monotonic()

    def report(metrics: dict[str, float], current: dict[str, Any], scores: Scores) -> bool | None:
        nonlocal written
        history.append({**metrics, "train_seconds": current["seconds"]})
        if states and (time.monotonic() - written > SAVE_EVERY or metrics["epoch"] == config.optim.epochs):
            states.save(int(metrics["epoch"]), {**current, "history": history})
            written = time.monotonic()
        return progress(history[-1]) if progress else None

    run = loop.fit(opened.network, opened.train, opened.val, config, report, state=saved, device=place)
    finished = runs.finish(job, run, opened.train, opened.val, arrays)
    finished.history = history
    return finished


def reason(error: BaseException) -> str:
    """Why a configuration failed, in one line."""
    error = getattr(error, "cause", None) or error  # a RayTaskError carries the worker's own exception
    words = " ".join(str(error).split())
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory on the GPU; lower data.batch_size or the model's width"
    if isinstance(error, MemoryError) or "can't allocate memory" in words:
        return "out of memory"
    if isinstance(error, Diverged | ValueError):
        return words
    return f"{type(error).__name__}: {words}"[:300]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all trials of a search have in common."""

    shards: str
    base: dict[str, Any]  # dotted differences of the search's configuration from the defaults
    metrics: list[str]
    folder: str  # states go to folder/NAME/state; all nodes must see it, or a trial that moves starts anew
    arrays: Any = None  # reference to what `share` made


def settings_of(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    seed = {} if config.get("seed") is None else {"optim.seed": config["seed"]}
    return {**base, **config["settings"], **seed}


def trainable(config: dict[str, Any], plan: Plan) -> None:
    """A trial of the search: every epoch and the end are reported to Tune; what goes wrong is reported too, and fails this trial alone."""
    from ray import tune

    try:
        metrics = train(config, plan)
    except Exception as error:
        tune.report({"final": 1, "failed": reason(error), "metrics": {}})
        return
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    split = "test" if config["kind"] == "test" else "val"
    values = {**metrics[split], "train_seconds": metrics["train_seconds"]}
    value, epochs = values.get(plan.metrics[0]), metrics["epochs"]
    tune.report({"final": 1, "epoch": epochs, "epochs": epochs, "value": value, "metrics": values})


def train(config: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The metrics of one job, trained here or by workers of its own."""
    import ray
    from ray import tune

    settings, test = settings_of(config, plan.base), config["kind"] == "test"
    whole = runs.Job(shards=plan.shards, settings=settings).config
    folder = f"{plan.folder}/{config['state'] or config['name']}"

    def report(epoch: dict[str, float]) -> bool:
        tune.report(as_result(epoch, plan.metrics, whole.optim.epochs))  # Tune may end the trial in here
        return False

    if whole.scaling.workers > 1:
        from distributed.nested import run_nested

        return run_nested(plan.shards, settings, folder, report, test)
    arrays = ray.get(plan.arrays) if plan.arrays is not None else None
    return run_once(plan.shards, settings, arrays=arrays, progress=report, state=f"{folder}/state", test=test).metrics


def as_result(epoch: Mapping[str, float], names: list[str], epochs: int) -> dict[str, Any]:
    """An epoch's metrics as Tune, the stoppers and the records want them."""
    metrics = {k.removeprefix("val/"): v for k, v in epoch.items() if k.startswith("val/")}
    metrics |= {k: epoch[k] for k in ("loss", "train_seconds", "rows_per_second") if k in epoch}
    return {"epoch": int(epoch["epoch"]), "epochs": epochs, "value": metrics.get(names[0]), "metrics": metrics}
