"""Facts about progress: a bar on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import os
import pty
import select
import sys
import time

import pytest

from distributed.runtime import progress


def test_lines_come_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.show_progress("counting rows", 4000) as advance:
        advance(500)
        assert capsys.readouterr().err == ""
        now[0] = 110.0
        advance(500)
        advance(500)
    assert capsys.readouterr().err == "counting rows: 1,000 of 4,000 (100 a second)\n"


def test_a_line_names_no_total_where_none_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.show_progress("counting rows") as advance:
        now[0] += progress.SECONDS_BETWEEN_LINES
        advance(1500)
        now[0] += progress.SECONDS_BETWEEN_LINES - 0.5
        advance(1500)
        now[0] += 0.5
        advance(1500)
    assert capsys.readouterr().err.splitlines() == [
        "counting rows: 1,500 (300 a second)",
        "counting rows: 4,500 (450 a second)",
    ]


def test_on_a_terminal_it_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress.show_progress("counting rows", 4) as advance:
            advance(1)
            advance(2)
        stderr.flush()
        shown = b""
        while select.select([controller], [], [], 0.2)[0]:
            shown += os.read(controller, 100_000)
    os.close(controller)
    assert b"counting rows" in shown
    assert b"3/4" in shown
    assert shown.rstrip().endswith(b"\x1b[2K"), "the line is erased at the end"
