"""Runs a command's main function and turns every error into one line and an exit code.

A script starts with the lines below, so that `python distributed/train.py` works from any folder
and under `ray job submit`, and ends with `command.run(main)`:

    if __package__ in (None, ""):
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    ...
    if __name__ == "__main__":
        command.run(main)
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from distributed.runtime import signals
from distributed.runtime.errors import Failure, OptionError, cause_of, full_disk_message
from distributed.runtime.redaction import redact_streams


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Calls main(argv) and exits with its code, or with the code of the error that it raised.

    A user's mistake is 2, Ctrl-C 130, SIGTERM 143, any other failure 1. With
    LONGTAIL_TRACEBACK=1 in the environment a user's mistake prints its traceback too.
    """
    redact_streams()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except ValueError as error:
        if os.environ.get("LONGTAIL_TRACEBACK"):
            traceback.print_exc()
        code = _print_error(error, 2)
    except Failure as error:
        code = _print_error(error, error.code)
    except KeyboardInterrupt as interrupt:
        code = _print_error("interrupted", signals.exit_code(interrupt))
    except Exception as error:
        code = _unexpected(error)
    sys.exit(code)


def _unexpected(error: Exception) -> int:
    """Reports an error that is neither a user's mistake nor a Failure; returns the exit code."""
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
        return 128 + signal.SIGPIPE
    if message := full_disk_message(error):
        return _print_error(message, 1)
    traceback.print_exc()
    return 1


def _reader_has_gone() -> bool:
    """Whether nobody reads standard output any more, as after `| head`.

    Standard output then goes to the null device, since Python would fail to flush it at exit.
    """
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    gone = any(state & (select.POLLERR | select.POLLHUP) for _, state in output.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _print_error(error: object, code: int) -> int:
    """Prints the error as one line on stderr and returns the exit code."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return code


def one_line(error: object) -> str:
    """Returns the message that a command prints for an error: one line, options as flags."""
    cause = cause_of(error) if isinstance(error, BaseException) else error
    message = cause.as_flags() if isinstance(cause, OptionError) else str(cause)
    return " ".join(message.split())
