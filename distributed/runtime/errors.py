"""The two kinds of errors that a command ends with in one line, and the words for a full disk."""

from __future__ import annotations

import errno
import os
import re
from typing import Any

_FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "over the quota",
    errno.EFBIG: "over the limit of a file's size",
}


class OptionError(ValueError):
    """A user's mistake in an option of a verb: exit code 2. `str` names the options as the Python API does.

    names: the options that the message speaks of, so that a command can say them as its user typed them.
    """

    def __init__(self, message: str, *names: str) -> None:
        super().__init__(message, *names)

    def __str__(self) -> str:
        return str(self.args[0])

    def as_flags(self) -> str:
        """The message with each option as the command line has it: time_budget as --time-budget."""
        message = str(self)
        for name in self.args[1:]:
            message = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w=])", flag(name), message, count=1)
        return message


class Failure(Exception):
    """Something outside the user's command went wrong (a full disk, say): one line on stderr and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


def flag(name: str) -> str:
    """The command line's name of an option."""
    return "--" + name.replace("_", "-")


def cause_of(error: BaseException) -> Any:
    """A RayTaskError carries the worker's own exception; any other error is its own."""
    return getattr(error, "cause", None) or error


def disk_full(error: Exception) -> str:
    """What ran out, if that is what went wrong; else nothing. Over Ray and Arrow it may be words only."""
    number = getattr(cause_of(error), "errno", None)
    return _FULL.get(number) or next(
        (why for known, why in _FULL.items() if os.strerror(known) in str(error)), ""
    )
