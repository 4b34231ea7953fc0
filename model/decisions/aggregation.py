"""Weighs the experts at test time: uniform, by stability (SADE), by the estimated test prior (EM), or by a given prior; guarded.

Legend: N rows, V validation rows, E experts, C classes. All expert logits are calibrated ones (Calibration.scale): their weighted mean
is the log posterior under the prior that the mixture speaks for. model/guard.py says when an estimate is refused.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.decisions.calibration import fit_biases
from model.decisions.guard import (
    Decisions,
    ValidationRows,
    estimate_prior,
    expected_gain,
    held_out_likelihood,
    mean_and_error,
    refusal_reason,
)
from model.learning.posthoc import move_prior

METHODS = ("uniform", "stability", "prior", "given")
MIN_ROWS = 30  # fewer test rows: no estimate is tried
LEARNED_ROWS = 8192  # stability learns E numbers; more rows than this only cost time


@dataclass
class Aggregation:
    """What was used, and what came out. `fell_back`: the guard refused the asked method and `reason` says why."""

    weights_E: Tensor
    logits_NC: Tensor
    prior_C: Tensor | None  # the test prior that the logits were moved to
    method: str  # the one in use, so uniform after a fallback
    fell_back: bool = False
    reason: str = ""

    @property
    def probabilities_NC(self) -> Tensor:
        return self.logits_NC.softmax(1)


def mix_experts(logits_NEC: Tensor, weights_E: Tensor) -> Tensor:
    """Weighted mean of the experts' logits."""
    return torch.einsum("nec,e->nc", logits_NEC.float(), weights_E.to(logits_NEC.device).float())


def aggregate_uniformly(logits_NEC: Tensor) -> Aggregation:
    """The mean of the experts."""
    experts = logits_NEC.shape[1]
    weights_E = torch.full((experts,), 1 / experts, device=logits_NEC.device)
    return Aggregation(weights_E, mix_experts(logits_NEC, weights_E), None, "uniform")


def _refuse(logits_NEC: Tensor, reason: str) -> Aggregation:
    return dataclasses.replace(
        aggregate_uniformly(logits_NEC), fell_back=True, reason=f"uniform weights: {reason}"
    )


def _build(
    logits_NEC: Tensor, weights_E: Tensor, prior_C: Tensor | None, trained_C: Tensor, method: str
) -> Aggregation:
    logits_NC = mix_experts(logits_NEC, weights_E)
    if prior_C is not None:
        prior_C = prior_C.to(logits_NC)
        logits_NC = move_prior(logits_NC, trained_C, prior_C)
    return Aggregation(weights_E, logits_NC, prior_C, method)


def _trained(trained_C: Tensor | None, logits_NEC: Tensor) -> Tensor:
    """The prior that the mean of the experts speaks for; uniform unless told."""
    classes = logits_NEC.shape[2]
    chosen_C = torch.full((classes,), 1 / classes) if trained_C is None else trained_C
    return (chosen_C / chosen_C.sum()).to(logits_NEC.device).float()


def aggregate_with_known_prior(
    logits_NEC: Tensor, prior_C: Tensor, trained_C: Tensor | None = None
) -> Aggregation:
    """Uniform weights and a test prior that is known; never refused."""
    classes = logits_NEC.shape[2]
    if (
        prior_C.shape != (classes,)
        or not bool((torch.isfinite(prior_C) & (prior_C >= 0)).all())
        or not bool(prior_C.sum() > 0)
    ):
        raise ValueError(
            f"a prior must be {classes} finite numbers, none negative and not all zero; got {prior_C.tolist()}"
        )
    return _build(
        logits_NEC,
        aggregate_uniformly(logits_NEC).weights_E,
        prior_C / prior_C.sum(),
        _trained(trained_C, logits_NEC),
        "given",
    )


def _agreement(first_NEC: Tensor, second_NEC: Tensor, weights_E: Tensor) -> Tensor:
    """Cosine similarity of each row's two predictions."""
    first_NC, second_NC = (
        torch.einsum("nec,e->nc", view.to(weights_E), weights_E).softmax(1)
        for view in (first_NEC, second_NEC)
    )
    return F.cosine_similarity(first_NC, second_NC, dim=1)


