"""Weak trials are stopped by the smooth form of the metric, and not before a third of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import stopping
from distributed.searches.choosing.stoppers import EarlierTrial, make_stopper, recall
from distributed.searches.state.records import SearchJob, SearchLog, SearchRecord
from model.metrics import names
from model.metrics.scoring import OF_DECISIONS

CONTROLLER = SimpleNamespace(get_live_trials=list)  # Ray Tune's, with no trial waiting


def trial(name: str) -> EarlierTrial:
    return EarlierTrial(SearchRecord(SearchJob(name=name, kind="search")))


def epoch(number: int, **metrics: float) -> dict[str, Any]:
    """An epoch's result as Ray Tune passes it on."""
    flat = {f"metrics/{name}": value for name, value in metrics.items()}
    return {"epoch": number, "epochs": 9, "value": metrics["balanced_accuracy"], **flat}


def is_stopped(stopper: Any, **metrics: float) -> bool:
    """Whether a new trial with these metrics in every epoch is stopped."""
    new = trial(f"new {metrics}")
    stopper.on_trial_add(None, new)
    return any(
        stopper.on_trial_result(CONTROLLER, new, epoch(k, **metrics)) == "STOP" for k in range(1, 9)
    )


def log_of(folder: Path, curves: dict[str, list[dict[str, float]]]) -> SearchLog:
    log = SearchLog(folder)
    for name, curve in curves.items():
        log.start(SearchJob(name=name, kind="search"))
        for number, metrics in enumerate(curve, start=1):
            log.add_epoch(name, {"epoch": number, "epochs": len(curve), "metrics": metrics})
        log.finish(name, "complete", curve[-1])
    return log


def test_metrics_of_decisions_have_a_smooth_form_and_no_others() -> None:
    with_form = {name for name in names.METRICS if names.metric(name).smooth_form}
    assert with_form == set(OF_DECISIONS)
    assert all(names.smooth_metric(name) in names.METRICS for name in names.METRICS)
    assert names.smooth_metric("balanced_accuracy") == "balanced_nll"
    assert names.smooth_metric("accuracy") == "nll"
    assert names.smooth_metric("macro_auroc") == "macro_auroc"
    assert names.smooth_metric("recall/scratch") == "recall/scratch", "of one class, not of all"


@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
def test_a_trial_is_stopped_by_its_loss_whatever_its_accuracy(name: str) -> None:
    np.random.seed(0)  # Hyperband draws a bracket for every trial
    stopper = make_stopper(name, "balanced_accuracy", 9)
    for number in range(8):
        other = trial(f"{number:04d}")
        stopper.on_trial_add(None, other)
        for k in range(1, 10):
            result = epoch(k, balanced_accuracy=0.5, balanced_nll=1.0)
            stopper.on_trial_result(CONTROLLER, other, result)

    assert is_stopped(stopper, balanced_accuracy=0.9, balanced_nll=2.0)
    assert not is_stopped(stopper, balanced_accuracy=0.1, balanced_nll=0.5)
    assert not is_stopped(stopper, balanced_accuracy=0.1), "without the loss nothing is decided"


@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
@pytest.mark.parametrize("epochs", [3, 8, 20, 100])
def test_nothing_is_decided_before_a_third_of_the_epochs(name: str, epochs: int) -> None:
    np.random.seed(0)
    stopper = make_stopper(name, "balanced_nll", epochs)
    first = []
    for number in range(12):
        new = trial(f"{number:04d}")
        stopper.on_trial_add(None, new)
        for k in range(1, epochs + 1):
            result = {"epoch": k, "epochs": epochs, "metrics/balanced_nll": float(number)}
            if stopper.on_trial_result(CONTROLLER, new, result) == "STOP":
                first.append(k)
                break
    assert first
    assert min(first) >= epochs / 3


@pytest.mark.parametrize("name", ["asha", "median", "hyperband"])
def test_a_resumed_search_recalls_the_loss_of_earlier_trials(tmp_path: Path, name: str) -> None:
    np.random.seed(0)
    curve = [{"balanced_accuracy": 0.5, "balanced_nll": 1.0}] * 9
    log = log_of(tmp_path, {f"{k:04d}": curve for k in range(8)})
    stopper = make_stopper(name, "balanced_accuracy", 9)
    assert recall(stopper, log.configurations(), "balanced_accuracy") is stopper
    assert is_stopped(stopper, balanced_accuracy=0.5, balanced_nll=2.0)
    assert not is_stopped(stopper, balanced_accuracy=0.5, balanced_nll=0.5)


def test_which_early_score_tells_the_end(tmp_path: Path) -> None:
    """The loss is known from the start; the accuracy is the wrong way round until the end."""
    losses = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    curves = {}
    for number, loss in enumerate(losses):
        early = {"balanced_accuracy": loss / 2, "balanced_nll": loss + 1, "nll": 1.0}
        late = {"balanced_accuracy": 1 - loss / 2, "balanced_nll": loss, "nll": 1.0}
        curves[f"{number:04d}"] = [early] * 5 + [late]
    runs = stopping.whole_runs(log_of(tmp_path, curves).configurations(), "balanced_accuracy")
    assert len(runs) == 6
    table = stopping.merge([stopping.compare(runs, "balanced_accuracy")] * 2)
    by_loss = table["balanced_nll at third"]
    assert (by_loss["final_loss"], by_loss["final_metric"]) == (1.0, 1.0)
    assert (by_loss["loss_lost"], by_loss["metric_lost"]) == (0.0, 0.0)
    by_metric = table["metric_over_3 at two thirds"]
    assert (by_metric["final_loss"], by_metric["final_metric"]) == (-1.0, -1.0)
    assert by_metric["loss_lost"] == pytest.approx(0.3)
    assert by_metric["metric_lost"] == pytest.approx(0.15)
    assert table["nll at half"]["final_loss"] == 0.0
    assert not any(title.startswith("macro_auroc") for title in table), "not recorded"


def test_what_chance_loses_by_halving() -> None:
    # Of four, two go on: the best is among them in 1/2 of the cases, the second is the best of
    # them in 2/6, the third in 1/6.
    assert stopping.lost_by_chance([4.0, 3.0, 2.0, 1.0]) == pytest.approx(4 - (2 + 1 + 2 / 6))


def test_the_score_is_that_of_the_epochs_so_far() -> None:
    curve = [{"nll": float(k)} for k in range(1, 10)]
    assert stopping.early_score(curve, "nll", 1 / 3, 1) == -3.0
    assert stopping.early_score(curve, "nll", 1 / 3, 3) == -2.0
    assert stopping.early_score(curve, "nll", 2 / 3, 1) == -6.0
