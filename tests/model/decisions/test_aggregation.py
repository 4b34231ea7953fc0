"""Experts are weighted by an estimate where it helps; where it would harm, the guard refuses it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from model.decisions.aggregation import (
    METHODS,
    Aggregation,
    aggregate,
    aggregate_by_stability,
    aggregate_uniformly,
    aggregate_with_estimated_prior,
    aggregate_with_known_prior,
    stable_weights,
)
from model.decisions.guard import (
    ERRORS,
    ValidationRows,
    estimate_prior,
    expected_gain,
    held_out_likelihood,
    mean_and_error,
)


@dataclass
class Case:
    """Expert logits of test rows, of two perturbed views of them, and of validation rows."""

    labels_N: Tensor
    logits_NEC: Tensor
    first_NEC: Tensor
    second_NEC: Tensor
    validation: ValidationRows
    prior_C: Tensor

    def accuracy(self, result: Aggregation) -> float:
        return 100 * float((result.logits_NC.argmax(1) == self.labels_N).float().mean())

    def stability(self, *, validated: bool = True, guarded: bool = True) -> Aggregation:
        validation = self.validation if validated else None
        return aggregate_by_stability(
            self.logits_NEC, self.first_NEC, self.second_NEC, validation=validation, guarded=guarded
        )


def over_confident_tail(rows: int, seed: int) -> Case:
    """Three classes and three experts.

    Those of the head and the middle are good but vary between views; that of the tail hardly
    depends on its input.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int, prior_C: Tensor) -> tuple[Tensor, list[Tensor]]:
        labels_N = torch.multinomial(prior_C, count, replacement=True, generator=generator)
        x_NC = torch.randn(count, 3, generator=generator) + 2.4 * one_hot(labels_N, 3)

        def view(noise: float) -> Tensor:
            head_NC, medium_NC = (
                2.4 * (x_NC + noise * torch.randn(count, 3, generator=generator)) for _ in range(2)
            )
            tail_NC = 1.4 * x_NC + torch.tensor([-3.0, -0.5, 3.0])
            return torch.stack([head_NC + torch.tensor([0.8, 0.0, -0.8]), medium_NC, tail_NC], 1)

        return labels_N, [view(0.0), view(1.2), view(1.2)]

    test_prior_C = torch.tensor([0.4, 0.35, 0.25])
    labels_N, views = draw(rows, test_prior_C)
    labels_V, (logits_VEC, *_) = draw(60, torch.tensor([0.6, 0.3, 0.1]))
    return Case(labels_N, *views, ValidationRows.select(logits_VEC, labels_V), test_prior_C)


def shifted(direction: str, rows: int, seed: int, classes: int = 20, ratio: float = 50) -> Case:
    """SADE's protocol: a long tail of ratio 20, tested on forward or backward shifts.

    The experts have the prior strengths 0, 1 and 2.
    """
    generator = torch.Generator().manual_seed(seed)
    steps_C = torch.linspace(0, 1, classes)
    train_C = (20**-steps_C) / (20**-steps_C).sum()
    test_C = {
        "forward": ratio**-steps_C,
        "uniform": torch.ones(classes),
        "backward": ratio**steps_C,
    }[direction]
    test_C = test_C / test_C.sum()
    expert_shift_EC = (1 - torch.tensor([0.0, 1.0, 2.0]))[:, None] * train_C.log()
    quirks_ECC = 0.1 * torch.randn(3, classes, classes, generator=generator)

    def draw(count: int, prior_C: Tensor) -> tuple[Tensor, list[Tensor]]:
        labels_N = torch.multinomial(prior_C, count, replacement=True, generator=generator)
        x_NC = torch.randn(count, classes, generator=generator) + 2 * one_hot(labels_N, classes)

        def view(noise: float) -> Tensor:
            logits_NC = x_NC + noise * torch.randn(count, classes, generator=generator)
            return (
                2 * logits_NC[:, None]
                + 2 * torch.einsum("nc,ecd->ned", logits_NC, quirks_ECC)
                + expert_shift_EC
            )

        return labels_N, [view(0.0), view(0.7), view(0.7)]

    labels_N, views = draw(rows, test_C)
    labels_V, (logits_VEC, *_) = draw(2000, train_C)
    return Case(labels_N, *views, ValidationRows.select(logits_VEC, labels_V), test_C)


