"""What every entry point shares: exit codes, one-line errors, and the one place that starts or joins Ray.

An entry point begins with the recipe below, so that `python distributed/train.py` works from any folder (and under `ray job submit`),
and ends with `cli.run(main)`:

    if __package__ in (None, ""):
        sys.path[0] = str(Path(__file__).resolve().parents[1])
    ...
    if __name__ == "__main__":
        cli.run(main)
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
from distributed.runtime.errors import Failure, OptionError, cause_of, disk_full


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Calls main(argv) and exits: 2 with one line for a user's mistake, 130 for Ctrl-C, 143 for SIGTERM, 1 for any other failure.

    LONGTAIL_TRACEBACK=1 in the environment shows where a user's mistake was noticed.
    """
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except ValueError as error:
        if os.environ.get("LONGTAIL_TRACEBACK"):
            traceback.print_exc()
        code = _say(error, 2)
    except Failure as error:
        code = _say(error, error.code)
    except KeyboardInterrupt as interrupt:
        code = _say("interrupted", signals.exit_code(interrupt))
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _unread():
            code = 128 + signal.SIGPIPE
        elif why := disk_full(error):
            code = _say(
                f"{why}: {getattr(error, 'filename', None) or 'nothing more can be written'}", 1
            )
        else:
            traceback.print_exc()
            code = 1
    sys.exit(code)


def _unread() -> bool:
    """Whether the reader of our output has gone, `| head` say; then nothing more is written to it."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    gone = any(state & (select.POLLERR | select.POLLHUP) for _, state in watch.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _say(error: object, code: int) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return code


def one_line(error: object) -> str:
    """What the user of a command reads of an error: one line, with options as flags."""
    cause = cause_of(error) if isinstance(error, BaseException) else error
    return " ".join((cause.as_flags() if isinstance(cause, OptionError) else str(cause)).split())
