"""Being told to stop, for commands that have something to finish first."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Signals:
    """Notes Ctrl-C and SIGTERM instead of dying of them; the second kills. Enter it after ray.init, which takes SIGTERM for itself."""

    def __init__(self) -> None:
        self.received = 0

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def note(number: int, frame: Any) -> None:
            if self.received:
                os._exit(128 + number)
            self.received = number

        for number in numbers:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


stopped_by = [
    signal.SIGINT
]  # the last signal: Ray Data raises a KeyboardInterrupt of its own instead of ours


def interrupt(number: int, frame: object) -> NoReturn:
    """A handler of signals for commands that have something to clean up."""
    stopped_by.append(signal.Signals(number))
    raise KeyboardInterrupt
