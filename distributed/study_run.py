"""One training of a study and all the cells that share it: train once, then score the test split under each cell's test conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distributed import boosting, runs, stream, testing, trial
from distributed.config import Config
from distributed.results import Row, flat
from distributed.shards import SPLITS, read_manifest
from distributed.study import Cell


def decode(shards: str) -> dict[str, Any] | None:
    """All splits as arrays for every task to share; None where they are to be streamed."""
    manifest = read_manifest(shards)
    if stream.decide_cache(manifest.schema, sum(manifest.rows.values()), Config()) != "memory":
        return None
    return {split: stream.load_arrays(shards, split, manifest.schema) for split in SPLITS if manifest.rows[split]}


def run_group(shards: str, cells: Sequence[Cell], arrays: Mapping[str, Any] | None = None) -> tuple[list[Row], list[dict[str, float]]]:
    """A row of outcome and metrics for every cell, and the training's history; a cell that fails says why in its row."""
    first = cells[0]
    try:
        if first.model == "boosting":
            metrics = boosting.run(shards, first.settings, arrays)
            return [{"state": "done", **flat(metrics)} for _ in cells], []
        device = "cuda" if runs.Job(shards=shards, settings=first.settings).config.scaling.gpus_per_worker else None
        plain = any(not cell.test for cell in cells)
        finished = trial.run_once(shards, first.settings, arrays=arrays, test=plain, device=device)
    except Exception as error:
        return [{"state": "failed", "reason": trial.reason(error)} for _ in cells], []
    return [_tested(shards, cell, finished, arrays) for cell in cells], finished.history


def _tested(shards: str, cell: Cell, finished: runs.Finished, arrays: Mapping[str, Any] | None) -> Row:
    whole = flat(finished.metrics)
    if not cell.test:
        return {"state": "done", **whole}
    try:
        found, note = testing.examine(finished, shards, cell.settings, cell.test, arrays)
    except Exception as error:
        return {"state": "failed", "reason": trial.reason(error)}
    kept = {name: value for name, value in whole.items() if not name.startswith("test/")}
    return {"state": "done", "note": note, **kept, **{f"test/{name}": value for name, value in found.items()}}
