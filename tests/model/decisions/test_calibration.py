"""Fitted temperatures are right, offsets help or are 0, and small validation sets are safe."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from model.decisions.calibration import (
    TEMPERATURE_RANGE,
    Calibration,
    decide,
    fit_biases,
    fit_calibration,
    fit_temperature,
    mixture_prior,
    row_weights,
)
from model.decisions.offsets import MAX_OFFSET, fit_offsets
from model.metrics.metrics import compute_metrics


def posteriors(counts: list[int], seed: int = 0, distance: float = 2.0) -> tuple[Tensor, Tensor]:
    """Exact log posteriors of Gaussian classes under a uniform prior, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    classes = len(counts)
    labels_N = torch.arange(classes).repeat_interleave(torch.tensor(counts))
    x_NC = torch.randn(
        len(labels_N), classes, generator=generator
    ) + distance * torch.nn.functional.one_hot(labels_N, classes)
    return distance * x_NC, labels_N


def test_temperature_is_recovered() -> None:
    logits, labels = posteriors([3000, 3000, 3000])
    for factor in (0.4, 1.0, 3.0):
        temperature, reason = fit_temperature(logits * factor, labels)
        assert temperature == pytest.approx(factor, rel=0.05)
        assert reason == ""


def test_class_balanced_fit_is_right_where_the_plain_one_is_not() -> None:
    """A long-tailed validation set of classes at 0, 1 and 3 on a line.

    The logits are exact for a uniform prior, so the right temperature is 1.
    """
    generator = torch.Generator().manual_seed(0)
    centres_C, counts = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([400, 20000, 400])
    labels = torch.arange(3).repeat_interleave(counts)
    x_N = centres_C[labels] + torch.randn(len(labels), generator=generator)
    logits = -((x_N[:, None] - centres_C) ** 2) / 2
    balanced, _ = fit_temperature(logits, labels)
    plain, _ = fit_temperature(logits, labels, counts / counts.sum())
    assert balanced == pytest.approx(1.0, abs=0.1)
    assert abs(plain - 1) > 3 * abs(balanced - 1)


def test_an_expert_is_fitted_under_the_prior_it_speaks_for() -> None:
    counts = [8000, 800, 400]
    logits, labels = posteriors(counts, distance=1.5)
    prior = torch.tensor(counts) / sum(counts)
    head = logits + prior.log()  # an expert of strength 0
    raw = torch.stack([head * 2.0, logits * 0.5], 1)
    fitted = fit_calibration(raw, labels, torch.stack([prior, torch.full((3,), 1 / 3)]))
    assert fitted.temperatures_E.tolist() == pytest.approx([2.0, 0.5], rel=0.1)
    assert float(fitted.temperature) == pytest.approx(1.0, abs=0.15)
    assert fitted.reason == ""


def test_the_scaled_mean_is_the_calibrated_mixture() -> None:
    logits, labels = posteriors([300, 200, 100])
    raw = torch.stack([logits * 2, logits * 4], 1)
    fitted = fit_calibration(raw, labels)
    mixture = (raw / fitted.temperatures_E[:, None]).mean(1) / fitted.temperature
    assert torch.allclose(fitted.scale(raw).mean(1), mixture, atol=1e-5)


def test_mixture_prior() -> None:
    pi = torch.tensor([0.7, 0.2, 0.1])
    experts = torch.stack([(pi.log() * (1 - strength)).softmax(0) for strength in (0.5, 1.0, 1.5)])
    assert torch.allclose(mixture_prior(experts), torch.full((3,), 1 / 3), atol=1e-6)
    assert torch.allclose(
        mixture_prior(experts, torch.tensor([0.0, 1.0, 0.0])), torch.full((3,), 1 / 3), atol=1e-6
    )
    assert torch.allclose(
        mixture_prior(experts, torch.tensor([1.0, 0.0, 0.0])), experts[0], atol=1e-6
    )


def test_row_weights_give_each_class_its_share() -> None:
    weights = row_weights(torch.tensor([0, 0, 0, 2]), torch.tensor([0.25, 0.5, 0.25]))
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("empty", "0 usable"),
        ("few", "9 usable"),
        ("one class", "all of one class"),
        ("unknown", "0 usable"),
        ("nan", "0 usable"),
    ],
)
def test_what_cannot_be_fitted_stays_1_with_the_reason(case: str, reason: str) -> None:
    logits, labels = posteriors([20, 20, 20])
    if case == "empty":
        logits, labels = logits[:0], labels[:0]
    if case == "few":
        logits, labels = logits[::7], labels[::7]
    if case == "one class":
        logits, labels = logits[:20], labels[:20]
    if case == "unknown":
        labels = torch.full_like(labels, -1)
    if case == "nan":
        logits = logits * torch.nan
    fitted = (
        fit_calibration(logits[:, None].repeat(1, 2, 1), labels, metric="balanced_accuracy")
        if case != "nan"
        else None
    )
    temperature, why = fit_temperature(logits, labels)
    assert temperature == 1.0
    assert reason in why
    if fitted is not None:
        assert fitted.temperatures_E.tolist() == [1.0, 1.0]
        assert fitted.offsets_C.tolist() == [0.0, 0.0, 0.0]
        assert "offsets are 0" in fitted.reason


def test_few_separable_rows_move_the_temperature_little() -> None:
    """Every row is right, so the plain NLL has no minimum: twelve rows must not give certainty."""
    logits, labels = 3 * torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4)
    temperature, _ = fit_temperature(logits, labels)
    assert 0.3 < temperature < 1.0
    many, _ = fit_temperature(logits.repeat(1000, 1), labels.repeat(1000))
    assert TEMPERATURE_RANGE[0] <= many < 0.3


