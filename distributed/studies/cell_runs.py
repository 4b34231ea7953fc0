"""Runs one training of a study and scores every cell that shares it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from distributed.inference import shifts, weighing
from distributed.shards.manifest import Manifest, read_manifest
from distributed.shards.sampling import IntArray, training_counts
from distributed.studies.boosting import run_boosting
from distributed.studies.definition import RAREST_ACCURACY, Cell
from distributed.studies.results import CellOutcome, TrainingOutcome, finite_metrics
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.exchange import Exchange
from distributed.training.failures import fails_every_training, failure_reason
from distributed.training.frozen_views import with_frozen_views
from distributed.training.progress.recorder import read_history
from distributed.training.run import SharedArrays, open_split, run_training
from distributed.training.scoring import Batches, compute_run_metrics, confidence_metrics
from distributed.training.spec import RunSpec, resumable_spec
from distributed.training.workers.watched_run import run_on_workers
from model.batch import Batch
from model.schema import Schema


@dataclass(frozen=True)
class TrainedNetwork:
    """A finished training: the network with all that testing needs, its metrics and history."""

    checkpoint: Checkpoint
    metrics: Mapping[str, object]
    history: list[dict[str, float]]


def run_cells(
    shards: str,
    cells: Sequence[Cell],
    arrays: SharedArrays | None = None,
    folder: str = "",
) -> TrainingOutcome:
    """Trains once and scores every cell; an error fails the cells that it concerns.

    A full disk and damaged shards fail none: their error is raised, since the study cannot go on.

    cells: of one training. arrays: the decoded rows, None to decode them here.
    folder: for the training's resumable state, or the run of a training of several workers. The
    caller removes it when the results are stored.
    """
    try:
        if cells[0].model == "boosting":
            outcomes, history = _run_boosting_cells(shards, cells, arrays), []
        else:
            trained = train_cells(shards, cells, arrays, folder)
            history = trained.history
            outcomes = [_score_cell(shards, cell, trained, arrays) for cell in cells]
    except Exception as error:
        if fails_every_training(error):
            raise
        failed = [CellOutcome(state="failed", reason=failure_reason(error)) for _ in cells]
        return TrainingOutcome(cells=failed, history=[])
    manifest = read_manifest(shards)
    for outcome in outcomes:
        outcome.metrics = {
            **training_facts(cells[0], manifest),
            **outcome.metrics,
            **rarest_accuracy(outcome.metrics, manifest.schema),
        }
    return TrainingOutcome(cells=outcomes, history=history)


def _run_boosting_cells(
    shards: str, cells: Sequence[Cell], arrays: SharedArrays | None
) -> list[CellOutcome]:
    corruptions = [cell.test.get("corrupt", "") for cell in cells]
    results = run_boosting(shards, cells[0].settings, arrays, corruptions)
    return [
        CellOutcome(state="done", metrics=finite_metrics(result.metrics())) for result in results
    ]


def training_facts(cell: Cell, manifest: Manifest) -> dict[str, float]:
    """How many rows the cell is trained and tested on, and how unequal its classes are."""
    data = cell.config.data
    counts_C = training_counts(manifest.schema.counts, data.imbalance_ratio, data.max_rows)
    return {
        "train_rows": float(counts_C.sum()),
        "train_imbalance": float(counts_C.max() / counts_C[counts_C > 0].min()),
        "test/rows": float(manifest.rows["test"]),
    }


def rarest_accuracy(metrics: Mapping[str, float], schema: Schema) -> dict[str, float]:
    """The mean recall of the third of the classes with the fewest training rows before any cut.

    Unlike the few-shot classes, these are the same at every imbalance ratio. Empty where none of
    them has test rows.
    """
    by_count = np.argsort(-np.asarray(schema.counts), kind="stable")
    third = -(-len(by_count) // 3)  # rounded up
    names = [f"test/recall/{schema.classes[c]}" for c in by_count[len(by_count) - third :]]
    recalls = [metrics[name] for name in names if name in metrics]
    return {f"test/{RAREST_ACCURACY}": float(np.mean(recalls))} if recalls else {}


def train_cells(
    shards: str, cells: Sequence[Cell], arrays: SharedArrays | None, folder: str
) -> TrainedNetwork:
    """Trains the network of these cells, or goes on from the state in the folder.

    The test split is scored only if a cell needs it unchanged.
    """
    settings, config = cells[0].settings, cells[0].config
    test = any(not cell.test for cell in cells)
    spec = resumable_spec(shards, settings, folder, test=test)
    if config.scaling.workers > 1:
        metrics = run_on_workers(spec)
        return TrainedNetwork(load_checkpoint(folder), metrics.as_dict(), read_history(folder))
    result = run_training(spec, arrays=arrays)
    checkpoint = result.checkpoint(config, read_manifest(shards))
    return TrainedNetwork(checkpoint, result.metrics.as_dict(), result.history)


def _score_cell(
    shards: str, cell: Cell, trained: TrainedNetwork, arrays: SharedArrays | None
) -> CellOutcome:
    """The cell's metrics: those of the training, and those of its own test if it changes that."""
    metrics = finite_metrics(trained.metrics)
    if not cell.test:
        return CellOutcome(state="done", metrics=metrics)
    try:
        tested = score_under_test_conditions(shards, cell, trained.checkpoint, arrays)
    except Exception as error:
        if fails_every_training(error):
            raise
        return CellOutcome(state="failed", reason=failure_reason(error))
    of_training = {name: v for name, v in metrics.items() if not name.startswith("test/")}
    of_test = {f"test/{name}": v for name, v in tested.metrics.items()}
    return CellOutcome(state="done", note=tested.note, metrics={**of_training, **of_test})


