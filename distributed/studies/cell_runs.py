"""One training of a study and all the cells that share it: train once, then score the test split under each cell's test conditions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from distributed.inference import shifts, weighing
from distributed.shards.manifest import read_manifest
from distributed.shards.sampling import IntArray, training_counts
from distributed.studies import boosting
from distributed.studies.definition import RAREST_ACCURACY, Cell
from distributed.studies.results import CellRow, finite_metrics
from distributed.training import run
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.exchange import Exchange
from distributed.training.run import RunSpec, open_split
from distributed.training.scoring import compute_metrics, confidence_metrics
from distributed.training.workers.follow import read_history, run_nested
from model.batch import Batch

Arrays = Mapping[str, Any]


def run_cells(
    shards: str, cells: Sequence[Cell], arrays: Arrays | None = None, folder: str = ""
) -> tuple[list[CellRow], list[dict[str, float]]]:
    """A row of outcome and metrics for every cell, and the training's history; a cell that fails says why in its row.

    folder: where a training keeps its state, or a training of several workers its run; the state stays until the rows are on disk.
    """
    try:
        if cells[0].model == "boosting":
            found = boosting.run_boosting(
                shards, cells[0].settings, arrays, [cell.test.get("corrupt", "") for cell in cells]
            )
            return _described(
                shards,
                cells[0].settings,
                [{"state": "done", **finite_metrics(metrics)} for metrics in found],
            ), []
        checkpoint, metrics, history = train(shards, cells, arrays, folder)
    except Exception as error:
        return [{"state": "failed", "reason": run.failure_reason(error)} for _ in cells], []
    return _described(
        shards,
        cells[0].settings,
        [_tested(shards, cell, checkpoint, metrics, arrays) for cell in cells],
    ), history


def _described(shards: str, settings: Mapping[str, Any], rows: Sequence[CellRow]) -> list[CellRow]:
    """The rows, with what they were trained on and the accuracy of the classes that are the rarest before any cut: the same ones for every
    imbalance ratio, unlike few-shot classes."""
    data, manifest = (
        RunSpec(shards=shards, settings=dict(settings)).config.data,
        read_manifest(shards),
    )
    schema = manifest.schema
    used_C = training_counts(schema.counts, data.imbalance_ratio, data.max_rows)
    facts = {
        "train_rows": float(used_C.sum()),
        "train_imbalance": float(used_C.max() / used_C[used_C > 0].min()),
    }
    facts["test/rows"] = float(manifest.rows["test"])
    order = np.argsort(-np.asarray(schema.counts), kind="stable")
    rarest = [f"test/recall/{schema.classes[c]}" for c in order[len(order) - -(-len(order) // 3) :]]
    found = []
    for row in rows:
        recalls = [row[name] for name in rarest if name in row]
        found.append(
            {
                **facts,
                **row,
                **({f"test/{RAREST_ACCURACY}": float(np.mean(recalls))} if recalls else {}),
            }
        )
    return found


def train(
    shards: str, cells: Sequence[Cell], arrays: Arrays | None, folder: str
) -> tuple[Checkpoint, Mapping[str, Any], list[dict[str, float]]]:
    """The trained network with all that testing needs; the test split is read only if some cell asks for it as it is."""
    settings, plain = cells[0].settings, any(not cell.test for cell in cells)
    config = RunSpec(shards=shards, settings=settings).config
    if config.scaling.workers > 1:
        metrics = run_nested(shards, settings, folder, lambda _: None, plain)
        return load_checkpoint(folder), metrics, read_history(folder)
    device = "cuda" if config.scaling.gpus_per_worker and torch.cuda.is_available() else None
    finished = run.run_once(
        shards, settings, arrays=arrays, state=folder, test=plain, device=device
    )
    return finished.checkpoint(config, read_manifest(shards)), finished.metrics, finished.history


def _tested(
    shards: str,
    cell: Cell,
    checkpoint: Checkpoint,
    metrics: Mapping[str, Any],
    arrays: Arrays | None,
) -> CellRow:
    whole = finite_metrics(metrics)
    if not cell.test:
        return {"state": "done", **whole}
    try:
        found, note = score_under_test_conditions(shards, cell, checkpoint, arrays)
    except Exception as error:
        return {"state": "failed", "reason": run.failure_reason(error)}
    kept = {name: value for name, value in whole.items() if not name.startswith("test/")}
    return {
        "state": "done",
        "note": note,
        **kept,
        **{f"test/{name}": value for name, value in found.items()},
    }


def score_under_test_conditions(
    shards: str, cell: Cell, checkpoint: Checkpoint, arrays: Arrays | None = None
) -> tuple[dict[str, float], str]:
    """Metrics of the test split under the cell's test conditions, the experts' weights among them, and the guard's note."""
    corrupt = ",".join(
        filter(None, (cell.settings.get("data.corrupt", ""), cell.test.get("corrupt", "")))
    )
    job = RunSpec(shards=shards, settings={**cell.settings, "data.corrupt": corrupt})
    if cell.test.get("unfamiliar"):  # other cells of this training go on without it
        checkpoint = replace(checkpoint, network=copy.deepcopy(checkpoint.network))
        checkpoint.network.accept_all_modalities()
    network = checkpoint.network
    device = next(network.parameters()).device
    source = open_split(job, "test", Exchange(), arrays)
    if cell.test.get("shift"):
        labels_N = np.concatenate([batch.labels_B.numpy() for batch in source.batches(0)])
        source = SelectedRows(
            source,
            shifts.shifted_rows(
                labels_N, np.asarray(network.schema.counts), cell.test["shift"], cell.seed
            ),
        )
    seen = weighing.score_rows(checkpoint, source, device)
    weighed = weighing.aggregate_experts(
        checkpoint,
        cell.test.get("aggregation", "uniform"),
        seen.logits_NEC,
        source,
        device,
        seed=cell.seed,
    )
    probabilities_NC = weighed.probabilities_NC
    found = compute_metrics(
        seen, network, probabilities_NC, checkpoint.calibration.decide(probabilities_NC)
    )
    found |= confidence_metrics(seen, network)
    found |= {f"expert_weight/{e + 1}": float(w) for e, w in enumerate(weighed.weights_E)}
    return {
        **found,
        "rows": float(len(seen.labels_N)),
        "fell_back": float(weighed.fell_back),
    }, weighed.reason


@dataclass
class SelectedRows:
    """Some rows of a source, by their positions in it."""

    source: Any
    rows_R: IntArray

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        first = 0
        for batch in self.source.batches(epoch, start):
            inside = (
                self.rows_R[(self.rows_R >= first) & (self.rows_R < first + len(batch))] - first
            )
            first += len(batch)
            if len(inside):
                yield batch.select(torch.from_numpy(inside)).replace(start=0, total=0)
