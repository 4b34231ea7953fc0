"""The temperature by Newton's method, against bisection in float64 over all rows at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model.decisions import labelled_logits
from model.decisions.calibration import (
    LOG_TEMPERATURE_STD,
    TEMPERATURE_RANGE,
    Calibration,
    decide,
    fit_temperature,
    row_weights,
)
from model.decisions.labelled_logits import LabelledLogits, find_root


def bisected(logits_NC: Tensor, labels_N: Tensor) -> float:
    """The temperature of the least weighted NLL, by bisection."""
    usable_N = (labels_N >= 0) & torch.isfinite(logits_NC).all(1)
    logits_NC, labels_N = logits_NC[usable_N].double(), labels_N[usable_N]
    classes = logits_NC.shape[1]
    weights_N = row_weights(labels_N, torch.full((classes,), 1 / classes))
    rows = 1 / float(weights_N.square().sum())
    true_N = logits_NC.gather(1, labels_N[:, None])[:, 0]
    low, high = map(math.log, TEMPERATURE_RANGE)
    for _ in range(50):
        log_t = (low + high) / 2
        expected_N = ((logits_NC / math.exp(log_t)).softmax(1) * logits_NC).sum(1)
        slope = float((weights_N * (true_N - expected_N)).sum()) / math.exp(log_t)
        slope += log_t / LOG_TEMPERATURE_STD**2 / rows
        low, high = (low, log_t) if slope > 0 else (log_t, high)
    return math.exp((low + high) / 2)


def random_rows(rows: int, classes: int, signal: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(classes, (rows,), generator=generator)
    logits_NC = 3 * torch.randn(rows, classes, generator=generator)
    logits_NC[torch.arange(rows), labels_N] += signal
    labels_N[::7] = -1
    logits_NC[3, 0] = torch.nan
    return logits_NC, labels_N


@pytest.mark.parametrize("signal", [0.5, 2.0, 6.0])
@pytest.mark.parametrize(("rows", "classes"), [(40, 3), (500, 9), (300, 700)])
def test_the_temperature_is_the_bisected_one(rows: int, classes: int, signal: float) -> None:
    logits_NC, labels_N = random_rows(rows, classes, signal, seed=rows)
    temperature, reason = fit_temperature(logits_NC, labels_N)
    assert reason == ""
    assert temperature == pytest.approx(bisected(logits_NC, labels_N), rel=1e-9)


def test_few_rows_at_a_time_give_the_same_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_NC, labels_N = random_rows(100, 5, 2.0, seed=1)
    rows = LabelledLogits(lambda chosen: logits_NC[chosen], labels_N)
    weights_N = rows.usable_rows(5).double()
    whole = rows.nll_slopes(weights_N, 5, 0.3, torch.float64)
    monkeypatch.setattr(labelled_logits, "CELLS_AT_A_TIME", 35)
    assert len(list(rows.slices(5))) == 15
    assert rows.nll_slopes(weights_N, 5, 0.3, torch.float64) == pytest.approx(whole, rel=1e-12)
    step = 1e-5
    before, after = (
        rows.nll_slopes(weights_N, 5, 0.3 + change, torch.float64)[0] for change in (-step, step)
    )
    assert whole[1] == pytest.approx((after - before) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("root", [-5.0, -1.2, 0.0, 2.9, 7.0])
def test_the_root_stays_within_the_limits(root: float) -> None:
    def slopes(x: float, dtype: torch.dtype) -> tuple[float, float]:
        return math.atan(5 * (x - root)), 5 / (1 + 25 * (x - root) ** 2)

    assert find_root(slopes, (-3.0, 3.0), True) == pytest.approx(min(max(root, -3), 3), abs=1e-9)


def test_the_mixture_of_few_rows_at_a_time_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_NEC = torch.randn(50, 3, 4)
    fitted = Calibration(torch.tensor([0.5, 1.0, 2.0]), torch.tensor(0.8), torch.zeros(4))
    monkeypatch.setattr("model.by_rows.CELLS_AT_A_TIME", 25)
    assert torch.equal(fitted.mix(logits_NEC), fitted.scale(logits_NEC).mean(1))
    assert fitted.mix(logits_NEC[:0]).shape == (0, 4)
    probabilities_NC = logits_NEC[:, 0].softmax(1)
    offsets_C = torch.tensor([0.0, 1.0, 0.5, 0.0])
    few = decide(probabilities_NC, offsets_C=offsets_C)
    monkeypatch.undo()
    assert torch.equal(few, decide(probabilities_NC, offsets_C=offsets_C))
    assert decide(probabilities_NC[:0]).shape == (0,)