def stable_weights(first_NEC: Tensor, second_NEC: Tensor) -> Tensor:
    """Simplex weights of the largest mean agreement; full batch and from uniform weights, so the same every time."""
    step = max(1, -(-len(first_NEC) // LEARNED_ROWS))
    first_NEC, second_NEC = (view[::step].detach().double() for view in (first_NEC, second_NEC))
    scores_E = torch.zeros(
        first_NEC.shape[1], dtype=torch.float64, device=first_NEC.device, requires_grad=True
    )
    optimiser = torch.optim.LBFGS(
        [scores_E], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        with torch.enable_grad():  # the small pull towards uniform weights keeps the scores finite where one expert takes all
            value = (
                1e-4 * scores_E.square().mean()
                - _agreement(first_NEC, second_NEC, scores_E.softmax(0)).mean()
            )
            value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return scores_E.detach().softmax(0).float()


def aggregate_by_stability(
    logits_NEC: Tensor,
    first_NEC: Tensor,
    second_NEC: Tensor,
    trained_C: Tensor | None = None,
    validation: ValidationRows | None = None,
    guarded: bool = True,
) -> Aggregation:
    """Weights under which two perturbed views of the rows agree most (SADE's test-time self-supervision). Only the E weights learn."""
    rows, experts, _ = logits_NEC.shape
    if experts == 1:
        return _refuse(logits_NEC, "there is one expert")
    if rows < (MIN_ROWS if guarded else 1):
        return _refuse(logits_NEC, f"{rows} test rows, {MIN_ROWS} are needed")
    weights_E, trained_C = stable_weights(first_NEC, second_NEC), _trained(trained_C, logits_NEC)
    found = _build(logits_NEC, weights_E, None, trained_C, "stability")
    if not guarded:
        return found
    gains_N = _agreement(first_NEC, second_NEC, weights_E) - _agreement(
        first_NEC, second_NEC, aggregate_uniformly(logits_NEC).weights_E
    )
    reason = refusal_reason(*mean_and_error(gains_N), "agreement of the views") or _less_accurate(
        logits_NEC, found, trained_C, validation
    )
    return _refuse(logits_NEC, reason) if reason else found


def aggregate_with_estimated_prior(
    logits_NEC: Tensor,
    trained_C: Tensor | None = None,
    validation: ValidationRows | None = None,
    guarded: bool = True,
) -> Aggregation:
    """Uniform weights; the test prior, estimated by EM, moves the logits. With validation rows the class biases are corrected first."""
    base, trained_C = aggregate_uniformly(logits_NEC), _trained(trained_C, logits_NEC)
    rows = len(logits_NEC)
    if rows < (MIN_ROWS if guarded else 1):
        return _refuse(logits_NEC, f"{rows} test rows, {MIN_ROWS} are needed")
    posterior_NC = base.probabilities_NC
    if validation is not None:
        validation = validation.to(logits_NEC.device)
        biases_C, _ = fit_biases(
            aggregate_uniformly(validation.logits_VEC).logits_NC, validation.labels_V, trained_C
        )
        posterior_NC = (base.logits_NC + biases_C).softmax(1)
    elif guarded:
        return _refuse(
            logits_NEC,
            "without labelled validation rows a biased posterior cannot be told from a shift of prior",
        )
    found = _build(
        logits_NEC, base.weights_E, estimate_prior(posterior_NC, trained_C), trained_C, "prior"
    )
    if not guarded:
        return found
    gains_N = held_out_likelihood(posterior_NC, trained_C)
    reason = refusal_reason(*mean_and_error(gains_N), "held-out log-likelihood") or _less_accurate(
        logits_NEC, found, trained_C, validation
    )
    return _refuse(logits_NEC, reason) if reason else found


def _less_accurate(
    logits_NEC: Tensor, found: Aggregation, trained_C: Tensor, validation: ValidationRows | None
) -> str:
    """Why an estimate is refused: its decisions are not expected to be right more often than those of uniform weights."""
    seen = None
    if validation is not None:
        validation = validation.to(logits_NEC.device)
        after_V = _build(
            validation.logits_VEC, found.weights_E, found.prior_C, trained_C, ""
        ).logits_NC.argmax(1)
        seen = Decisions(
            aggregate_uniformly(validation.logits_VEC).logits_NC, after_V, validation.labels_V
        )
    gain, error = expected_gain(
        aggregate_uniformly(logits_NEC).logits_NC, found.logits_NC.argmax(1), trained_C, seen
    )
    return refusal_reason(gain, error, "expected test accuracy")


def aggregate(
    method: str,
    logits_NEC: Tensor,
    *,
    views: tuple[Tensor, Tensor] | None = None,
    prior_C: Tensor | None = None,
    trained_C: Tensor | None = None,
    validation: ValidationRows | None = None,
    guarded: bool = True,
) -> Aggregation:
    """The named method. views: expert logits of two perturbed views (stability); prior_C: the known test prior (given)."""
    if not bool(torch.isfinite(logits_NEC).all()):
        broken = int((~torch.isfinite(logits_NEC)).flatten(1).any(1).sum())
        raise ValueError(
            f"expert logits must be finite; got {broken} of {len(logits_NEC)} rows with NaN or infinity"
        )
    if method == "uniform":
        return aggregate_uniformly(logits_NEC)
    if method == "prior":
        return aggregate_with_estimated_prior(logits_NEC, trained_C, validation, guarded)
    if method == "stability" and views is not None:
        return aggregate_by_stability(
            logits_NEC, *views, trained_C=trained_C, validation=validation, guarded=guarded
        )
    if method == "given" and prior_C is not None:
        return aggregate_with_known_prior(logits_NEC, prior_C, trained_C)
    raise ValueError(
        f"aggregation must be one of {', '.join(METHODS)} (stability with two views, given with a prior); got {method!r}"
    )
