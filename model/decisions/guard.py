"""Decides whether an estimate that was made on unlabelled test rows can be trusted.

The objective of an estimate is no guard. The stability method rewards agreement of two views, and
an expert that gives one class to everything agrees perfectly. The likelihood of a test prior also
rises where the posterior is merely biased. A bootstrap of such an objective only makes the mistake
look more certain. So an estimate must also be expected to decide more test rows correctly than
uniform weights do.

Under a shift of the prior the recall of each class carries over from validation to test, so the
expected accuracy is sum_c q_c recall_c. The recalls come from validation rows, with PSEUDO_ROWS
rows of what the posterior itself expects, which is the only source for a class without validation
rows. The test prior q is estimated by expectation-maximisation from the posterior after its class
biases are corrected on validation (Alexandari et al. 2020). A class with a single validation row
leaves its bias, and so q, uncertain: the gain is averaged over BIAS_DRAWS draws of the biases from
their posterior, and their spread is part of its error.

The standard error of a mean stands for its bootstrap error, of which it is the limit.

Legend: N test rows, V validation rows, E experts, C classes, W draws of the biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.by_rows import by_rows
from model.decisions.calibration import fit_biases

ERRORS = 2.0  # standard errors by which an estimate must beat uniform weights
# Validation rows by which the posterior's own expectation counts in the recall of a class.
PSEUDO_ROWS = 5.0
BIAS_DRAWS = 20
BIAS_DRAW_ROWS = 2048  # test rows that each draw uses: more would only cost time
LIKELIHOOD_ROWS = 4096  # test rows that the held-out likelihood uses
MAX_CELLS = 8_000_000  # numbers of validation logits that a checkpoint holds at most


def rank_in_class(labels_V: Tensor) -> Tensor:
    """Returns the place of every row among those of its class, [V]."""
    order_V = torch.argsort(labels_V, stable=True)
    _, size_K = torch.unique(labels_V, return_counts=True)
    start_V = (size_K.cumsum(0) - size_K).repeat_interleave(size_K)
    rank_V = torch.empty_like(labels_V)
    rank_V[order_V] = torch.arange(len(labels_V), device=labels_V.device) - start_V
    return rank_V


def first_of_classes(labels_V: Tensor, limit: int) -> Tensor:
    """Returns the places of at most `limit` rows, in order: all rows of rare classes come first."""
    return torch.argsort(rank_in_class(labels_V), stable=True)[:limit].sort().values


@dataclass
class ValidationRows:
    """Labelled validation rows as expert logits.

    They are few enough to be part of a checkpoint, so that the guard works wherever it is used.
    """

    logits_VEC: Tensor
    labels_V: Tensor

    @classmethod
    def select(cls, logits_VEC: Tensor, labels_V: Tensor, limit: int = 4096) -> ValidationRows:
        """Returns the rows with a label and finite logits, at most `limit` and MAX_CELLS numbers.

        Where there are more, all rows of the rare classes and the first ones of the others remain.
        """
        if len(logits_VEC):
            limit = min(limit, max(1, MAX_CELLS // logits_VEC[0].numel()))
        is_finite_V = by_rows(lambda rows: torch.isfinite(rows).flatten(1).all(1), logits_VEC)
        usable = ((labels_V >= 0) & is_finite_V).nonzero()[:, 0]
        chosen = usable[first_of_classes(labels_V[usable], limit)]
        return cls(logits_VEC[chosen].detach().float(), labels_V[chosen])

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the tensors by name, for a checkpoint."""
        return {"logits_VEC": self.logits_VEC, "labels_V": self.labels_V}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> ValidationRows:
        """Returns the rows that `state_dict` was called on."""
        return cls(state["logits_VEC"], state["labels_V"])

    def to(self, device: torch.device) -> ValidationRows:
        """Returns the rows on the device."""
        return ValidationRows(self.logits_VEC.to(device), self.labels_V.to(device))


@dataclass
class Decisions:
    """Validation rows with the decisions of uniform weights and of an estimate."""

    logits_VC: Tensor  # log posteriors of uniform weights
    after_V: Tensor  # decisions of the estimate
    labels_V: Tensor


def estimate_prior(posterior_NC: Tensor, trained_C: Tensor, steps: int = 500) -> Tensor:
    """Returns the most likely test prior by expectation-maximisation (Saerens et al. 2002), [C].

    posterior_NC: a posterior under the prior trained_C. A pseudo row for each class keeps the
    estimate away from 0.
    """
    trained_C = trained_C.double().clamp(min=1e-12)
    ratio_NC = posterior_NC.double() / trained_C
    prior_C = trained_C
    for _ in range(steps):
        joint_NC = ratio_NC * prior_C
        expected_NC = joint_NC / joint_NC.sum(1, keepdim=True).clamp(min=1e-300)
        rows_C = expected_NC.sum(0) + len(trained_C) * trained_C
        before_C, prior_C = prior_C, rows_C / rows_C.sum()
        if float((prior_C - before_C).abs().sum()) < 1e-7:
            break
    return prior_C


