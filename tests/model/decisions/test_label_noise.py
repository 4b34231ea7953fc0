"""The estimated share of wrong labels, and which labels are wrong, on rows with known ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from model.decisions.label_noise import LabelNoise, fit_label_noise

SHARES = torch.tensor([0.6, 0.25, 0.1, 0.05])
ROWS = 4000


def drawn_rows(rate: float, distance: float = 2.5) -> tuple[Tensor, Tensor, Tensor]:
    """Log posteriors for classes that are all alike, labels, and which of them are wrong.

    A row of class c has a normal value of each class, whose mean is `distance` for c and else 0.
    """
    rng = np.random.default_rng(0)
    classes_N = rng.choice(4, size=ROWS, p=SHARES.numpy() / float(SHARES.sum()))
    values_NC = rng.normal(size=(ROWS, 4)) + distance * np.eye(4)[classes_N]
    others_N = (classes_N + rng.integers(1, 4, size=ROWS)) % 4
    labels_N = np.where(rng.random(ROWS) < rate, others_N, classes_N)
    log_posterior_NC = torch.from_numpy(distance * values_NC).log_softmax(-1)
    return log_posterior_NC, torch.from_numpy(labels_N), torch.from_numpy(labels_N != classes_N)


def fitted(log_posterior_NC: Tensor, labels_N: Tensor) -> tuple[LabelNoise, Tensor]:
    counts_C = torch.bincount(labels_N, minlength=4)
    noise = fit_label_noise(log_posterior_NC, labels_N, counts_C)
    return noise, noise.right_probability(log_posterior_NC, labels_N)


@pytest.mark.parametrize("rate", [0.04, 0.08, 0.2])
def test_the_rate_and_the_shares_are_those_that_the_labels_were_drawn_by(rate: float) -> None:
    log_posterior_NC, labels_N, wrong_N = drawn_rows(rate)
    noise, right_N = fitted(log_posterior_NC, labels_N)
    assert noise.rate == pytest.approx(rate, abs=0.015)
    assert noise.sharpness == 1.0
    assert torch.allclose(noise.shares_C.float(), SHARES, atol=0.015)
    # The probabilities mean what they say: as many labels are right as they add up to.
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.1)):
        inside_N = (right_N >= low) & (right_N < high)
        share = float((~wrong_N)[inside_N].double().mean())
        assert share == pytest.approx(float(right_N[inside_N].mean()), abs=0.1)


def test_a_wrong_label_of_a_rare_class_is_found_without_losing_the_class() -> None:
    log_posterior_NC, labels_N, wrong_N = drawn_rows(0.08)
    _, right_N = fitted(log_posterior_NC, labels_N)
    rare_N = labels_N == 3
    assert 0.2 < float(wrong_N[rare_N].double().mean()) < 0.5
    assert float(right_N[rare_N & wrong_N].mean()) < 0.15
    assert float(right_N[rare_N & ~wrong_N].mean()) > 0.85


@pytest.mark.parametrize("distance", [1.0, 2.5, 4.0])
def test_no_label_is_doubted_where_none_is_wrong(distance: float) -> None:
    """Also not where the classes overlap so much that many rows look like another class."""
    log_posterior_NC, labels_N, _ = drawn_rows(0.0, distance)
    noise, right_N = fitted(log_posterior_NC, labels_N)
    assert noise.rate < 0.01
    assert float(right_N.mean()) > 0.99


def test_a_share_of_wrong_labels_is_believed_from_one_percent_on() -> None:
    log_posterior_NC, labels_N, _ = drawn_rows(0.004, 4.0)
    noise, right_N = fitted(log_posterior_NC, labels_N)
    assert noise.rate == 0
    assert right_N.eq(1).all()
    noise, _ = fitted(*drawn_rows(0.015, 4.0)[:2])
    assert noise.rate == pytest.approx(0.015, abs=0.004)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_heads_that_are_too_cautious_or_too_sure_are_corrected(factor: float) -> None:
    log_posterior_NC, labels_N, _ = drawn_rows(0.08)
    noise, _ = fitted(factor * log_posterior_NC, labels_N)
    assert noise.sharpness == 1 / factor
    assert noise.rate == pytest.approx(0.08, abs=0.015)


def test_heads_that_deny_most_labels_are_not_believed() -> None:
    log_posterior_NC, labels_N, _ = drawn_rows(0.6, 4.0)
    noise, right_N = fitted(log_posterior_NC, labels_N)
    assert noise.rate == 0
    assert right_N.eq(1).all()


def test_a_single_class_and_sure_heads_give_finite_numbers() -> None:
    labels_N = torch.zeros(5, dtype=torch.long)
    alone = fit_label_noise(torch.zeros(5, 1), labels_N, torch.tensor([5]))
    assert alone.right_probability(torch.zeros(5, 1), labels_N).eq(1).all()
    sure_NC = torch.tensor([[0.0, -200.0, -200.0, -200.0]]).repeat(5, 1)
    noise = fit_label_noise(sure_NC, torch.tensor([0, 0, 0, 0, 3]), torch.tensor([4, 0, 0, 1]))
    right_N = noise.right_probability(sure_NC, torch.tensor([0, 0, 0, 0, 3]))
    assert right_N[:4].gt(0.99).all() and right_N[4] < 0.01
