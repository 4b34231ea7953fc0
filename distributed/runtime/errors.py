"""The errors that a command reports in one line, and how to recognise those of the machine."""

from __future__ import annotations

import errno
import os
import re

from distributed.runtime.redaction import redact

FULL_DISK = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "over the quota",
    errno.EFBIG: "over the limit of a file's size",
}


FILE_IN_TEXT = re.compile(r"\[Errno \d+\] [\w ]+: '([^']+)'")  # of an OSError that became text
SQLITE_FULL = "database or disk is full"  # of SQLite, which has no error numbers of the system

QUOTED = re.compile(r"""(?<!\w)('[^']*'|"[^"]*")(?!\w)""")


class OptionError(ValueError):
    """A user's mistake in an option; a command ends with exit code 2.

    The message names options as Python does (`time_budget`). `names` lists the options it
    mentions, so that a command can print them as flags (`--time-budget`).
    """

    def __init__(self, message: str, *names: str) -> None:
        super().__init__(redact(message), *names)

    def __str__(self) -> str:
        return str(self.args[0])

    def as_flags(self) -> str:
        """Returns the message with the first mention of each named option written as a flag.

        Text in quotes is a value given by the user and is not changed.
        """
        values = [match.span() for match in QUOTED.finditer(str(self))]
        flags: dict[tuple[int, int], str] = {}
        for name in self.args[1:]:
            as_a_word = rf"(?<![\w.-]){re.escape(name)}(?!\w)"
            for match in re.finditer(as_a_word, str(self)):
                start, end = match.span()
                if not any(low < end and start < high for low, high in (*values, *flags)):
                    flags[start, end] = flag(name)
                    break
        message = str(self)
        for (start, end), text in sorted(flags.items(), reverse=True):
            message = message[:start] + text + message[end:]
        return message


class Failure(Exception):
    """A failure that is not the user's mistake, such as a full disk: one line and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(redact(message), code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class UnreadableData(ValueError):
    """Shards, or the file of a table, are damaged or missing; the message names the file.

    No setting is the cause, so a search or a study that meets it stops.
    """


def flag(name: str) -> str:
    """Returns the command-line flag of an option: time_budget is --time-budget."""
    return "--" + name.replace("_", "-")


def cause_of(error: BaseException) -> BaseException:
    """Returns the exception that a worker raised, out of the RayTaskError around it.

    Any other error is returned as it is.
    """
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def unreadable_data(error: BaseException) -> UnreadableData | None:
    """Returns the error about data that a process met, out of the RayTaskErrors around it."""
    while (inner := cause_of(error)) is not error:
        error = inner
    return error if isinstance(error, UnreadableData) else None


def disk_full(error: BaseException) -> str:
    """Returns what ran out ("no space left") if a full disk caused the error, else "".

    Ray and Arrow may pass on the text of the operating system's error without its number.
    """
    for each in chain_of(error):
        if (number := getattr(each, "errno", None)) in FULL_DISK:
            return FULL_DISK[number]
        text = str(each)
        for code, why in FULL_DISK.items():
            if os.strerror(code) in text:
                return why
        if SQLITE_FULL in text:
            return FULL_DISK[errno.ENOSPC]
    return ""


def full_disk_message(error: BaseException) -> str:
    """Returns the line that a command prints of a full disk, with the file where it is known.

    It is empty for every other error.
    """
    why = disk_full(error)
    if not why:
        return ""
    chain = chain_of(error)
    files = [str(name) for each in chain if (name := getattr(each, "filename", None))]
    files += [name for each in chain for name in FILE_IN_TEXT.findall(str(each))]
    return f"{why}: {files[0] if files else 'nothing more can be written'}"


def chain_of(error: BaseException) -> list[BaseException]:
    """Returns the error, what a worker raised inside it, and the errors that led to it."""
    chain: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is not None and not any(each is other for other in chain):
            chain.append(each)
            inner = cause_of(each)
            waiting += [inner, each.__cause__, each.__context__]
    return chain
