"""Facts about progress: outside a terminal it is a plain line every few seconds."""

from __future__ import annotations

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
