"""The experts' classification losses against numbers that are computed by hand or in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import LOSSES, LossConfig, ModelConfig
from model.learning import expert_losses, losses
from tests.model.cases import (
    COUNTS,
    LABELS,
    LOGITS,
    PRIOR,
    classification,
    make_batch,
    make_outputs,
    numpy_ce,
    random_case,
)


def test_prior_strength_by_hand() -> None:
    config = LossConfig(average_prior_strength=1.5, spread_of_prior_strength=0.0)
    assert classification(config) == pytest.approx(
        numpy_ce(LOGITS + 1.5 * np.log(PRIOR)).mean(), rel=1e-6
    )
    # two equal logits, counts 100 and 1, balanced softmax: p = 100/101 for the frequent class
    two = make_batch([0])
    out = make_outputs(torch.zeros(1, 1, 2), two.present_BM)
    value = losses.loss_terms(
        out,
        two,
        torch.tensor([100.0, 1.0]),
        ModelConfig(loss=LossConfig(spread_of_prior_strength=0.0)),
        0.0,
    )["classification"]
    assert float(value) == pytest.approx(math.log(101 / 100), rel=1e-5)


def test_experts_prior_strengths_run_from_centre_minus_to_centre_plus_spread() -> None:
    assert expert_losses.prior_strengths(
        LossConfig(average_prior_strength=1.0, spread_of_prior_strength=0.5), 3
    ).tolist() == [
        0.5,
        1.0,
        1.5,
    ]
    assert expert_losses.prior_strengths(
        LossConfig(average_prior_strength=1.0, spread_of_prior_strength=0.5), 2
    ).tolist() == [0.5, 1.5]
    assert expert_losses.prior_strengths(
        LossConfig(average_prior_strength=0.7, spread_of_prior_strength=0.5), 1
    ).tolist() == pytest.approx([0.7])
    batch = make_batch(LABELS)
    logits = torch.tensor(LOGITS)[:, None].expand(-1, 3, -1)
    value = losses.loss_terms(
        make_outputs(logits, batch.present_BM), batch, COUNTS, ModelConfig(), 0.0
    )["classification"]
    by_hand = np.mean(
        [numpy_ce(LOGITS + strength * np.log(PRIOR)).mean() for strength in (0.5, 1.0, 1.5)]
    )
    assert float(value) == pytest.approx(by_hand, rel=1e-6)


def test_balanced_softmax_is_cross_entropy_under_a_uniform_prior() -> None:
    batch = make_batch(LABELS)
    out = make_outputs(torch.tensor(LOGITS)[:, None], batch.present_BM)
    value = losses.loss_terms(out, batch, torch.full((3,), 7.0), ModelConfig(), 0.0)[
        "classification"
    ]
    assert float(value) == pytest.approx(numpy_ce(LOGITS).mean(), rel=1e-6)


def test_ldam_margin_by_hand() -> None:
    # Delta = 0.5 * (1 / n)^(1/4): 0.1581, 0.2812, 0.5; times the scale 10, off the true logit only
    config = LossConfig(
        average_prior_strength=0.0, spread_of_prior_strength=0.0, margin=0.5, scale=10.0
    )
    lowered = LOGITS.copy()
    for row, label in enumerate(LABELS):
        lowered[row, label] -= 10 * [0.158113883, 0.281170663, 0.5][label]
    assert classification(config) == pytest.approx(numpy_ce(lowered).mean(), rel=1e-6)


def test_deferred_reweighting_starts_late_with_effective_numbers() -> None:
    config = LossConfig(
        average_prior_strength=0.0, spread_of_prior_strength=0.0, drw=0.25, effective_beta=0.9
    )
    raw = np.array([0.1 / (1 - 0.9**n) for n in (100, 10, 1)])
    weights = raw / (raw * PRIOR).sum()
    assert classification(config, progress=0.74) == pytest.approx(numpy_ce(LOGITS).mean(), rel=1e-6)
    assert classification(config, progress=0.75) == pytest.approx(
        (weights[LABELS] * numpy_ce(LOGITS)).mean(), rel=1e-6
    )


def test_class_balanced_weights_average_one_over_the_training_rows() -> None:
    raw = np.array([0.001 / (1 - 0.999**n) for n in (100, 10, 1)])
    weights = raw / (raw * PRIOR).sum()
    assert classification(LossConfig(name="class_balanced")) == pytest.approx(
        (weights[LABELS] * numpy_ce(LOGITS)).mean(), rel=1e-5
    )
    assert (weights * PRIOR).sum() == pytest.approx(1)
    assert expert_losses.effective_weights(COUNTS, 0.0).tolist() == [1, 1, 1]


def test_sade_is_plain_balanced_and_inverse_softmax() -> None:
    reverse = np.array([1, 10, 100]) / 111
    by_hand = np.stack([np.zeros(3), np.log(PRIOR), np.log(PRIOR) - 2 * np.log(reverse)])
    assert np.allclose(expert_losses.sade_logit_shifts(COUNTS, 3), by_hand, atol=1e-5)
    assert np.allclose(expert_losses.sade_logit_shifts(COUNTS, 1), by_hand[1:2], atol=1e-5)
    five = expert_losses.sade_logit_shifts(COUNTS, 5)
    assert np.allclose(five[[0, 2, 4]], by_hand, atol=1e-5)
    assert np.allclose(five[[1, 3]], (by_hand[:2] + by_hand[1:]) / 2, atol=1e-5)
    batch = make_batch(LABELS)
    out = make_outputs(torch.tensor(LOGITS)[:, None].expand(-1, 3, -1), batch.present_BM)
    value = losses.loss_terms(out, batch, COUNTS, ModelConfig(loss=LossConfig(name="sade")), 0.0)[
        "classification"
    ]
    assert float(value) == pytest.approx(
        np.mean([numpy_ce(LOGITS + shift).mean() for shift in by_hand]), rel=1e-5
    )


def test_reversed_prior_goes_by_rank_whatever_the_order_of_the_classes() -> None:
    mixed = torch.tensor([10.0, 1.0, 100.0, 40.0]).log()
    assert expert_losses.reversed_prior(mixed).exp().tolist() == pytest.approx(
        [40.0, 100.0, 1.0, 10.0]
    )


def test_focal_by_hand() -> None:
    ce = numpy_ce(LOGITS)
    assert classification(LossConfig(name="focal", focal_gamma=2.0)) == pytest.approx(
        ((1 - np.exp(-ce)) ** 2 * ce).mean(), rel=1e-6
    )
    assert classification(LossConfig(name="focal", focal_gamma=0.0)) == pytest.approx(
        ce.mean(), rel=1e-6
    )


def test_vs_scales_and_shifts_the_logits() -> None:
    scale = np.array([1.0, 0.1**0.15, 0.01**0.15])
    config = LossConfig(name="vs", average_prior_strength=1.25, spread_of_prior_strength=0.0)
    assert classification(config) == pytest.approx(
        numpy_ce(LOGITS * scale + 1.25 * np.log(PRIOR)).mean(), rel=1e-6
    )


def test_label_aware_smoothing_by_hand() -> None:
    # concave: 0.3 * sin(pi/2 * (n - 1) / 99) for n = 100, 10, 1
    smooth = np.array([0.3, 0.3 * math.sin(math.pi / 2 * 9 / 99), 0.0])[LABELS]
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    by_hand = -(1 - smooth) * log_p[np.arange(4), LABELS] - smooth * log_p.mean(1)
    assert classification(LossConfig(name="smoothing", smoothing_head=0.3)) == pytest.approx(
        by_hand.mean(), rel=1e-6
    )


def test_influence_balanced_by_hand_and_its_weight_has_no_gradient() -> None:
    hidden = np.array([[0.5, -1.5, 0.0, 2.0], [1, 1, 1, 1], [0, 0, -4, 0], [3, 1, 0, -2.0]])
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    error = np.abs(p - np.eye(3)[LABELS]).sum(1)
    weight = 111 / (3 * np.array([100, 10, 1]))[LABELS] / (error * np.abs(hidden).mean(1) + 1e-3)
    batch = make_batch(LABELS)
    logits_BEC = torch.tensor(LOGITS)[:, None].requires_grad_()
    hidden_BEH = torch.tensor(hidden)[:, None].requires_grad_()
    out = make_outputs(logits_BEC, batch.present_BM, hidden_BEH)
    value = losses.loss_terms(
        out, batch, COUNTS, ModelConfig(loss=LossConfig(name="influence")), 0.0
    )["classification"]
    assert value.item() == pytest.approx((weight * numpy_ce(LOGITS)).mean(), rel=1e-6)
    value.backward()
    assert hidden_BEH.grad is None
    assert np.allclose(
        logits_BEC.grad[:, 0], weight[:, None] * (p - np.eye(3)[LABELS]) / 4, rtol=1e-6
    )
    plain = LossConfig(name="influence", drw=0.5)
    assert classification(plain, progress=0.4) == pytest.approx(numpy_ce(LOGITS).mean(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_experts_in_a_batch_equal_each_alone(name: str) -> None:
    outputs, batch = random_case(0)
    config = LossConfig(
        name=name, spread_of_prior_strength=0.5, margin=0.2, drw=0.5, focal_gamma=1.5
    )

    def loss(experts: slice, config: LossConfig, shift_C: Tensor | float = 0.0) -> Tensor:
        logits_BEC = outputs.logits_BEC[:, experts] + shift_C
        return expert_losses.expert_loss(
            logits_BEC, outputs.hidden_BEH[:, experts], batch.labels_B, COUNTS, config, 0.9
        )

    together = loss(slice(3), config)
    assert together.shape == (12, 3)
    for e, strength in enumerate((0.5, 1.0, 1.5)):
        # An expert's position gives its prior strength, which is the average of a single expert
        # (sade: the position gives the shift).
        alone, shift_C = replace(config, average_prior_strength=strength), torch.zeros(3)
        if name == "sade":
            alone, shift_C = (
                replace(config, name="prior", average_prior_strength=0.0),
                expert_losses.sade_logit_shifts(COUNTS, 3)[e],
            )
        assert torch.allclose(
            together[:, [e]], loss(slice(e, e + 1), alone, shift_C), rtol=1e-4, atol=1e-5
        )


def test_expert_priors_undo_the_shift() -> None:
    priors = expert_losses.expert_priors(
        COUNTS, LossConfig(average_prior_strength=1.0, spread_of_prior_strength=1.0), 3
    )
    reverse = 1 / np.array([100, 10, 1])
    assert np.allclose(
        priors, np.stack([PRIOR, np.full(3, 1 / 3), reverse / reverse.sum()]), atol=1e-6
    )
    assert np.allclose(
        expert_losses.expert_priors(COUNTS, LossConfig(name="focal"), 1), PRIOR[None], atol=1e-6
    )


def test_late_fusion_has_one_row_of_logits_for_all_experts() -> None:
    batch = make_batch(LABELS)
    out = make_outputs(
        torch.tensor(LOGITS)[:, None], batch.present_BM, hidden_BEH=torch.ones(4, 3, 4)
    )
    value = losses.loss_terms(
        out, batch, COUNTS, ModelConfig(loss=LossConfig(name="influence")), 0.0
    )["classification"]
    assert torch.isfinite(value)
    assert value.shape == ()
