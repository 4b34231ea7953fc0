"""What a person reads while a run trains and at its end."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest
import rich.console

from distributed.config import OptimConfig
from distributed.training.progress import console
from distributed.training.progress.console import EpochBar, epochs_summary, results_notes
from distributed.training.results import RunMetrics


def bar_lines(
    monkeypatch: pytest.MonkeyPatch, metrics: dict[str, float], title: str, width: int = 80
) -> list[str]:
    """The lines of the bar on a terminal: at its start, and after an epoch of six minutes.

    The epoch before it took an hour, in which more was done than an epoch.
    """
    screens, now = [], 0.0
    monkeypatch.setattr(console, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    before = {**metrics, "epoch": metrics["epoch"] - 1}
    for epochs in ([], [(before, 3600), (metrics, 360)]):
        screen = io.StringIO()
        terminal = rich.console.Console(
            width=width, force_terminal=True, color_system=None, file=screen
        )
        with monkeypatch.context() as patch:
            patch.setattr(rich.console, "Console", lambda stderr, terminal=terminal: terminal)
            with EpochBar(200, title=title) as bar:
                for epoch_metrics, seconds in epochs:
                    now += seconds
                    bar(epoch_metrics)
        lines = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", screen.getvalue()).splitlines()
        screens.append([line for line in lines if "epoch" in line][-1].rpartition("\r")[2])
    return screens


def test_the_first_epoch_says_nothing_of_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = {"epoch": 1, "loss": 0.5, "val/balanced_accuracy": 0.5, "rows_per_second": 10}
    bar = EpochBar(3)
    for epoch in (1, 2, 3):
        bar({**metrics, "epoch": epoch})
    lines = capsys.readouterr().err.splitlines()
    assert [line.endswith(" left") for line in lines] == [False, True, True]
    assert lines[2].endswith(" 0:00:00 left")


@pytest.mark.parametrize("epoch", [7, 100])
@pytest.mark.parametrize("loss", [0.1234, 1.2345])
@pytest.mark.parametrize("rows", [1234, 123456])
def test_a_terminal_of_80_columns_shows_all_of_an_epoch(
    epoch: int, loss: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {
        "epoch": epoch,
        "loss": loss,
        "val/balanced_accuracy": 0.756,
        "rows_per_second": rows,
    }
    started, line = bar_lines(monkeypatch, metrics, "training on 2 workers")
    assert "epoch 0/200 training on 2 workers" in started
    for part in (
        f"epoch {epoch}/200",
        f"loss {loss:.3f}",
        "balanced accuracy 75.6 %",
        f"{rows:,} rows/s",
    ):
        assert part in line
    left = 360 * (200 - epoch)
    assert line.rstrip().endswith(f" {left // 3600}:{left // 60 % 60:02d}:00 left")


def test_a_wide_terminal_has_a_bar_of_some_width(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"epoch": 100, "loss": 0.5, "val/balanced_accuracy": 0.5, "rows_per_second": 1000}
    _, line = bar_lines(monkeypatch, metrics, "training", width=200)
    assert line.count("━") == 20, "half of 40"


def run_metrics(
    val: dict[str, float] | None = None,
    test: dict[str, float] | None = None,
    *,
    epochs: int = 1,
    best_epoch: int = 1,
    calibration: str = "",
) -> RunMetrics:
    return RunMetrics(
        val=val or {},
        test=test,
        train_seconds=1.0,
        rows_per_second=1.0,
        data_share=0.0,
        epochs=epochs,
        best_epoch=best_epoch,
        calibration=calibration,
    )


FITTED = ", with what was fitted on validation after it"


def test_the_end_says_what_its_table_cannot() -> None:
    val, test = {"recall/a": 1.0}, {"recall/a": 1.0, "recall/b": 0.5, "recall/c": 0.0}
    few = "temperature is 1: 3 usable validation rows, 10 are needed"
    reason = f"expert 0: {few}; mixture: {few}"
    notes = results_notes(run_metrics(val, test, calibration=reason), ("a", "b", "c"), (300, 20, 0))
    assert notes == [
        "training has no rows of c: they can hardly be predicted",
        "val has no rows of b, c: its scores are of 1 of 3 classes",
        "worst class: a on val, c on test",
        f"calibration: {few}",
    ]
    (worst, thirds, untested) = results_notes(
        run_metrics({"recall/a": 1.0, "recall/b": 0.5}), ("a", "b"), (300, 200)
    )
    assert worst == "worst class: b on val"
    assert "thirds of the classes" in thirds
    assert "no test rows" in untested


def test_the_end_says_which_epoch_has_the_scores_and_why_there_are_no_more() -> None:
    optim = OptimConfig(epochs=40, patience=2)
    assert (
        epochs_summary(run_metrics(epochs=40, best_epoch=33), optim)
        == "40 of 40; the scores are of epoch 33" + FITTED
    )
    assert (
        epochs_summary(run_metrics(epochs=3, best_epoch=1), optim)
        == "3 of 40: no better validation score for 2; the scores are of epoch 1" + FITTED
    )
