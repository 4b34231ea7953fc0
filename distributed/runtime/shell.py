"""Commands that a user can paste into the shell, in the folder in which this process runs."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from distributed.runtime.storage import is_uri

ROOT = Path(__file__).resolve().parents[2]


def script_command(script: str, *words: str) -> str:
    """Returns the command that runs a script of this project, such as distributed/train.py.

    words: options and their values; locations as `shown_location` writes them.
    """
    return shlex.join([_python(), shown_location(str(ROOT / script)), *words])


def resume_command(script: str, out: str) -> str:
    """Returns the command that goes on with what is in a folder or URI."""
    return script_command(script, "--out", shown_location(out), "--resume")


def tensorboard_command(location: str) -> str:
    """Returns the command that shows a folder or URI in TensorBoard."""
    program = ["tensorboard"]
    if not _is_first_on_path("tensorboard"):
        program = [_python(), "-m", "tensorboard.main"]
    return shlex.join([*program, "--logdir", shown_location(location)])


def shown_location(location: str) -> str:
    """Returns a path relative to the current folder if it is below it, else absolute; a URI as is.

    A path is the user's word for a folder, so symbolic links in it are kept.
    """
    if is_uri(location):
        return location
    path = os.path.abspath(location)
    here = os.getcwd()
    if path == here:
        return "."
    relative = os.path.relpath(path, here)
    if relative.startswith(os.pardir):
        return path
    return f"./{relative}" if relative.startswith("-") else relative  # -x would be an option


def _python() -> str:
    """Returns the interpreter of this process: by its path where `python` is another one."""
    return "python" if _is_first_on_path("python") else shown_location(sys.executable)


def _is_first_on_path(program: str) -> bool:
    """Whether the shell finds a program in the folder of this process's interpreter."""
    found = shutil.which(program)
    if found is None:
        return False
    return os.path.dirname(os.path.abspath(found)) == os.path.dirname(sys.executable)
