"""Says whether an estimate made on unlabelled test rows can be trusted. Legend: N test rows, V validation rows, E experts, C classes.

What protects, and what does not. Stability rewards agreement of two views, which a confident expert that gives one class to everything has
to perfection; the likelihood of a test prior also rises when the posterior is merely biased. A bootstrap of such an objective is only surer
of the mistake. So an estimate must also be expected to make more decisions right than uniform weights do. Under a shift of prior the recall
of each class carries over from validation to test: expected accuracy is sum_c q_c recall_c. The recalls come from validation rows, with
PSEUDO rows of what the posterior itself expects, which is all there is for a class without validation rows. The test prior q comes by EM
from the posterior with its class biases corrected on validation (Alexandari et al. 2020). A class with one validation row leaves its bias,
hence q, in the dark: the gain is taken over WORLDS draws of the biases from their posterior, and their spread is part of its error.

The standard error of a mean stands for its bootstrap error, of which it is the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.decisions.calibration import fit_biases

ERRORS = 2.0  # errors by which an estimate must beat uniform weights
PSEUDO_ROWS = 5.0  # rows for which the posterior's own expectation of a class counts beside its validation rows
BIAS_DRAWS = 20
BIAS_DRAW_ROWS = 2048  # test rows that a draw looks at: more would only cost time
LIKELIHOOD_ROWS = 4096  # test rows of the held-out likelihood
MAX_CELLS = 8_000_000  # numbers that go with a checkpoint


@dataclass
class ValidationRows:
    """Labelled validation rows as calibrated expert logits; small enough to go with a checkpoint, so that the guard always works."""

    logits_VEC: Tensor
    labels_V: Tensor

    @classmethod
    def select(cls, logits_VEC: Tensor, labels_V: Tensor, limit: int = 4096) -> ValidationRows:
        """The usable rows, at most `limit` and MOST_CELLS: all of the rare classes, the first ones of the others."""
        limit = min(limit, max(1, MAX_CELLS // logits_VEC[0].numel())) if len(logits_VEC) else limit
        keep_V = (labels_V >= 0) & torch.isfinite(logits_VEC).flatten(1).all(1)
        logits_VEC, labels_V = logits_VEC[keep_V].detach().float(), labels_V[keep_V]
        order_V = torch.argsort(labels_V, stable=True)
        _, size_K = torch.unique(labels_V, return_counts=True)
        rank_V = torch.empty_like(labels_V)
        rank_V[order_V] = torch.arange(len(labels_V), device=labels_V.device) - (
            size_K.cumsum(0) - size_K
        ).repeat_interleave(size_K)
        chosen_V = torch.argsort(rank_V, stable=True)[:limit].sort().values
        return cls(logits_VEC[chosen_V], labels_V[chosen_V])

    def state_dict(self) -> dict[str, Tensor]:
        return {"logits_VEC": self.logits_VEC, "labels_V": self.labels_V}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> ValidationRows:
        return cls(state["logits_VEC"], state["labels_V"])

    def to(self, device: torch.device) -> ValidationRows:
        return ValidationRows(self.logits_VEC.to(device), self.labels_V.to(device))


@dataclass
class Decisions:
    """Validation rows seen by a pair of decision rules: log posteriors of uniform weights, decisions of the estimate, labels."""

    logits_VC: Tensor
    after_V: Tensor
    labels_V: Tensor


def estimate_prior(posterior_NC: Tensor, trained_C: Tensor, steps: int = 500) -> Tensor:
    """Likeliest test prior by EM (Saerens et al. 2002), from a posterior under trained_C; a pseudo row a class keeps it off 0."""
    trained_C = trained_C.double().clamp(min=1e-12)
    ratio_NC = posterior_NC.double() / trained_C
    prior_C = trained_C
    for _ in range(steps):
        shares_NC = ratio_NC * prior_C
        shares_C = (shares_NC / shares_NC.sum(1, keepdim=True).clamp(min=1e-300)).sum(0) + len(
            trained_C
        ) * trained_C
        before_C, prior_C = prior_C, shares_C / shares_C.sum()
        if float((prior_C - before_C).abs().sum()) < 1e-7:
            break
    return prior_C


def mean_and_error(values_N: Tensor) -> tuple[float, float]:
    values_N = values_N.double()
    return float(values_N.mean()), float(values_N.std(unbiased=False)) / max(
        1, len(values_N) - 1
    ) ** 0.5


def refusal_reason(gain: float, error: float, what: str) -> str:
    """Why an estimate is refused, empty if it gains by more than ERRORS errors."""
    return (
        ""
        if gain > ERRORS * error
        else f"{what} changes by {gain:+.4f} with an error of {error:.4f}"
    )


def held_out_likelihood(posterior_NC: Tensor, trained_C: Tensor, folds: int = 5) -> Tensor:
    """Each row's gain in log-likelihood under the prior that the other folds' rows give; 0 is no shift."""
    posterior_NC = posterior_NC[:: max(1, -(-len(posterior_NC) // LIKELIHOOD_ROWS))]
    fold_N = torch.arange(len(posterior_NC), device=posterior_NC.device) % folds
    gains_N = torch.zeros(len(posterior_NC), dtype=torch.float64, device=posterior_NC.device)
    for fold in range(folds):
        shift_C = estimate_prior(
            posterior_NC[fold_N != fold], trained_C, steps=100
        ) / trained_C.double().clamp(min=1e-12)
        gains_N[fold_N == fold] = (posterior_NC[fold_N == fold].double() @ shift_C).log()
    return gains_N


def expected_gain(
    logits_NC: Tensor, after_N: Tensor, trained_C: Tensor, seen: Decisions | None
) -> tuple[float, float]:
    """Expected gain in test accuracy of the decisions after_N over those of uniform weights (logits_NC), and its error."""
    classes = len(trained_C)
    step = max(1, -(-len(logits_NC) // BIAS_DRAW_ROWS))
    logits_NC, after_N = logits_NC[::step].double(), after_N[::step]
    # How being right changes for each row, were class c the true one.
    change_NC = (F.one_hot(after_N, classes) - F.one_hot(logits_NC.argmax(1), classes)).double()
    if seen is None:
        return _gain_in(logits_NC, change_NC, trained_C, None)
    mean_C, covariance_CC = fit_biases(seen.logits_VC, seen.labels_V, trained_C)
    draws_WC = torch.randn(
        BIAS_DRAWS, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(mean_C.device)
    biases_WC = mean_C + draws_WC @ torch.linalg.cholesky(covariance_CC).T
    gains_W, errors_W = torch.tensor(
        [_gain_in(logits_NC + biases_C, change_NC, trained_C, seen) for biases_C in biases_WC]
    ).T
    return float(gains_W.mean()), float((gains_W.var() + errors_W.square().mean()).sqrt())


def _gain_in(
    logits_NC: Tensor, change_NC: Tensor, trained_C: Tensor, seen: Decisions | None
) -> tuple[float, float]:
    """Gain and error if the log posteriors were right."""
    posterior_NC = logits_NC.softmax(1)
    moved_NC = posterior_NC * (
        estimate_prior(posterior_NC, trained_C, steps=100) / trained_C.double().clamp(min=1e-12)
    )
    moved_NC = moved_NC / moved_NC.sum(1, keepdim=True)
    gain, error = mean_and_error((moved_NC * change_NC).sum(1))
    if seen is None:
        return gain, error
    mass_C = moved_NC.sum(0).clamp(min=1e-12)
    change_V = (seen.after_V == seen.labels_V).double() - (
        seen.logits_VC.argmax(1) == seen.labels_V
    ).double()
    rows_C = torch.bincount(seen.labels_V, minlength=len(mass_C)).double() + PSEUDO_ROWS
    recall_C = (PSEUDO_ROWS * (moved_NC * change_NC).sum(0) / mass_C).index_add(
        0, seen.labels_V, change_V
    ) / rows_C
    square_C = (PSEUDO_ROWS * (moved_NC * change_NC.square()).sum(0) / mass_C).index_add(
        0, seen.labels_V, change_V.square()
    ) / rows_C
    q_C = mass_C / mass_C.sum()
    variance = float((q_C.square() * (square_C - recall_C.square()) / rows_C).sum())
    return float((q_C * recall_C).sum()), (max(variance, 0.0) + error**2) ** 0.5