def mean_and_error(values_N: Tensor) -> tuple[float, float]:
    """Returns the mean of the values and its standard error."""
    values_N = values_N.double()
    error = float(values_N.std(unbiased=False)) / max(1, len(values_N) - 1) ** 0.5
    return float(values_N.mean()), error


def refusal_reason(gain: float, error: float, what: str) -> str:
    """Returns why an estimate is refused; empty if it gains by more than ERRORS errors."""
    if gain > ERRORS * error:
        return ""
    return f"{what} changes by {gain:+.4f} with an error of {error:.4f}"


def held_out_likelihood(posterior_NC: Tensor, trained_C: Tensor, folds: int = 5) -> Tensor:
    """Returns each row's gain in log-likelihood under a prior estimated from the other folds, [N].

    The gain is over trained_C; it is 0 where there is no shift of the prior.
    """
    posterior_NC = posterior_NC[:: max(1, -(-len(posterior_NC) // LIKELIHOOD_ROWS))]
    fold_N = torch.arange(len(posterior_NC), device=posterior_NC.device) % folds
    gains_N = torch.zeros(len(posterior_NC), dtype=torch.float64, device=posterior_NC.device)
    for fold in range(folds):
        prior_C = estimate_prior(posterior_NC[fold_N != fold], trained_C, steps=100)
        shift_C = prior_C / trained_C.double().clamp(min=1e-12)
        gains_N[fold_N == fold] = (posterior_NC[fold_N == fold].double() @ shift_C).log()
    return gains_N


def expected_gain(
    logits_NC: Tensor, after_N: Tensor, trained_C: Tensor, validation: Decisions | None
) -> tuple[float, float]:
    """Returns the expected gain in test accuracy over uniform weights, and its error.

    logits_NC: log posteriors of uniform weights. after_N: decisions of the estimate.
    """
    classes = len(trained_C)
    step = max(1, -(-len(logits_NC) // BIAS_DRAW_ROWS))
    logits_NC, after_N = logits_NC[::step].double(), after_N[::step]
    # The change of a row's correctness if c were its true class: 1, 0 or -1.
    change_NC = (F.one_hot(after_N, classes) - F.one_hot(logits_NC.argmax(1), classes)).double()
    if validation is None:
        return _gain(logits_NC, change_NC, trained_C, None)
    mean_C, covariance_CC = fit_biases(validation.logits_VC, validation.labels_V, trained_C)
    generator = torch.Generator().manual_seed(0)
    draws_WC = torch.randn(BIAS_DRAWS, classes, generator=generator, dtype=torch.float64)
    biases_WC = mean_C + draws_WC.to(mean_C.device) @ torch.linalg.cholesky(covariance_CC).T
    gains = [
        _gain(logits_NC + biases_C, change_NC, trained_C, validation) for biases_C in biases_WC
    ]
    gains_W, errors_W = torch.tensor(gains).T
    return float(gains_W.mean()), float((gains_W.var() + errors_W.square().mean()).sqrt())


def _gain(
    logits_NC: Tensor, change_NC: Tensor, trained_C: Tensor, validation: Decisions | None
) -> tuple[float, float]:
    """Returns the expected gain and its error if the log posteriors logits_NC were right."""
    posterior_NC = logits_NC.softmax(1)
    prior_C = estimate_prior(posterior_NC, trained_C, steps=100)
    moved_NC = posterior_NC * (prior_C / trained_C.double().clamp(min=1e-12))
    moved_NC = moved_NC / moved_NC.sum(1, keepdim=True)
    gain, error = mean_and_error((moved_NC * change_NC).sum(1))
    if validation is None:
        return gain, error
    mass_C = moved_NC.sum(0).clamp(min=1e-12)
    labels_V = validation.labels_V
    right_after_V = (validation.after_V == labels_V).double()
    change_V = right_after_V - (validation.logits_VC.argmax(1) == labels_V).double()
    rows_C = torch.bincount(labels_V, minlength=len(mass_C)).double() + PSEUDO_ROWS
    # Mean and mean square of the change over the rows of each class.
    expected_C = PSEUDO_ROWS * (moved_NC * change_NC).sum(0) / mass_C
    expected_square_C = PSEUDO_ROWS * (moved_NC * change_NC.square()).sum(0) / mass_C
    recall_C = expected_C.index_add(0, labels_V, change_V) / rows_C
    square_C = expected_square_C.index_add(0, labels_V, change_V.square()) / rows_C
    q_C = mass_C / mass_C.sum()
    variance = float((q_C.square() * (square_C - recall_C.square()) / rows_C).sum())
    return float((q_C * recall_C).sum()), (max(variance, 0.0) + error**2) ** 0.5