@pytest.mark.parametrize("rows", [60, 150])
def test_unguarded_stability_collapses_and_guarded_does_not(rows: int) -> None:
    """A SADE user reported that the accuracy of three classes fell from 89.6 to 51.8.

    The tail expert had got all the weight.
    """
    collapsed = 0
    for seed in range(10):
        case = over_confident_tail(rows, seed)
        even, bare = aggregate_uniformly(case.logits_NEC), case.stability(guarded=False)
        fell = case.accuracy(bare) < case.accuracy(even) - 20
        collapsed += fell and float(bare.weights_E[2]) > 0.9
        for validated in (True, False):
            kept = case.stability(validated=validated)
            right_N, even_N = (
                (a.logits_NC.argmax(1) == case.labels_N).double() for a in (kept, even)
            )
            change, error = mean_and_error(right_N - even_N)
            assert change >= -2 * error
            if fell:
                assert (kept.fell_back, kept.method) == (True, "uniform")
                assert torch.equal(kept.logits_NC, even.logits_NC)
                assert "expected test accuracy changes by -" in kept.reason
    assert collapsed >= 7


def test_its_own_objective_would_not_have_protected() -> None:
    """The collapsed weights gain agreement by many errors, so agreement alone is no guard."""
    case = over_confident_tail(150, 0)
    bare = case.stability(guarded=False)

    def agreement(weights_E: Tensor) -> Tensor:
        first, second = (
            torch.einsum("nec,e->nc", v, weights_E).softmax(1)
            for v in (case.first_NEC, case.second_NEC)
        )
        return torch.cosine_similarity(first, second, dim=1)

    gain, error = mean_and_error(agreement(bare.weights_E) - agreement(torch.full((3,), 1 / 3)))
    assert gain > 2 * ERRORS * error


@pytest.mark.parametrize("rows", [40, 400])
@pytest.mark.parametrize("direction", ["forward", "uniform", "backward"])
def test_guarded_is_never_worse_than_uniform_by_more_than_its_error(
    direction: str, rows: int
) -> None:
    for seed in range(4):
        case = shifted(direction, rows, seed)
        even = aggregate_uniformly(case.logits_NEC)
        for result in (
            case.stability(),
            case.stability(validated=False),
            aggregate_with_estimated_prior(case.logits_NEC, validation=case.validation),
        ):
            right_N, even_N = (
                (a.logits_NC.argmax(1) == case.labels_N).double() for a in (result, even)
            )
            change, error = mean_and_error(right_N - even_N)
            assert change >= -2 * error, (seed, result.method, change, error)
            assert result.fell_back == (result.method == "uniform") == (result.reason != "")


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_estimated_prior_gains_under_a_shift(direction: str) -> None:
    for seed in range(3):
        case = shifted(direction, 1500, seed)
        result = aggregate_with_estimated_prior(case.logits_NEC, validation=case.validation)
        even, validation = (
            aggregate_uniformly(case.logits_NEC),
            aggregate_with_known_prior(case.logits_NEC, case.prior_C),
        )
        assert result.method == "prior"
        assert result.prior_C is not None
        assert case.accuracy(result) > case.accuracy(even) + 5
        assert case.accuracy(result) > case.accuracy(validation) - 2.5
        assert float((result.prior_C - case.prior_C).abs().sum()) / 2 < 0.15


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_stability_gains_under_a_shift(direction: str) -> None:
    used = 0
    for seed in range(4):
        case = shifted(direction, 1500, seed)
        result, even = case.stability(), aggregate_uniformly(case.logits_NEC)
        favoured = 0 if direction == "forward" else 2
        assert float(case.stability(guarded=False).weights_E[favoured]) > 0.5
        if not result.fell_back:
            used += 1
            assert case.accuracy(result) > case.accuracy(even) + 3
    assert used >= 1


