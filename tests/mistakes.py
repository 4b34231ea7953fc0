"""Checks the one line that the user of a command reads about a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distributed.runtime.command import one_line


@contextmanager
def mistake(pattern: str) -> Iterator[pytest.ExceptionInfo[ValueError]]:
    """Expects a ValueError whose message, with options as flags, matches the pattern."""
    with pytest.raises(ValueError) as caught:
        yield caught
    message = one_line(caught.value)
    assert re.search(pattern, message), f"{pattern!r} does not match {message!r}"
