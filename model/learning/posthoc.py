"""Second stages on a trained network's features, and prior shifts of its logits. Legend: N rows, B batch, E experts, H hidden, C classes.

`retrain` follows Decoupling (Kang et al., ICLR 2020): crt, lws and tau change only the linear classifiers, all experts at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from model.learning.expert_losses import cross_entropy
from model.learning.optimisers import learning_rate_scale
from model.precision import at_least_float32

STAGES = ("crt", "lws", "tau")
NEVER = -1e6  # a log-prior beyond every lead of a logit, yet a number
BATCH = 128
STEPS = (
    64,
    512,
)  # fewest and most batches an epoch: small data must converge, large data must take seconds


def move_prior(logits: Tensor, train_prior_C: Tensor, test_prior_C: Tensor) -> Tensor:
    """Logits [..., C] of a posterior under the training prior, moved to the test prior: v + log pi_test - log pi_train.

    A training prior of 0 counts as 1e-12; a test prior of 0 rules its class out. Priors may also be [E, C] (expert_losses.expert_priors)
    for logits [..., E, C].
    """
    test_C = at_least_float32(test_prior_C)
    return (
        at_least_float32(logits)
        + test_C.log().where(test_C > 0, NEVER)
        - at_least_float32(train_prior_C).clamp_min(1e-12).log()
    )


def retrain(
    weight_ECH: Tensor,
    bias_EC: Tensor,
    hidden_NEH: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    kind: str,
    epochs: int,
    lr: float,
    seed: int,
    tau: float,
) -> tuple[Tensor, Tensor]:
    """New (weight_ECH, bias_EC) of linear classifiers; the same to the bit for the same seed, whatever torch's global state.

    tau: weights divided by |w|^tau, no bias. lws: one learned factor a class and expert. crt: a fresh classifier. The last two learn from
    class-balanced draws (rows weigh 1 / counts_C), so every expert then speaks for a uniform prior. Rows without a label are left out.
    """
    if kind not in STAGES:
        raise ValueError(
            f"stage.kind must be one of {', '.join(STAGES)} to retrain a classifier; got {kind!r}"
        )
    if kind == "tau":
        return tau_normalise(weight_ECH.detach(), tau), torch.zeros_like(bias_EC)
    known_N = labels_N >= 0
    if not known_N.any():
        raise ValueError(
            f"stage.kind={kind} needs rows with a label; got {len(labels_N)} rows, none with one"
        )
    if not known_N.all():
        hidden_NEH, labels_N = hidden_NEH[known_N], labels_N[known_N]
    generator = torch.Generator().manual_seed(seed)
    weight_ECH, bias_EC = (
        at_least_float32(weight_ECH.detach()).clone(),
        at_least_float32(bias_EC.detach()).clone(),
    )
    if kind == "lws":
        scale_EC = torch.ones_like(bias_EC, requires_grad=True)
        learned = [scale_EC]

        def scaled() -> tuple[Tensor, Tensor]:
            return scale_EC[..., None] * weight_ECH, scale_EC * bias_EC
    else:
        bound = weight_ECH.shape[-1] ** -0.5
        fresh_ECH = (
            torch.empty(weight_ECH.shape)
            .uniform_(-bound, bound, generator=generator)
            .to(weight_ECH)
            .requires_grad_()
        )
        fresh_EC = torch.zeros_like(bias_EC, requires_grad=True)
        learned = [fresh_ECH, fresh_EC]

        def scaled() -> tuple[Tensor, Tensor]:
            return fresh_ECH, fresh_EC

    fit_classifiers(learned, scaled, hidden_NEH, labels_N, counts_C, epochs, lr, generator)
    weight, bias = scaled()
    return weight.detach(), bias.detach()


def tau_normalise(weight_ECH: Tensor, tau: float) -> Tensor:
    """w / |w|^tau for every class and expert; a zero weight stays zero."""
    norm_EC1: Tensor = torch.linalg.vector_norm(weight_ECH, dim=-1, keepdim=True)
    return weight_ECH / norm_EC1.clamp_min(1e-12) ** tau


@torch.enable_grad()
def fit_classifiers(
    learned: list[Tensor],
    classifier: Callable[[], tuple[Tensor, Tensor]],
    hidden_NEH: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    epochs: int,
    lr: float,
    generator: torch.Generator,
) -> None:
    """Adam with a cosine on the experts' summed cross-entropy (they share no weight, so each learns as it would alone)."""
    steps = min(max(math.ceil(len(labels_N) / BATCH), STEPS[0]), STEPS[1])
    rows = max(BATCH, math.ceil(len(labels_N) / steps))
    edges_N = (1 / counts_C.double().cpu().clamp_min(1))[labels_N.cpu()].cumsum(0)
    optimiser = torch.optim.Adam(learned, lr=lr)
    for step in range(epochs * steps):
        optimiser.param_groups[0]["lr"] = lr * learning_rate_scale(step, epochs * steps, 0.0)
        point_B = torch.rand(rows, generator=generator, dtype=torch.float64) * edges_N[-1]
        index_B = (
            torch.searchsorted(edges_N, point_B, right=True)
            .clamp_max(len(labels_N) - 1)
            .to(labels_N.device)
        )
        weight_ECH, bias_EC = classifier()
        logits_BEC = (
            torch.einsum("beh,ech->bec", at_least_float32(hidden_NEH[index_B]), weight_ECH)
            + bias_EC
        )
        loss = cross_entropy(logits_BEC, labels_N[index_B]).mean(0).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
