"""A whole search with folds and a distilled network: killed, continued, and used."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from distributed import EvaluateOptions, evaluate, load
from distributed.searches.state.records import FOLD_ERROR, OVER_START, SearchLog
from distributed.shards.manifest import read_manifest
from distributed.training.checkpoint import load_checkpoint
from model.ensemble import Ensemble
from tests.searches.test_tune import TINY, search, start, wait_for

FOLDS = 3


@pytest.mark.slow
def test_a_search_with_folds_is_continued_and_leaves_two_models(
    wafer_shards: str, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    arguments = ["--data", wafer_shards, "--space", "experts", "--trials", "8", "--best", "1"]
    arguments += ["--portfolio", "none", "--folds", str(FOLDS), "--distil", *TINY]
    process = start(out, *arguments)
    wait_for(out, 9, process)  # a fold has ended
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = SearchLog(out).of_kind("fold")
    done = search(out, "--resume")
    assert done.returncode == 0, done.stderr
    log = SearchLog(out)
    assert {r.name for r in before} <= set(log.records)
    folds = log.of_kind("fold")
    start_run = next(r for r in log.configurations() if r.job.label == "starting point")
    assert {r.job.fold for r in folds if r.job.of == start_run.name} == {1, 2}
    assert all(r.state == "complete" and r.metrics[FOLD_ERROR] for r in folds)
    others = [r for r in folds if r.job.of != start_run.name]
    assert others
    assert all(OVER_START in r.metrics for r in others)
    assert "with the 95 %" in done.stdout
    assert f"{out.name}/distilled holds one network" in " ".join(done.stdout.split())

    rows = read_manifest(wafer_shards).rows
    whole = load_checkpoint(str(out / "model"))
    assert isinstance(whole.network, Ensemble)
    assert len(whole.network.members) > 1
    assert whole.validation is not None
    assert len(whole.validation.labels_V) == 200 + rows["val"]  # data.max_rows is 200
    flattered = evaluate(EvaluateOptions(checkpoint=str(out), data=wafer_shards, split="val"))
    assert any("flattered by rows" in note for note in flattered.remarks)
    single = load(out / "distilled")
    assert single.metrics is not None
    assert set(single.metrics) == {"val", "test"}
    metrics = json.loads((out / "distilled" / "metrics.json").read_text())
    assert metrics["test"]["balanced_accuracy"] > 0
    best = (out / "best.toml").read_text()
    assert "folds" not in best.partition("[data]")[2].partition("[")[0]
    again = search(out, "--resume")
    assert again.returncode == 0, again.stderr
    assert {name: r.started for name, r in SearchLog(out).records.items()} == {
        name: r.started for name, r in log.records.items()
    }
