"""Trains one network of ordinary size on the answers of the model that a search ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from distributed.config import Config, apply_changes
from distributed.ensembles.teaching import make_teacher
from distributed.searches.jobs.ensembling import open_rows
from distributed.searches.state.records import configuration_of
from distributed.shards.manifest import read_manifest
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from distributed.training.results import RunMetrics, write_metrics
from distributed.training.run import SharedArrays, run_training
from distributed.training.spec import resumable_spec

# Times the epochs of the search: a network goes on learning from a teacher long after it knows the
# labels (docs/results/search.md).
EPOCHS = 3
# Of every distilled training: the folds are the teacher's, and pairs are not blended, since the
# teacher answers for single rows.
FIXED = {"data.folds": 1, "data.fold": 0, "loss.mix": "none", "scaling.workers": 1}


@dataclass(frozen=True)
class Distillation:
    """model: the folder of the teacher. out: the folder that gets the network.

    states: folder of the resumable states.
    """

    shards: str
    model: str
    out: str
    states: str


def distil(
    plan: Distillation,
    settings: Mapping[str, object],
    arrays: SharedArrays | None,
    report: Callable[[dict[str, float]], bool],
) -> RunMetrics:
    """Trains and saves the network; returns its metrics on validation.

    settings: of the training, where they differ from the defaults.
    report: gets the metrics of every epoch.
    """
    epochs = EPOCHS * apply_changes(Config(), settings).optim.epochs
    settings = {**settings, **FIXED, "optim.epochs": epochs}
    spec = resumable_spec(plan.shards, settings, plan.states, test=False, states=plan.states)
    teacher = make_teacher(
        load_checkpoint(plan.model),
        spec.config,
        open_rows(plan.shards, "train", arrays),
        open_rows(plan.shards, "val", arrays),
        configuration_of,
    )
    result = run_training(spec, progress=report, arrays=arrays, teacher=teacher)
    save_checkpoint(plan.out, result.checkpoint(spec.config, read_manifest(plan.shards)))
    write_metrics(plan.out, result.metrics.as_dict())
    return result.metrics
