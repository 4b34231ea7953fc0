"""Combines experts at test time: uniformly, by stability, by an estimated or a known test prior.

An estimate that is made on unlabelled test rows is guarded: where guard.py refuses it, the experts
are combined uniformly.

Legend: N rows, V validation rows, E experts, C classes. All expert logits are calibrated ones
(Calibration.scale), so their weighted mean is the log posterior under the prior that the mixture
stands for, trained_C.
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
MIN_ESTIMATION_ROWS = 30  # with fewer test rows nothing is estimated
STABILITY_ROWS = 8192  # stability learns E numbers; more rows than this only cost time


@dataclass
class Aggregation:
    """Rows with the experts combined, and how they were combined."""

    weights_E: Tensor
    logits_NC: Tensor
    prior_C: Tensor | None  # the test prior that the logits were moved to
    method: str  # the one in use: "uniform" after a fallback
    fell_back: bool = False  # the guard refused the requested method
    reason: str = ""  # why it did

    @property
    def probabilities_NC(self) -> Tensor:
        """The posterior probabilities of the classes."""
        return self.logits_NC.softmax(1)


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
    """Combines the experts by the named method.

    views: expert logits of two perturbed views of the rows, which `stability` needs.
    prior_C: the known test prior, which `given` needs.
    trained_C: the prior that the mean of the experts stands for, uniform unless given.
    validation: labelled rows by which the guard judges an estimate.
    guarded: refuse an estimate that is not expected to help.
    """
    finite_N = torch.isfinite(logits_NEC).flatten(1).all(1)
    if not bool(finite_N.all()):
        raise ValueError(
            f"expert logits must be finite; got {int((~finite_N).sum())} of {len(logits_NEC)}"
            " rows with NaN or infinity"
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
        f"aggregation must be one of {', '.join(METHODS)} (stability with two views, given with a"
        f" prior); got {method!r}"
    )


def mix_experts(logits_NEC: Tensor, weights_E: Tensor) -> Tensor:
    """Returns the weighted mean of the experts' logits, [N, C]."""
    return torch.einsum("nec,e->nc", logits_NEC.float(), weights_E.to(logits_NEC.device).float())


def aggregate_uniformly(logits_NEC: Tensor) -> Aggregation:
    """Combines the experts with equal weights."""
    experts = logits_NEC.shape[1]
    weights_E = torch.full((experts,), 1 / experts, device=logits_NEC.device)
    return Aggregation(weights_E, mix_experts(logits_NEC, weights_E), None, "uniform")


def aggregate_with_known_prior(
    logits_NEC: Tensor, prior_C: Tensor, trained_C: Tensor | None = None
) -> Aggregation:
    """Combines the experts with equal weights under a known test prior; it is never refused."""
    classes = logits_NEC.shape[2]
    if (
        prior_C.shape != (classes,)
        or not bool((torch.isfinite(prior_C) & (prior_C >= 0)).all())
        or not bool(prior_C.sum() > 0)
    ):
        raise ValueError(
            f"a prior must be {classes} finite numbers, none negative and not all zero;"
            f" got {prior_C.tolist()}"
        )
    weights_E = aggregate_uniformly(logits_NEC).weights_E
    trained_C = _trained_prior(trained_C, logits_NEC)
    return _combine(logits_NEC, weights_E, prior_C / prior_C.sum(), trained_C, "given")


def aggregate_with_estimated_prior(
    logits_NEC: Tensor,
    trained_C: Tensor | None = None,
    validation: ValidationRows | None = None,
    guarded: bool = True,
) -> Aggregation:
    """Combines the experts with equal weights under a test prior that is estimated from the rows.

    With validation rows the class biases of the posterior are corrected before the estimate.
    """
    base, trained_C = aggregate_uniformly(logits_NEC), _trained_prior(trained_C, logits_NEC)
    rows = len(logits_NEC)
    if rows < (MIN_ESTIMATION_ROWS if guarded else 1):
        return _fall_back(logits_NEC, f"{rows} test rows, {MIN_ESTIMATION_ROWS} are needed")
    posterior_NC = base.probabilities_NC
    if validation is not None:
        validation = validation.to(logits_NEC.device)
        mixture_VC = aggregate_uniformly(validation.logits_VEC).logits_NC
        biases_C, _ = fit_biases(mixture_VC, validation.labels_V, trained_C)
        posterior_NC = (base.logits_NC + biases_C).softmax(1)
    elif guarded:
        return _fall_back(
            logits_NEC,
            "without labelled validation rows a biased posterior cannot be told from a shift of"
            " prior",
        )
    prior_C = estimate_prior(posterior_NC, trained_C)
    estimate = _combine(logits_NEC, base.weights_E, prior_C, trained_C, "prior")
    if not guarded:
        return estimate
    gains_N = held_out_likelihood(posterior_NC, trained_C)
    reason = refusal_reason(
        *mean_and_error(gains_N), "held-out log-likelihood"
    ) or _accuracy_refusal(logits_NEC, estimate, trained_C, validation)
    return _fall_back(logits_NEC, reason) if reason else estimate


