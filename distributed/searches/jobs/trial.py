"""A job of a search in its own process: from the settings to the results that Ray Tune receives."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune

from distributed.ensembles import boosting
from distributed.runtime.errors import full_disk_message, unreadable_data
from distributed.searches.jobs import distilling, ensembling, pooling, spoilt_rows
from distributed.searches.state.model_files import DISTILLED_FOLDER, MODEL_FOLDER
from distributed.searches.state.records import DISTILLED, configuration_of
from distributed.shards.manifest import read_manifest
from distributed.shards.sharing import SplitArraysRef
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from distributed.training.failures import failure_reason
from distributed.training.results import RunMetrics, write_metrics
from distributed.training.run import run_training
from distributed.training.spec import RunSpec, resumable_spec
from distributed.training.workers.watched_run import run_on_workers
from model.metrics import names

PER_EPOCH = ("loss", "train_seconds", "rows_per_second")  # reported beside the validation metrics


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a search have in common.

    base: settings of the search's starting point that differ from the defaults.
    folder: trial NAME keeps its state in folder/NAME/state. All nodes must see this folder, or a
        trial that moves to another node starts anew.
    arrays: reference to the decoded data from shards.sharing.share; None: each trial reads it.
    ensemble: how many networks the model that the search ends with may have.
    corrupt: what spoils the test rows of a job `spoilt`, as data.corrupt has it.
    """

    shards: str
    base: Mapping[str, Any]
    metrics: list[str]
    folder: str
    arrays: SplitArraysRef | None = None
    ensemble: int = 1
    corrupt: str = ""

    @property
    def model(self) -> str:
        """The folder of the model that the search ends with."""
        return f"{self.experiment}/{MODEL_FOLDER}"

    @property
    def experiment(self) -> str:
        """The folder of the search."""
        return self.folder.rpartition("/")[0]


def run(job: Mapping[str, Any], context: TrialContext) -> None:
    """Trains a job and reports every epoch and the end to Tune.

    A failure is reported too, and fails this trial alone; a full disk and damaged shards stop the
    search.

    job: the fields of records.SearchJob.
    """
    try:
        result = score(job, context)
    except Exception as error:
        tune.report({"final": 1, **failure_result(error), "metrics": {}})
        return
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    epochs, values = result
    value = values.get(context.metrics[0])
    tune.report({"final": 1, "epoch": epochs, "epochs": epochs, "value": value, "metrics": values})


def score(job: Mapping[str, Any], context: TrialContext) -> tuple[int, dict[str, float]]:
    """Does what a job stands for; returns its epochs, if it has any, and its metrics."""
    if job["members"]:
        return score_ensemble(job, context)
    if job["method"] == DISTILLED:
        return score_distilled(job, context)
    if job["kind"] == "test" and "data.folds" in context.base:
        run = load_checkpoint(f"{context.folder}/{job['state']}/checkpoint")
        return 0, ensembling.score_split(run, context.shards, "test")
    epochs, metrics = (score_boosting if job["method"] else score_run)(job, context)
    if job["kind"] == "fold":
        pooled = pooling.pool(job, context.folder, context.metrics[0])
        metrics = {**pooled, "train_seconds": metrics["train_seconds"]}
    return epochs, metrics


def score_run(job: Mapping[str, Any], context: TrialContext) -> tuple[int, dict[str, float]]:
    """Trains a job; returns its epochs and its metrics on validation, of a test job on test."""
    metrics = train(job, context)
    split = "test" if job["kind"] == "test" else "val"
    return metrics.epochs, {**metrics.splits[split], "train_seconds": metrics.train_seconds}


def score_boosting(job: Mapping[str, Any], context: TrialContext) -> tuple[int, dict[str, float]]:
    """Grows boosted trees, saves them as a checkpoint, and scores them on validation."""
    spec = RunSpec(shards=context.shards, settings=job_settings(job, context.base))
    arrays = None if context.arrays is None else ray.get(context.arrays)
    started, cpu_started = time.perf_counter(), time.process_time()
    checkpoint, metrics = boosting.boost(
        spec.config,
        read_manifest(context.shards),
        ensembling.open_rows(context.shards, "train", arrays),
        ensembling.open_rows(context.shards, "val", arrays),
    )
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    folder = f"{context.folder}/{job['name']}"
    save_checkpoint(f"{folder}/checkpoint", checkpoint)
    costs = {"train_seconds": seconds, "cpu_seconds": cpu_seconds}
    write_metrics(folder, {"val": metrics, **costs})
    return 0, {**metrics, "train_seconds": seconds}


