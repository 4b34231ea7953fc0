"""Ends long work in order on Ctrl-C (SIGINT) and SIGTERM; every command is stopped this way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Work was stopped by a signal; `number` is the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Whether a signal has come that asks the running work to stop.

    `received` is the number of the signal, 0 as long as none has come.
    """

    def __init__(self) -> None:
        self.received = 0

    def raise_if_received(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self.received:
            raise Interrupted(self.received)


@contextmanager
def stop_requests(*, only_note: bool = False) -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM inside the block into an orderly end of the work.

    It raises Interrupted in the main thread. With only_note it raises nothing: the loop in the
    block reads `received`, or calls `raise_if_received`, where it can stop. A second signal ends
    the process at once.

    Enter it after ray.init, which replaces the handler of SIGTERM. The earlier handlers are put
    back at the end of the block, so that those of a notebook survive. Outside the main thread,
    where Python allows no handlers, the block changes nothing and no request is ever received.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.received:
            os._exit(128 + number)
        request.received = number
        if not only_note:
            raise Interrupted(number)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield request
    except KeyboardInterrupt as error:
        if request.received and not isinstance(error, Interrupted):
            # Ray Data raises a KeyboardInterrupt of its own, without the number of the signal.
            raise Interrupted(request.received) from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: a handler that was not installed from Python
                signal.signal(number, handler)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """A shell's code for work that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
    return 128 + number
