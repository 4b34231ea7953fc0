"""The command: mistakes of its user, and real studies that run, are stopped and are extended."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from distributed import ablate
from distributed.runtime.command import one_line
from distributed.shards.manifest import read_manifest, write_manifest
from distributed.studies.results import Results
from distributed.studies.schedule import run_trainings
from tests.conftest import ROOT, flip_bit, run_command
from tests.studies.study_tools import (
    TINY,
    TWO,
    opened,
)

OWN = f"""
title = "A small study"
question = "Does it run?"
reference = "concatenation"
[set]
{TINY}
[[variants]]
name = "concatenation"
set = {{ fusion.kind = "uniform" }}
[[variants]]
name = "confidence"
[[variants]]
name = "boosting"
model = "boosting"
[[conditions]]
name = "clean"
[[conditions]]
name = "map is noise at test"
test = {{ corrupt = "map=noise" }}
[[claims]]
text = "fusion"
variant = "confidence"
against = "concatenation"
metric = "balanced_accuracy"
"""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--study", "nothing"],
            "--study must be a shipped study or a TOML file that exists; got 'nothing'",
        ),
        ([], "--study must be given"),
        (["--study", "paper", "--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--study", "paper", "--data", "/nowhere"], "a SHARDS folder must exist; got '/nowhere'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], error: str) -> None:
    finished = run_command("distributed/ablate.py", *arguments)
    assert finished.returncode == 2
    assert error in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_study_needs_test_rows(wafer_shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(wafer_shards)
    write_manifest(dataclasses.replace(manifest, rows={**manifest.rows, "test": 0}), str(tmp_path))
    with pytest.raises(ValueError, match="data must have test rows, .* has none") as raised:
        ablate.main(["--study", "paper", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert one_line(raised.value).startswith("--data must have test rows, ")


def test_a_folder_that_cannot_be_made_is_one_clear_error(wafer_shards: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (
        str(tmp_path / "file"),
        str(tmp_path / "file/x"),
        f"file://{tmp_path}/file/x",
        "/proc/nothing",
    ):
        with pytest.raises(
            ValueError,
            match=rf"^out must be a folder or URI that can be read and written; got '{out}'",
        ):
            ablate.main(["--study", "paper", "--data", wafer_shards, "--out", out])


def test_a_training_that_fits_nowhere_is_refused(tmp_path: Path, ray_local: None) -> None:
    state = opened(tmp_path, TWO, seeds=1, **{"scaling.workers": 4})
    with pytest.raises(
        ValueError,
        match="a training must fit on this machine, which has 2 CPU; "
        "it takes 4 CPU: lower scaling.workers",
    ):
        run_trainings(state, state.remaining(), {})


def test_a_study_runs_and_is_extended(wafer_shards: str, tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "out"
    own.write_text(OWN)
    command = [
        "distributed/ablate.py",
        "--study",
        str(own),
        "--data",
        wafer_shards,
        "--out",
        str(out),
    ]
    finished = run_command(*command, "--seeds", "1")
    assert finished.returncode == 0, finished.stderr
    assert (
        "6 cells, 0 done; 3 trainings to run" in finished.stdout
    )  # trees do not see the map, so its noise costs them nothing
    assert {p.name for p in out.iterdir()} >= {
        "results.csv",
        "table.md",
        "table.tex",
        "table.csv",
        "report.html",
        "report.md",
        "study.json",
    }
    runs = {
        str(p.parent.relative_to(out / "tensorboard"))
        for p in (out / "tensorboard").rglob("events.*")
    }
    variants = ("concatenation", "confidence", "boosting")
    assert runs == {
        f"{place}{name}/seed-0" for place in ("", "map-is-noise-at-test/") for name in variants
    }
    again = run_command(*command, "--seeds", "1")
    assert again.returncode == 2
    assert "add --resume" in again.stderr
    before = Results.load(str(out)).rows
    more = run_command(*command, "--seeds", "2", "--resume")
    assert more.returncode == 0, more.stderr
    assert "12 cells, 6 done; 3 trainings to run" in more.stdout
    after = Results.load(str(out)).rows
    assert {place: after[place] for place in before} == before
    assert len(after) == 12


@pytest.mark.slow
def test_sigterm_leaves_a_study_that_resumes(wafer_shards: str, tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "out"
    own.write_text(OWN)
    arguments = ["--study", str(own), "--data", wafer_shards, "--out", str(out), "--seeds", "4"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "distributed/ablate.py"), *arguments],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        limit = time.monotonic() + 240
        while (
            time.monotonic() < limit
            and process.poll() is None
            and len(Results.load(str(out)).rows) < 3
        ):
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        log.seek(0)
        assert b"add --resume to the same command" in log.read()
    kept = Results.load(str(out)).rows
    assert 3 <= len(kept) < 24
    assert (out / "report.html").exists()
    finished = run_command("distributed/ablate.py", *arguments, "--resume")
    assert finished.returncode == 0, finished.stderr
    finished = Results.load(str(out)).rows
    assert len(finished) == 24
    assert {place: finished[place] for place in kept} == kept


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_damaged_shards_stop_a_study_and_fail_no_cell(
    wafer_shards: str, tmp_path: Path, cache: str
) -> None:
    own, out, data = tmp_path / "own.toml", tmp_path / "out", tmp_path / "data"
    own.write_text(OWN)
    shutil.copytree(wafer_shards, data)
    damaged = data / "test" / "part-00000.parquet"  # which a training reads last
    flip_bit(damaged)
    command = ["distributed/ablate.py", "--study", str(own), "--data", str(data), "--seeds", "1"]
    command += ["--out", str(out), "--set", f"data.cache={cache}"]
    stopped = run_command(*command)
    assert stopped.returncode == 2, stopped.stderr
    assert stopped.stderr.startswith(f"error: '{damaged}' is damaged: ")
    assert stopped.stderr.count("\n") == 1
    assert Results.load(str(out)).rows == {}
    flip_bit(damaged)
    finished = run_command(*command, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert {row.state for row in Results.load(str(out)).rows.values()} == {"done"}