def score_ensemble(job: Mapping[str, Any], context: TrialContext) -> tuple[int, dict[str, float]]:
    """Builds the search's model and scores it on validation, or scores it on test rows."""
    config = RunSpec(shards=context.shards, settings=context.base).config
    if job["kind"] == "test":
        return 0, ensembling.score_test(context.shards, context.model)
    if job["kind"] == "spoilt":
        return 0, spoilt_rows.score_spoilt(
            spoilt_rows.SpoiltTest(
                runs={
                    **{name: f"{context.folder}/{name}" for name in job["members"]},
                    spoilt_rows.MODEL: context.model,
                },
                plain=job["plain"],
                shards=context.shards,
                corrupt=context.corrupt,
                seed=config.optim.seed,
            )
        )
    arrays = None if context.arrays is None else ray.get(context.arrays)
    ingredients = ensembling.Ingredients(
        members=job["members"],
        leading=job["of"],
        configuration={name: configuration_of(name) for name in job["members"]},
        trials=context.folder,
        modalities=config.data.modalities,
        # These metrics count rows and not classes.
        balanced=context.metrics[0] not in names.OF_ROWS,
        limit=context.ensemble,
    )
    return 0, ensembling.build(ingredients, context.shards, context.model, arrays)


def score_distilled(job: Mapping[str, Any], context: TrialContext) -> tuple[int, dict[str, float]]:
    """Trains the distilled network, or scores it on test rows."""
    out = f"{context.experiment}/{DISTILLED_FOLDER}"
    if job["kind"] == "test":
        return 0, ensembling.score_test(context.shards, out)
    settings = job_settings(job, context.base)
    arrays = None if context.arrays is None else ray.get(context.arrays)
    states = f"{context.folder}/{job['name']}/state"
    config = RunSpec(shards=context.shards, settings=settings).config
    epochs = distilling.EPOCHS * config.optim.epochs

    def report(epoch: dict[str, float]) -> bool:
        tune.report(epoch_result(epoch, context.metrics, epochs))
        return False

    plan = distilling.Distillation(context.shards, context.model, out, states)
    metrics = distilling.distil(plan, settings, arrays, report)
    return metrics.epochs, {**metrics.val, "train_seconds": metrics.train_seconds}


def failure_result(error: Exception) -> dict[str, str]:
    """What the searcher is told of an error: what stops the search, or why the trial failed."""
    if message := full_disk_message(error):
        return {"full_disk": message}
    if unreadable := unreadable_data(error):
        return {"unreadable_data": str(unreadable)}
    return {"failed": failure_reason(error)}


def train(job: Mapping[str, Any], context: TrialContext) -> RunMetrics:
    """The metrics of a job, trained in this process, or by several workers through Ray Train."""
    settings, test = job_settings(job, context.base), job["kind"] == "test"
    config = RunSpec(shards=context.shards, settings=settings).config
    folder = f"{context.folder}/{job['state'] or job['name']}"

    def report(epoch: dict[str, float]) -> bool:
        # Where Tune stops the trial early, this call does not return.
        tune.report(epoch_result(epoch, context.metrics, config.optim.epochs))
        return False

    spec = resumable_spec(context.shards, settings, folder, test=test, states=f"{folder}/state")
    if config.scaling.workers > 1:
        return run_on_workers(spec, report)
    arrays = None if context.arrays is None else ray.get(context.arrays)
    result = run_training(spec, progress=report, arrays=arrays)
    if not test:
        saved = result.checkpoint(config, read_manifest(context.shards))
        save_checkpoint(f"{folder}/checkpoint", saved)
        write_metrics(folder, result.metrics.as_dict())
    return result.metrics


def job_settings(job: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """A job's settings that differ from this project's defaults."""
    seed = {} if job.get("seed") is None else {"optim.seed": job["seed"]}
    fold = {"data.fold": job["fold"]} if job.get("fold") else {}
    return {**base, **job["settings"], **seed, **fold}


def epoch_result(epoch: Mapping[str, float], names: list[str], epochs: int) -> dict[str, Any]:
    """An epoch's metrics as Tune, the stoppers and the records expect them.

    names: the search's metrics; the first one is the value that decides.
    """
    metrics = {
        name.removeprefix("val/"): value for name, value in epoch.items() if name.startswith("val/")
    }
    metrics |= {name: epoch[name] for name in PER_EPOCH if name in epoch}
    return {
        "epoch": int(epoch["epoch"]),
        "epochs": epochs,
        "value": metrics.get(names[0]),
        "metrics": metrics,
    }