def test_no_shift_no_change() -> None:
    for seed in range(3):
        case = shifted("uniform", 1500, seed)
        for result in (
            case.stability(),
            aggregate_with_estimated_prior(case.logits_NEC, validation=case.validation),
        ):
            assert result.fell_back
            assert "changes by" in result.reason


def test_a_biased_posterior_is_not_taken_for_a_shift() -> None:
    """Every expert favours the same classes, and the test set is not shifted.

    Expectation-maximisation alone loses accuracy; validation rows show why.
    """
    case = shifted("uniform", 1500, 0)
    bias_C = torch.randn(20, generator=torch.Generator().manual_seed(1))
    logits_NEC = case.logits_NEC + bias_C
    validation = ValidationRows(case.validation.logits_VEC + bias_C, case.validation.labels_V)
    even, bare = (
        aggregate_uniformly(logits_NEC),
        aggregate_with_estimated_prior(logits_NEC, guarded=False),
    )
    assert case.accuracy(bare) < case.accuracy(even) - 10
    kept, blind = (
        aggregate_with_estimated_prior(logits_NEC, validation=validation),
        aggregate_with_estimated_prior(logits_NEC),
    )
    assert case.accuracy(kept) >= case.accuracy(even)
    assert blind.fell_back
    assert "without labelled validation rows" in blind.reason


def test_few_rows_and_one_expert_fall_back() -> None:
    case = shifted("forward", 29, 0)
    assert case.stability().reason == "uniform weights: 29 test rows, 30 are needed"
    assert (
        aggregate_with_estimated_prior(case.logits_NEC, validation=case.validation).reason
        == "uniform weights: 29 test rows, 30 are needed"
    )
    single = case.logits_NEC[:, :1]
    assert (
        aggregate_by_stability(single, single, single).reason
        == "uniform weights: there is one expert"
    )


def test_uniform_is_the_mean() -> None:
    logits = torch.randn(5, 4, 3)
    result = aggregate_uniformly(logits)
    assert torch.allclose(result.logits_NC, logits.mean(1), atol=1e-6)
    assert torch.allclose(result.probabilities_NC.sum(1), torch.ones(5))
    assert (result.method, result.fell_back, result.prior_C) == ("uniform", False, None)


def test_a_given_prior_moves_the_logits_by_its_ratio() -> None:
    logits, trained, wanted = (
        torch.randn(6, 2, 3),
        torch.tensor([0.6, 0.3, 0.1]),
        torch.tensor([1.0, 1.0, 2.0]),
    )
    result = aggregate_with_known_prior(logits, wanted, trained)
    expected = logits.mean(1).softmax(1) * (wanted / 4) / trained
    assert torch.allclose(
        result.probabilities_NC, expected / expected.sum(1, keepdim=True), atol=1e-6
    )
    assert result.prior_C is not None
    assert result.prior_C.tolist() == pytest.approx([0.25, 0.25, 0.5])
    never = aggregate_with_known_prior(logits, torch.tensor([1.0, 1.0, 0.0]))
    assert torch.isfinite(never.logits_NC).all()
    assert (never.logits_NC.argmax(1) != 2).all()
    for wrong in (
        torch.tensor([1.0, 1.0]),
        torch.tensor([1.0, -1.0, 1.0]),
        torch.zeros(3),
        torch.tensor([1.0, torch.nan, 0.0]),
    ):
        with pytest.raises(ValueError, match="a prior must be 3 finite numbers"):
            aggregate_with_known_prior(logits, wrong)


def test_em_finds_the_prior_and_stays_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    trained, truth = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.2, 0.7])
    labels = torch.multinomial(truth, 4000, replacement=True, generator=generator)
    x = torch.randn(4000, 3, generator=generator) + 2 * one_hot(labels, 3)
    result = estimate_prior((2 * x + trained.log()).softmax(1), trained)
    assert torch.allclose(result.float(), truth, atol=0.03)
    one = estimate_prior(torch.tensor([[1.0, 0.0, 0.0]]), trained)
    assert torch.isfinite(one).all()
    assert (one > 0).all()
    assert float(one.sum()) == pytest.approx(1.0)
    gains = held_out_likelihood((2 * x + trained.log()).softmax(1), trained)
    assert float(gains.mean()) > 0.2


