"""Commands that are printed for the user run in the folder in which they are printed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distributed.runtime import shell
from tests.conftest import ROOT


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a folder with a blank in its name the current one."""
    folder = tmp_path / "my place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_locations_below_the_current_folder_are_short_and_others_whole(elsewhere: Path) -> None:
    assert shell.shown_location(str(elsewhere / "runs" / "a b")) == "runs/a b"
    assert shell.shown_location("runs/first") == "runs/first"
    assert shell.shown_location(str(elsewhere)) == "."
    assert shell.shown_location(str(elsewhere.parent / "x")) == str(elsewhere.parent / "x")
    assert shell.shown_location("s3://bucket/runs") == "s3://bucket/runs"
    assert shell.shown_location("-x") == "./-x"


def test_the_script_is_named_as_it_is_seen_from_the_current_folder(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(shell.script_command("distributed/train.py", "--out", "a b"))
    assert words[1:] == [str(ROOT / "distributed" / "train.py"), "--out", "a b"]
    monkeypatch.chdir(ROOT)
    assert shlex.split(shell.script_command("distributed/train.py"))[1] == "distributed/train.py"


def test_the_interpreter_is_python_only_where_the_shell_finds_this_one(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = os.path.dirname(sys.executable), elsewhere / "other bin"
    other.mkdir()
    shutil.copy(shutil.which("true") or "/bin/true", other / "python")
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}{other}")
    assert shlex.split(shell.script_command("x.py"))[0] == "python"
    monkeypatch.setenv("PATH", f"{other}{os.pathsep}{own}")
    assert shlex.split(shell.script_command("x.py"))[0] == sys.executable
    monkeypatch.setenv("PATH", str(other))
    program = [sys.executable, "-m", "tensorboard.main"]
    assert shlex.split(shell.tensorboard_command("a b")) == [*program, "--logdir", "a b"]


def test_the_command_that_goes_on_names_the_folder(elsewhere: Path) -> None:
    words = shlex.split(shell.resume_command("distributed/tune.py", str(elsewhere / "a b")))
    assert words[1:] == [str(ROOT / "distributed" / "tune.py"), "--out", "a b", "--resume"]


def test_a_program_is_by_its_name_where_the_shell_finds_this_one(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert shell.tensorboard_command("runs") == "tensorboard --logdir runs"


def test_a_printed_command_runs_where_it_is_printed(elsewhere: Path) -> None:
    command = shell.script_command("distributed/predict.py", "--help")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: predict.py")
