"""Checks the one line that the user of a command reads about a mistake."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distributed.runtime import command
from distributed.runtime.command import one_line


@contextmanager
def mistake(pattern: str) -> Iterator[pytest.ExceptionInfo[ValueError]]:
    """Expects a ValueError whose message, with options as flags, matches the pattern."""
    with pytest.raises(ValueError) as caught:
        yield caught
    message = one_line(caught.value)
    assert re.search(pattern, message), f"{pattern!r} does not match {message!r}"


def answer_of(script: str, *argv: str) -> tuple[int, str]:
    """Returns the exit code and the standard error of a command that runs in this process.

    script: train.py and so on; `wafers` is the module distributed.wafers.
    """
    name = "wafers.__main__" if script == "wafers" else script.removesuffix(".py")
    main = importlib.import_module(f"distributed.{name}").main
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr("sys.argv", [script, *argv])
        with pytest.raises(SystemExit) as ended:
            command.run(main)
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.getvalue()