def test_the_rows_that_go_with_a_checkpoint_are_bounded_by_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.decisions.guard.MAX_CELLS", 600)
    kept = ValidationRows.select(torch.zeros(500, 2, 30), torch.arange(500) % 30)
    assert kept.logits_VEC.shape == (10, 2, 30)


def test_a_class_absent_from_validation_does_no_harm() -> None:
    case = shifted("backward", 400, 0)
    keep = case.validation.labels_V < 15
    partial = ValidationRows(case.validation.logits_VEC[keep], case.validation.labels_V[keep])
    empty = ValidationRows.select(torch.zeros(0, 3, 20), torch.zeros(0, dtype=torch.long))
    even = case.accuracy(aggregate_uniformly(case.logits_NEC))
    for validation in (partial, empty):
        result = aggregate_with_estimated_prior(case.logits_NEC, validation=validation)
        assert torch.isfinite(result.logits_NC).all()
        assert case.accuracy(result) >= even - 2.5


def test_expected_gain_of_no_change_is_zero() -> None:
    logits = torch.randn(50, 4)
    assert expected_gain(logits, logits.argmax(1), torch.full((4,), 0.25), None) == (0.0, 0.0)


def test_weights_are_on_the_simplex_and_the_same_every_time() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 8, 5, generator=generator)
    first, second = (logits + 0.5 * torch.randn(100, 8, 5, generator=generator) for _ in range(2))
    weights = stable_weights(first, second)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    assert (weights >= 0).all()
    assert torch.equal(weights, stable_weights(first, second))
    same = logits[:, :1].expand(-1, 4, -1)
    assert torch.allclose(stable_weights(same, same + 0.1), torch.full((4,), 0.25), atol=1e-4)
    with torch.no_grad():
        assert torch.equal(weights, stable_weights(first, second))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [1, 35])
def test_every_method_is_finite_on_little_and_on_half_precision(method: str, rows: int) -> None:
    logits = (20 * torch.randn(rows, 3, 4, generator=torch.Generator().manual_seed(0))).to(
        torch.bfloat16
    )
    validation = ValidationRows.select(torch.randn(5, 3, 4), torch.tensor([0, 0, 1, -1, 3]))
    for guarded in (True, False):
        result = aggregate(
            method,
            logits,
            views=(logits, logits + 1),
            prior_C=torch.tensor([1.0, 0.0, 0.0, 1.0]),
            validation=validation,
            guarded=guarded,
        )
        assert torch.isfinite(result.logits_NC).all()
        assert torch.isfinite(result.probabilities_NC).all()
        assert float(result.weights_E.sum()) == pytest.approx(1.0, abs=1e-5)


def test_wrong_calls_are_one_clear_error() -> None:
    logits = torch.randn(4, 2, 3)
    with pytest.raises(ValueError, match=r"uniform, stability, prior, given .*got 'median'"):
        aggregate("median", logits)
    with pytest.raises(ValueError, match="two views"):
        aggregate("stability", logits)
    logits[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match="finite; got 1 of 4 rows"):
        aggregate("uniform", logits)


def test_validation_keeps_rare_classes_and_travels_without_pickle() -> None:
    labels = torch.cat([torch.zeros(500, dtype=torch.long), torch.tensor([1, 1, 2, -1])])
    logits = torch.randn(504, 2, 3)
    logits[3] = torch.nan
    kept = ValidationRows.select(logits, labels, limit=20)
    assert torch.bincount(kept.labels_V).tolist() == [17, 2, 1]
    assert torch.isfinite(kept.logits_VEC).all()
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    again = ValidationRows.from_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again.logits_VEC, kept.logits_VEC)
    assert torch.equal(again.labels_V, kept.labels_V)
