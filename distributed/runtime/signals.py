"""Ends long work in order on Ctrl-C (SIGINT) and SIGTERM: the one way in which every verb can be stopped."""

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
    """Whether the user has asked the running work to stop; `received` is the signal's number, 0 before that."""

    def __init__(self) -> None:
        self.received = 0

    def raise_if_received(self) -> None:
        """Raises Interrupted once a signal has come."""
        if self.received:
            raise Interrupted(self.received)


@contextmanager
def stop_requests(*, only_note: bool = False) -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into Interrupted, raised wherever the main thread is; the second ends the process at once.

    only_note: raise nothing. The loop inside looks at `received`, or calls `raise_if_received`, and so ends where it wants to.

    Enter it after ray.init, which replaces the handler of SIGTERM. The handlers from before are put back at the end, so that those of a
    notebook survive. Outside the main thread (a notebook server, say) Python allows no handlers: then signals stay with their owner and
    the request is never received.
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
            # Ray Data raises a KeyboardInterrupt of its own, which does not say which signal it was.
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
