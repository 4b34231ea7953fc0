"""Facts about stopping: the first signal ends the work in order, the second at once, and earlier
handlers come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from distributed.runtime import signals
from tests.conftest import ROOT

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def send_to_this_process(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # Python runs handlers between two instructions of the main thread


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_raises_and_names_itself(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, signals.stop_requests():
        send_to_this_process(number)
    assert isinstance(caught.value, signals.Interrupted)
    assert caught.value.number == number
    assert str(caught.value) == number.name
    assert signals.exit_code(caught.value) == 128 + number


@pytest.mark.parametrize("number", NUMBERS)
def test_a_noted_signal_waits_until_the_loop_looks(number: signal.Signals) -> None:
    with signals.stop_requests(only_note=True) as request:
        request.raise_if_received()
        send_to_this_process(number)
        with pytest.raises(signals.Interrupted):
            request.raise_if_received()
    assert request.received == number


def test_a_library_that_raises_its_own_interrupt_does_not_hide_which_signal_it_was() -> None:
    def library() -> None:
        try:
            send_to_this_process(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with pytest.raises(signals.Interrupted) as caught, signals.stop_requests():
        library()
    assert signals.exit_code(caught.value) == 143
    assert signals.exit_code(KeyboardInterrupt()) == 130


def test_an_interrupt_without_a_signal_stays_as_it_is() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, signals.stop_requests():
        raise KeyboardInterrupt
    assert not isinstance(caught.value, signals.Interrupted)


def test_earlier_handlers_come_back() -> None:
    def own(number: int, frame: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with signals.stop_requests():
            assert signal.getsignal(signal.SIGTERM) is not own
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_signals_stay_with_their_owner() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    inside: list[object] = []

    def work() -> None:
        with signals.stop_requests() as request:
            inside.extend([signal.getsignal(number) for number in NUMBERS])
            inside.append(request.received)
        inside.append("the block ended")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [*before, 0, "the block ended"]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    code = (
        f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from distributed.runtime import signals\n"
        "with signals.stop_requests(only_note=True):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == 128 + number
