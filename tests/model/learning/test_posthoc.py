"""Second-stage classifiers and prior shifts against hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import SECOND_STAGES
from model.learning import posthoc

COUNTS = torch.tensor([600.0, 60.0, 6.0])


def features(experts: int = 2, hidden: int = 5) -> tuple[Tensor, Tensor]:
    """Three overlapping clouds, 600, 60 and 6 rows; each expert sees its own noise."""
    g = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), COUNTS.long())
    centres = 1.5 * torch.eye(hidden)[:3]
    return centres[labels][:, None] + torch.randn(len(labels), experts, hidden, generator=g), labels


def biased(experts: int = 2, hidden: int = 5) -> tuple[Tensor, Tensor]:
    """The clouds' classifier under the training prior, which plain cross-entropy would learn."""
    weight = 1.5 * torch.eye(hidden)[:3].expand(experts, -1, -1)
    return weight.clone(), (COUNTS / COUNTS.sum()).log().expand(experts, -1).clone()


def recalls(weight: Tensor, bias: Tensor) -> np.ndarray:
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat(2000)
    hidden = 1.5 * torch.eye(5)[:3][labels][:, None] + torch.randn(
        6000, weight.shape[0], 5, generator=g
    )
    guess = (torch.einsum("beh,ech->bec", hidden, weight) + bias)[:, 0].argmax(-1)
    return np.array([float((guess[labels == c] == c).float().mean()) for c in range(3)])


def retrain(
    kind: str,
    hidden: Tensor,
    labels: Tensor,
    *,
    lr: float = 0.02,
    seed: int = 0,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    weight, bias = start or biased(hidden.shape[1])
    rows = posthoc.TrainingFeatures(hidden_NEH=hidden, labels_N=labels, counts_C=COUNTS)
    stage = posthoc.SecondStage(kind=kind, epochs=5, lr=lr, seed=seed, tau=0.5)
    return posthoc.retrain(weight, bias, rows, stage)


def test_a_prior_of_zero_rules_a_class_out_however_sure_the_network_is() -> None:
    moved = posthoc.move_prior(
        torch.tensor([300.0, 0.0, 1.0]), torch.full((3,), 1 / 3), torch.tensor([0.0, 0.5, 0.5])
    )
    assert torch.isfinite(moved).all()
    assert moved.softmax(-1).tolist() == pytest.approx(
        [0.0, 1 / (1 + math.e), math.e / (1 + math.e)]
    )


def test_adjust_moves_a_posterior_to_another_prior() -> None:
    train, test = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    posterior = np.array([0.6, 0.4])
    by_hand = posterior * test / train / (posterior * test / train).sum()
    moved = posthoc.move_prior(
        torch.tensor(posterior).log(), torch.tensor(train), torch.tensor(test)
    ).softmax(-1)
    assert np.allclose(moved, by_hand)
    logits = torch.randn(4, 3, 2, dtype=torch.float64)
    assert torch.allclose(
        posthoc.move_prior(logits, torch.tensor(train), torch.tensor(train)), logits
    )
    assert torch.isfinite(
        posthoc.move_prior(logits, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    ).all()


def test_tau_normalisation_by_hand() -> None:
    weight = torch.tensor([[[3.0, 4.0], [0.0, 0.25], [0.0, 0.0]]])
    new, bias = retrain(
        "tau", torch.zeros(0, 1, 2), torch.zeros(0), start=(weight, torch.ones(1, 3))
    )
    assert torch.allclose(new, torch.tensor([[[3 / 5**0.5, 4 / 5**0.5], [0.0, 0.5], [0.0, 0.0]]]))
    assert bias.tolist() == [[0, 0, 0]]
    whole = posthoc.tau_normalise(weight[:, :2], 1.0)
    assert torch.allclose(whole.norm(dim=-1), torch.ones(1, 2))
    assert torch.equal(posthoc.tau_normalise(weight, 0.0), weight)


def test_crt_and_lws_lift_the_rare_classes() -> None:
    hidden, labels = features()
    before = recalls(*biased())
    assert before[2] < 0.2
    for kind, gain in (
        ("crt", 0.1),
        ("lws", 0.04),
    ):  # lws cannot move a bias on its own, hence the smaller gain
        after = recalls(*retrain(kind, hidden, labels))
        assert after.mean() > before.mean() + gain, kind
        assert after[2] > before[2] + 0.2, kind


def test_lws_changes_only_the_length_of_a_class() -> None:
    hidden, labels = features()
    weight, bias = biased()
    new, new_bias = retrain("lws", hidden, labels)
    factor = new_bias / bias
    assert torch.allclose(new, factor[..., None] * weight, atol=1e-6)
    assert (factor - 1).abs().max() > 0.05


def test_an_expert_is_scaled_as_it_would_be_alone() -> None:
    hidden, labels = features(experts=3)
    together = retrain("lws", hidden, labels)
    for e in range(3):
        alone = retrain("lws", hidden[:, [e]], labels)
        assert torch.allclose(together[0][[e]], alone[0], atol=1e-5)
        assert torch.allclose(together[1][[e]], alone[1], atol=1e-5)


@pytest.mark.parametrize("kind", SECOND_STAGES)
def test_the_same_seed_gives_the_same_classifier_and_touches_nothing_else(kind: str) -> None:
    hidden, labels = features()
    weight, bias = biased()
    kept = weight.clone(), bias.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = retrain(kind, hidden, labels, start=(weight, bias))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with torch.no_grad():  # the caller may be in evaluation mode
        second = retrain(kind, hidden, labels, start=(weight, bias))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(weight, kept[0])
    assert torch.equal(bias, kept[1])
    assert not first[0].requires_grad
    if kind == "crt":
        assert not torch.equal(first[0], retrain(kind, hidden, labels, seed=5)[0])


def test_rows_without_a_label_are_left_out() -> None:
    hidden, labels = features()
    labelled = retrain("crt", hidden, labels)
    extra = (
        torch.cat([hidden, torch.full((9, 2, 5), torch.nan)]),
        torch.cat([labels, torch.full((9,), -1)]),
    )
    assert torch.equal(labelled[0], retrain("crt", *extra)[0])


def test_features_of_inference_mode_in_bfloat16_are_welcome() -> None:
    hidden, labels = features()
    with torch.inference_mode():
        low = hidden.bfloat16()
    weight, bias = retrain("crt", low, labels)
    assert weight.dtype == torch.float32
    assert torch.isfinite(weight).all()
    assert recalls(weight, bias).mean() > recalls(*biased()).mean() + 0.1


def test_a_class_without_rows_and_a_single_row_stay_finite() -> None:
    hidden, _ = features()
    for labels in (torch.zeros(1, dtype=torch.int64), torch.tensor([0, 2])):
        for kind in ("crt", "lws"):
            weight, bias = retrain(kind, hidden[: len(labels)], labels)
            assert torch.isfinite(weight).all()
            assert torch.isfinite(bias).all()


def test_mistakes_are_named() -> None:
    hidden, labels = features()
    with pytest.raises(ValueError, match=r"stage\.kind must be one of crt, lws, tau .*got 'none'"):
        retrain("none", hidden, labels)
    with pytest.raises(ValueError, match="needs rows with a label"):
        retrain("crt", hidden, torch.full_like(labels, -1))