def test_one_row_of_a_class_cannot_set_the_temperature() -> None:
    logits, labels = posteriors([3000, 3000, 1])
    logits[-1] = torch.tensor(
        [30.0, 0.0, -30.0]
    )  # a hopeless outlier that carries a third of the weight
    temperature, _ = fit_temperature(logits, labels)
    assert TEMPERATURE_RANGE[0] < temperature <= TEMPERATURE_RANGE[1]
    assert torch.isfinite((logits / temperature).log_softmax(1)).all()


def test_extreme_logits_stay_inside_the_limits() -> None:
    labels = torch.arange(3).repeat(50)
    wrong = 1e4 * torch.nn.functional.one_hot((labels + 1) % 3, 3).float()
    temperature, reason = fit_temperature(wrong, labels)
    assert temperature == TEMPERATURE_RANGE[1]
    assert "limit" in reason


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "worst_recall"])
def test_offsets_recover_a_known_shift(metric: str) -> None:
    logits, labels = posteriors([400, 400, 400], distance=1.5)
    shift = torch.tensor([1.0, 0.0, -1.0])
    biased = (logits + shift).softmax(1)
    offsets, reason = fit_offsets(biased, labels, metric)
    assert reason == ""
    fresh, truth = posteriors([2000, 2000, 2000], seed=1, distance=1.5)
    fresh_biased = (fresh + shift).softmax(1)
    counts, names = torch.tensor([400, 400, 400]), ("a", "b", "c")
    before = compute_metrics(fresh_biased, truth, counts, names)[metric]
    after = compute_metrics(
        fresh_biased, truth, counts, names, decide(fresh_biased, offsets_C=offsets)
    )[metric]
    best = compute_metrics(fresh.softmax(1), truth, counts, names)[metric]
    assert after > before + 0.5 * (best - before)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "worst_recall"])
def test_offsets_stay_away_where_they_cannot_help(metric: str) -> None:
    used = 0
    for seed in range(10):
        logits, labels = posteriors([60, 15, 5], seed=seed, distance=1.5)
        offsets, reason = fit_offsets(logits.softmax(1), labels, metric)
        used += reason == ""
        assert reason == "" or (offsets == 0).all()
    assert used <= 2


def test_a_class_with_one_row_cannot_blow_up() -> None:
    logits, labels = posteriors([200, 200, 1, 0], distance=1.5)
    shift = torch.tensor([1.5, 0.0, 0.0, 0.0])
    offsets, reason = fit_offsets((logits + shift).softmax(1), labels, "balanced_accuracy")
    assert reason == ""
    assert abs(float(offsets[2])) <= MAX_OFFSET / 11 + 1e-6
    assert offsets[3] == 0
    assert offsets.abs().max() <= MAX_OFFSET


def test_an_unknown_metric_is_named() -> None:
    logits, labels = posteriors([20, 20])
    with pytest.raises(ValueError, match="balanced_accuracy, macro_f1, worst_recall; got 'nll'"):
        fit_offsets(logits.softmax(1), labels, "nll")


def test_decisions_by_cost() -> None:
    p = torch.tensor([[0.8, 0.2], [0.99, 0.01]])
    cost = torch.tensor([[0.0, 1.0], [10.0, 0.0]])  # missing a true class 1 costs ten
    assert decide(p).tolist() == [0, 0]
    assert decide(p, cost).tolist() == [1, 0]
    assert decide(p, 1 - torch.eye(2)).tolist() == [0, 0]
    assert decide(p, offsets_C=torch.tensor([0.0, 2.0])).tolist() == [1, 0]
    assert decide(torch.tensor([[1.0, 0.0]]), offsets_C=torch.tensor([0.0, 2.0])).tolist() == [0]
    with pytest.raises(ValueError, match=r"2 x 2 finite numbers.*got shape \(3, 3\)"):
        decide(p, torch.eye(3))


def test_saved_and_loaded_without_pickle() -> None:
    logits, labels = posteriors([100, 100, 100])
    fitted = fit_calibration(torch.stack([logits, logits * 2], 1), labels)
    file = io.BytesIO()
    torch.save(fitted.state_dict(), file)
    file.seek(0)
    again = Calibration.from_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again.temperatures_E, fitted.temperatures_E)
    assert torch.equal(again.temperature, fitted.temperature)
    assert torch.equal(again.offsets_C, fitted.offsets_C)
    assert again.reason == fitted.reason


def test_identity_changes_nothing() -> None:
    logits = torch.randn(1, 4, 5)
    none = Calibration.identity(4, 5)
    assert torch.equal(none.scale(logits), logits)
    assert torch.equal(none.decide(logits[:, 0].softmax(1)), logits[:, 0].argmax(1))


def test_class_biases_are_found_whatever_the_validation_prior() -> None:
    logits, labels = posteriors([3000, 600, 300], distance=1.5)
    put_in = torch.tensor([0.8, -0.4, -0.4])
    fitted, covariance = fit_biases(logits - put_in, labels, torch.full((3,), 1 / 3))
    assert torch.allclose(fitted.float() - fitted.float().mean(), put_in, atol=0.2)
    assert torch.linalg.eigvalsh(covariance).min() > 0


def test_a_class_without_rows_has_an_uncertain_bias_near_zero() -> None:
    logits, labels = posteriors([300, 300, 1, 0], distance=1.5)
    fitted, covariance = fit_biases(logits, labels, torch.full((4,), 1 / 4))
    assert fitted.abs().max() < 1.0
    deviation = covariance.diagonal().sqrt()
    assert deviation[3] > 0.7
    assert deviation[3] > deviation[2] > deviation[0]
