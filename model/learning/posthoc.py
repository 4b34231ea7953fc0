"""Second stages on a trained network's features, and corrections of logits for another prior.

`retrain` follows Decoupling (Kang et al., ICLR 2020): crt, lws and tau change the linear
classifiers only, all experts at once.

Legend: N rows, B batch, E experts, H hidden units, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import SECOND_STAGES
from model.learning.expert_losses import cross_entropy
from model.learning.optimisers import learning_rate_scale
from model.precision import at_least_float32

NEVER = -1e6  # finite log-prior of a class that is ruled out; no logit makes up for it
BATCH = 128
# Fewest and most batches per epoch: small data must converge, large data must take seconds only.
MIN_STEPS, MAX_STEPS = 64, 512


@dataclass(frozen=True, kw_only=True)
class SecondStage:
    """Settings of a second stage."""

    kind: str  # one of SECOND_STAGES
    epochs: int  # of crt and lws
    lr: float  # peak learning rate of crt and lws
    seed: int
    tau: float  # exponent of tau-normalisation


@dataclass(frozen=True, kw_only=True)
class TrainingFeatures:
    """The rows that a second stage learns from."""

    hidden_NEH: Tensor  # inputs of the classifiers
    labels_N: Tensor  # -1 where unknown; these rows are left out
    counts_C: Tensor  # training rows of each class


def move_prior(logits: Tensor, train_prior_C: Tensor, test_prior_C: Tensor) -> Tensor:
    """Returns the logits of the same posterior under the test prior, [..., C].

    v + log pi_test - log pi_train. A training prior of 0 counts as 1e-12; a test prior of 0 rules
    its class out. Priors may also be [E, C], for logits [..., E, C] (see expert_priors).
    """
    test_C = at_least_float32(test_prior_C)
    log_test_C = test_C.log().where(test_C > 0, NEVER)
    log_train_C = at_least_float32(train_prior_C).clamp_min(1e-12).log()
    return at_least_float32(logits) + log_test_C - log_train_C


def retrain(
    weight_ECH: Tensor, bias_EC: Tensor, features: TrainingFeatures, stage: SecondStage
) -> tuple[Tensor, Tensor]:
    """Returns new weights and biases of the linear classifiers, [E, C, H] and [E, C].

    tau: weights divided by |w|^tau, no bias. lws: one learned factor for each class and expert.
    crt: a fresh classifier. The last two learn from class-balanced draws, so that every expert then
    stands for a uniform prior. The result is the same to the bit for the same seed, whatever the
    global state of torch.
    """
    if stage.kind not in SECOND_STAGES:
        raise ValueError(
            f"stage.kind must be one of {', '.join(SECOND_STAGES)} to retrain a classifier;"
            f" got {stage.kind!r}"
        )
    if stage.kind == "tau":
        return tau_normalise(weight_ECH.detach(), stage.tau), torch.zeros_like(bias_EC)
    features = _labelled(features, stage.kind)
    generator = torch.Generator().manual_seed(stage.seed)
    weight_ECH = at_least_float32(weight_ECH.detach()).clone()
    bias_EC = at_least_float32(bias_EC.detach()).clone()
    if stage.kind == "lws":
        scale_EC = torch.ones_like(bias_EC, requires_grad=True)
        learned = [scale_EC]

        def classifier() -> tuple[Tensor, Tensor]:
            return scale_EC[..., None] * weight_ECH, scale_EC * bias_EC
    else:
        bound = weight_ECH.shape[-1] ** -0.5
        random_ECH = torch.empty(weight_ECH.shape).uniform_(-bound, bound, generator=generator)
        fresh_ECH = random_ECH.to(weight_ECH).requires_grad_()
        fresh_EC = torch.zeros_like(bias_EC, requires_grad=True)
        learned = [fresh_ECH, fresh_EC]

        def classifier() -> tuple[Tensor, Tensor]:
            return fresh_ECH, fresh_EC

    fit_classifiers(learned, classifier, features, stage, generator)
    weight_ECH, bias_EC = classifier()
    return weight_ECH.detach(), bias_EC.detach()


def _labelled(features: TrainingFeatures, kind: str) -> TrainingFeatures:
    """Returns the rows with a label; without any it raises ValueError."""
    labelled_N = features.labels_N >= 0
    if not labelled_N.any():
        raise ValueError(
            f"stage.kind={kind} needs rows with a label; got {len(labelled_N)} rows, none with one"
        )
    if labelled_N.all():
        return features
    return TrainingFeatures(
        hidden_NEH=features.hidden_NEH[labelled_N],
        labels_N=features.labels_N[labelled_N],
        counts_C=features.counts_C,
    )


def tau_normalise(weight_ECH: Tensor, tau: float) -> Tensor:
    """Returns w / |w|^tau for every class and expert; a zero weight stays zero."""
    norm_EC1: Tensor = torch.linalg.vector_norm(weight_ECH, dim=-1, keepdim=True)
    return weight_ECH / norm_EC1.clamp_min(1e-12) ** tau


@torch.enable_grad()
def fit_classifiers(
    learned: list[Tensor],
    classifier: Callable[[], tuple[Tensor, Tensor]],
    features: TrainingFeatures,
    stage: SecondStage,
    generator: torch.Generator,
) -> None:
    """Fits the learned tensors, in place, by Adam with a cosine schedule.

    classifier: returns weights [E, C, H] and biases [E, C] made of the learned tensors. The loss is
    the experts' summed cross-entropy; they share no weight, so each learns as it would alone.
    """
    labels_N, hidden_NEH = features.labels_N, features.hidden_NEH
    steps = min(max(math.ceil(len(labels_N) / BATCH), MIN_STEPS), MAX_STEPS)
    rows = max(BATCH, math.ceil(len(labels_N) / steps))
    # Rows weigh 1 / counts_C, so that the draws are class-balanced: a row is drawn where a uniform
    # number falls between its edge and the one before.
    row_weights_C = 1 / features.counts_C.double().cpu().clamp_min(1)
    edges_N = row_weights_C[labels_N.cpu()].cumsum(0)
    optimiser = torch.optim.Adam(learned, lr=stage.lr)
    for step in range(stage.epochs * steps):
        scale = learning_rate_scale(step, stage.epochs * steps, 0.0)
        optimiser.param_groups[0]["lr"] = stage.lr * scale
        point_B = torch.rand(rows, generator=generator, dtype=torch.float64) * edges_N[-1]
        drawn_B = torch.searchsorted(edges_N, point_B, right=True)
        drawn_B = drawn_B.clamp_max(len(labels_N) - 1).to(labels_N.device)
        weight_ECH, bias_EC = classifier()
        hidden_BEH = at_least_float32(hidden_NEH[drawn_B])
        logits_BEC = torch.einsum("beh,ech->bec", hidden_BEH, weight_ECH) + bias_EC
        loss = cross_entropy(logits_BEC, labels_N[drawn_B]).mean(0).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        optimiser.step()