@dataclass(frozen=True)
class TestScores:
    """Metrics of a test split, and the note of the guard of test-time aggregation if it has one."""

    __test__ = False  # pytest takes a class of this name for tests

    metrics: dict[str, float]
    note: str


def score_under_test_conditions(
    shards: str, cell: Cell, checkpoint: Checkpoint, arrays: SharedArrays | None = None
) -> TestScores:
    """Scores the test split as the cell's test changes it, the experts' weights included."""
    settings = {**cell.settings, "data.corrupt": cell.test_corruption}
    spec = RunSpec(shards=shards, settings=settings)
    if cell.test.get("unfamiliar"):
        # A copy, since other cells of this training need the network as it is.
        checkpoint = replace(checkpoint, network=copy.deepcopy(checkpoint.network))
        checkpoint.network.accept_all_modalities()
    network = checkpoint.network
    device = next(network.parameters()).device
    method = cell.test.get("aggregation", "uniform")
    test_split = open_split(spec, "test", Exchange(), arrays)
    if method != "stability":  # which changes the pixels
        test_split = with_frozen_views(test_split, network, spec.config)
    source: Batches = test_split
    if shift := cell.test.get("shift"):
        labels_N = np.concatenate([batch.labels_B.numpy() for batch in test_split.batches(0)])
        counts_C = np.asarray(network.schema.counts)
        source = SelectedRows(test_split, shifts.shifted_rows(labels_N, counts_C, shift, cell.seed))
    scores = weighing.compute_outputs(checkpoint, source, device)
    weighted = weighing.aggregate_experts(
        checkpoint, method, scores.logits_NEC, source, device, seed=cell.seed
    )
    probabilities_NC = weighted.probabilities_NC
    decisions_N = checkpoint.calibration.decide(probabilities_NC)
    weights = {f"expert_weight/{e}": float(w) for e, w in enumerate(weighted.weights_E, start=1)}
    metrics = {
        **compute_run_metrics(scores, network, probabilities_NC, decisions_N),
        **confidence_metrics(scores, network),
        **weights,
        "rows": float(len(scores.labels_N)),
        "fell_back": float(weighted.fell_back),
    }
    return TestScores(metrics, weighted.reason)


@dataclass
class SelectedRows:
    """The rows of a source at some positions; rows_R holds the positions in ascending order."""

    source: Batches
    rows_R: IntArray

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        first = 0  # position of the batch's first row in the source
        for batch in self.source.batches(epoch, start):
            behind = first + len(batch)
            inside_R = self.rows_R[(self.rows_R >= first) & (self.rows_R < behind)] - first
            first = behind
            if len(inside_R):
                yield batch.select(torch.from_numpy(inside_R)).replace(start=0, total=0)