def aggregate_by_stability(
    logits_NEC: Tensor,
    first_NEC: Tensor,
    second_NEC: Tensor,
    trained_C: Tensor | None = None,
    validation: ValidationRows | None = None,
    guarded: bool = True,
) -> Aggregation:
    """Combines the experts so that two perturbed views of the rows agree most.

    This is SADE's test-time self-supervision; only the E weights are learned.
    """
    rows, experts, _ = logits_NEC.shape
    if experts == 1:
        return _fall_back(logits_NEC, "there is one expert")
    if rows < (MIN_ESTIMATION_ROWS if guarded else 1):
        return _fall_back(logits_NEC, f"{rows} test rows, {MIN_ESTIMATION_ROWS} are needed")
    weights_E = stable_weights(first_NEC, second_NEC)
    trained_C = _trained_prior(trained_C, logits_NEC)
    estimate = _combine(logits_NEC, weights_E, None, trained_C, "stability")
    if not guarded:
        return estimate
    uniform_E = aggregate_uniformly(logits_NEC).weights_E
    before_N = _agreement(first_NEC, second_NEC, uniform_E)
    gains_N = _agreement(first_NEC, second_NEC, weights_E) - before_N
    reason = refusal_reason(
        *mean_and_error(gains_N), "agreement of the views"
    ) or _accuracy_refusal(logits_NEC, estimate, trained_C, validation)
    return _fall_back(logits_NEC, reason) if reason else estimate


def stable_weights(first_NEC: Tensor, second_NEC: Tensor) -> Tensor:
    """Returns the weights, summing to 1, under which the two views agree most, [E].

    The search starts from equal weights and takes all rows at once: its result is always the same.
    """
    step = max(1, -(-len(first_NEC) // STABILITY_ROWS))
    first_NEC = first_NEC[::step].detach().double()
    second_NEC = second_NEC[::step].detach().double()
    scores_E = torch.zeros(first_NEC.shape[1], dtype=torch.float64, device=first_NEC.device)
    scores_E.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [scores_E], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        with torch.enable_grad():
            # A small penalty keeps the scores finite where one expert takes all the weight.
            penalty = 1e-4 * scores_E.square().mean()
            value = penalty - _agreement(first_NEC, second_NEC, scores_E.softmax(0)).mean()
            value.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]  # torch does not type it
    return scores_E.detach().softmax(0).float()


def _agreement(first_NEC: Tensor, second_NEC: Tensor, weights_E: Tensor) -> Tensor:
    """Returns the cosine similarity of the predictions from the two views, [N]."""
    first_NC = torch.einsum("nec,e->nc", first_NEC.to(weights_E), weights_E).softmax(1)
    second_NC = torch.einsum("nec,e->nc", second_NEC.to(weights_E), weights_E).softmax(1)
    return F.cosine_similarity(first_NC, second_NC, dim=1)


def _trained_prior(trained_C: Tensor | None, logits_NEC: Tensor) -> Tensor:
    """Returns the prior that the mean of the experts stands for, scaled to sum to 1, [C]."""
    classes = logits_NEC.shape[2]
    if trained_C is None:
        trained_C = torch.full((classes,), 1 / classes)
    return (trained_C / trained_C.sum()).to(logits_NEC.device).float()


def _combine(
    logits_NEC: Tensor, weights_E: Tensor, prior_C: Tensor | None, trained_C: Tensor, method: str
) -> Aggregation:
    """Returns the weighted mean of the experts, moved to the test prior where one is given."""
    logits_NC = mix_experts(logits_NEC, weights_E)
    if prior_C is not None:
        prior_C = prior_C.to(logits_NC)
        logits_NC = move_prior(logits_NC, trained_C, prior_C)
    return Aggregation(weights_E, logits_NC, prior_C, method)


def _fall_back(logits_NEC: Tensor, reason: str) -> Aggregation:
    """Returns the uniform aggregation with the reason why the requested method is not used."""
    uniform = aggregate_uniformly(logits_NEC)
    return dataclasses.replace(uniform, fell_back=True, reason=f"uniform weights: {reason}")


def _accuracy_refusal(
    logits_NEC: Tensor,
    estimate: Aggregation,
    trained_C: Tensor,
    validation: ValidationRows | None,
) -> str:
    """Returns why an estimate is refused; empty if it should decide more rows correctly.

    The comparison is with uniform weights.
    """
    decisions = None
    if validation is not None:
        validation = validation.to(logits_NEC.device)
        after_VC = _combine(
            validation.logits_VEC, estimate.weights_E, estimate.prior_C, trained_C, estimate.method
        ).logits_NC
        before_VC = aggregate_uniformly(validation.logits_VEC).logits_NC
        decisions = Decisions(before_VC, after_VC.argmax(1), validation.labels_V)
    before_NC = aggregate_uniformly(logits_NEC).logits_NC
    gain, error = expected_gain(before_NC, estimate.logits_NC.argmax(1), trained_C, decisions)
    return refusal_reason(gain, error, "expected test accuracy")
