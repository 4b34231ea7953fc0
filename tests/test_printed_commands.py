"""The commands that a user is told to run next are run as they are printed, from another folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.training import small_run

TINY = ("dim=16", "image.width=4", "table.width=16", "optim.epochs=1", "data.max_rows=100")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's folder, with a blank in its name, outside the repository."""
    folder = tmp_path / "my place"
    folder.mkdir()
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line in the shell, in this folder."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_BACKEND_LOG_LEVEL"}
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def script(name: str, *words: str) -> str:
    """A command as a user types it."""
    return shlex.join([sys.executable, str(ROOT / "distributed" / name), *words])


def printed(pattern: str, text: str) -> str:
    """Returns the command that follows a word at the beginning of a line."""
    found = re.search(pattern, text, re.MULTILINE)
    assert found, text
    return found[1]


def test_a_training_ends_with_a_prediction_that_runs(elsewhere: Path) -> None:
    small_run.write_shards(elsewhere / "my shards")
    words = ("--data", "my shards", "--out", "my runs/first", "--set", *TINY)
    trained = run(script("train.py", *words), elsewhere)
    assert trained.returncode == 0, trained.stderr
    command = printed(r"^use +(.*) \(--data", trained.stdout)
    assert "'my runs/first'" in command
    predicted = run(command, elsewhere)
    assert predicted.returncode == 0, predicted.stderr
    assert list((elsewhere / "predictions" / "predictions").glob("*.parquet"))


@pytest.mark.slow
def test_a_table_in_the_place_of_shards_is_ingested_by_the_command_in_the_error(
    elsewhere: Path,
) -> None:
    small_run.raw((60, 24, 12), 3).drop(columns="photo").to_csv(
        elsewhere / "my products.csv", index=False
    )
    refused = run(script("train.py", "--data", "my products.csv"), elsewhere)
    assert refused.returncode == 2
    ingested = run(printed(r"ingest it first: (.*) \(--label", refused.stderr), elsewhere)
    assert ingested.returncode == 0, ingested.stderr
    words = ("--data", "my products-shards", "--out", "run", "--set", *TINY)
    assert run(script("train.py", *words), elsewhere).returncode == 0


@pytest.mark.slow
def test_a_search_ends_with_a_training_that_runs(elsewhere: Path) -> None:
    small_run.write_shards(elsewhere / "my shards")
    words = ("--data", "my shards", "--out", "my search", "--quick", "--trials", "1")
    small = ("--replicates", "0", "--set", *TINY)
    searched = run(script("tune.py", *words, *small), elsewhere)
    assert searched.returncode == 0, searched.stderr
    trained = run(printed(r"^train +(.*)$", searched.stdout), elsewhere)
    assert trained.returncode == 0, trained.stderr
    assert (elsewhere / "runs" / "best" / "checkpoint" / "model.pt").exists()
