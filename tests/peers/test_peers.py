"""Facts about benchmarks/peers: peers get the rows of the shards and are scored as a run here is;
what a run costs is counted with the processes that it leaves behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.peers import jobs, rows, run, scoring, table
from benchmarks.peers.tables import write_tables
from distributed import load


@pytest.fixture(scope="module")
def tables(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(str(trained_run / "shards"), folder)
    return folder


def test_rows_of_the_tables_are_answered_and_scored_as_those_of_the_shards(
    trained_run: Path, tables: Path, tmp_path: Path
) -> None:
    test = rows.read(tables, "test").rename(columns=lambda name: name.removeprefix("table_"))
    assert test["site"].isna().any() and test["photo"].str.endswith("missing.png").any()
    photos = [None if path.endswith("missing.png") else path for path in test["photo"]]
    test = test.assign(photo=photos, id=[str(k) for k in range(len(test))])
    answers = load(trained_run / "run").predict(test, images="/")
    probabilities = answers.filter(regex="^p/").rename(columns=lambda name: name.removeprefix("p/"))
    rows.write_answers(tmp_path, probabilities, rows.describe(tables), {})
    ours, peer = scoring.score_ours(trained_run / "run"), scoring.score_peer(tables, tmp_path)
    assert peer["as_is"] == pytest.approx(ours["as_is"], rel=1e-4)


def test_a_class_that_a_peer_does_not_know_has_no_probability(tables: Path, tmp_path: Path) -> None:
    known = pd.DataFrame({"middling": [0.3, 0.4], "common": [0.7, 0.6]})
    rows.write_answers(tmp_path, known, rows.describe(tables), {})
    written = np.load(tmp_path / "probabilities.npy")
    assert written.tolist() == [[0.7, 0.3, 0.0], [0.6, 0.4, 0.0]]


def test_processor_time_of_a_job_includes_processes_that_outlive_their_parent(
    tmp_path: Path,
) -> None:
    busy = "import time\nend = time.process_time() + 1.5\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])"
    costs = jobs.run_job([sys.executable, "-c", parent], os.environ, tmp_path / "log")
    assert 1.4 < costs["cpu_seconds"] < 4


def test_a_job_that_fails_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(jobs.JobFailed, match="exit code 3; see .*log"):
        jobs.run_job([sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path / "log")


def test_the_table_gives_mean_and_deviation_over_the_seeds(tmp_path: Path) -> None:
    scores = dict.fromkeys(scoring.METRICS, 0.5)
    records = [
        {
            **dict(zip(run.KEY, ("wafers", "c0ffee", "ludwig", "plain", seed))),
            "costs": {"cpu_seconds": 60.0 + seed, "wall_seconds": 70.0, "peak_memory_mib": 900},
            "scores": {
                "as_is": {**scores, "balanced_accuracy": 0.6 + 0.1 * seed},
                "divided_by_shares": scores,
            },
        }
        for seed in range(2)
    ]
    run.write_records(tmp_path / "f.json", records)
    lines = table.table(run.read_records(tmp_path / "f.json"))
    assert len(lines) == 4  # as it is, and divided by the shares
    assert lines[2].startswith("| Ludwig, plain | 2 | 65.0 ± 7.1 | 50.0 ± 0.0 |")
    assert lines[2].endswith("| 60 ± 1 | 900 ± 0 |")
