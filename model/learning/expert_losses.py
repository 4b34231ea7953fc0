"""The experts' classification losses by name, all experts in one operation. Legend: B batch, E experts, C classes, H hidden.

Every loss gives one value a sample and expert, [B, E]. Three things are common to all of them: the LDAM margin is taken off the true logit
first, class weights multiply last and average to 1 over the training rows (never over the batch, so that workers' means add up), and a
sample whose label is unknown gives 0. A class without training rows counts as if it had one, which keeps every logarithm finite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.config import LossConfig
from model.precision import at_least_float32

SADE_STRENGTH = 2.0  # lambda of SADE's third loss, as in the paper
TINY = 1e-6


def log_prior(counts_C: Tensor) -> Tensor:
    """[C] log pi."""
    return at_least_float32(counts_C).clamp_min(1).log().log_softmax(0)


def cross_entropy(logits_BEC: Tensor, labels_B: Tensor) -> Tensor:
    """[B, E]."""
    index_BE1 = labels_B[:, None, None].expand(-1, logits_BEC.shape[1], 1)
    return -logits_BEC.log_softmax(-1).gather(-1, index_BE1).squeeze(-1)


def prior_strengths(config: LossConfig, experts: int) -> Tensor:
    """[E] prior strengths lambda_e = centre + spread * linspace(-1, 1); a single expert has the centre."""
    return config.average_prior_strength + config.spread_of_prior_strength * (
        torch.linspace(-1, 1, experts) if experts > 1 else torch.zeros(1)
    )


def reversed_prior(log_prior_C: Tensor) -> Tensor:
    """[C] the prior with ranks reversed: the rarest class gets the largest share and so on."""
    order_C = log_prior_C.argsort(stable=True)
    return torch.empty_like(log_prior_C).scatter(
        0, order_C, log_prior_C.sort(descending=True, stable=True).values
    )


def sade_logit_shifts(counts_C: Tensor, experts: int) -> Tensor:
    """[E, C] SADE's logit shifts: 0, log pi, log pi - lambda log(reversed pi).

    The paper has three experts. For another number they are spaced evenly on the straight lines from the first shift over the second to the
    third; one expert takes the second (balanced softmax).
    """
    log_prior_C = log_prior(counts_C)
    place_E1 = (torch.linspace(0, 2, experts) if experts > 1 else torch.ones(1)).to(log_prior_C)[
        :, None
    ]
    return place_E1.clamp_max(1) * log_prior_C - (place_E1 - 1).clamp_min(
        0
    ) * SADE_STRENGTH * reversed_prior(log_prior_C)


def logit_shifts(counts_C: Tensor, config: LossConfig, experts: int) -> Tensor:
    """[E, C] what the named loss adds to the logits in training: 0 for the losses that leave them alone."""
    if config.name == "sade":
        return sade_logit_shifts(counts_C, experts)
    log_prior_C = log_prior(counts_C)
    if config.name in ("prior", "vs"):
        return prior_strengths(config, experts).to(log_prior_C)[:, None] * log_prior_C
    return torch.zeros(experts, len(counts_C)).to(log_prior_C)


def expert_priors(counts_C: Tensor, config: LossConfig, experts: int) -> Tensor:
    """[E, C] the class prior that each expert's own posterior (softmax of its raw logits) stands for.

    The shifted logits learn the training posterior, so the raw ones stand for pi / exp(shift): the start of every later prior correction.
    True for rows drawn as they come; weights, margins and multiplicative scales are not undone.
    """
    return (log_prior(counts_C) - logit_shifts(counts_C, config, experts)).softmax(-1)


def plain_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """CE(v, y); `class_balanced` and `influence` are this with weights."""
    return cross_entropy(logits_BEC, labels_B)


def prior_shifted_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """`prior`: CE(v + lambda_e log pi, y). `sade`: CE(v + SADE's shift, y)."""
    return cross_entropy(logits_BEC + logit_shifts(counts_C, config, logits_BEC.shape[1]), labels_B)


def focal_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """(1 - p_y)^gamma CE(v, y)."""
    loss_BE = cross_entropy(logits_BEC, labels_B)
    return (-torch.expm1(-loss_BE)).clamp_min(
        TINY
    ) ** config.focal_gamma * loss_BE  # 0^(gamma - 1) has no gradient: hence the floor


def vector_scaling_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """VS loss, CE((n_c / n_max)^gamma v_c + lambda_e log pi_c, y): the paper's tau is the prior strength here, one for each expert."""
    counts_C = at_least_float32(counts_C).clamp_min(1)
    scale_C = (counts_C / counts_C.max()) ** config.vs_gamma
    return cross_entropy(
        scale_C * logits_BEC + logit_shifts(counts_C, config, logits_BEC.shape[1]), labels_B
    )


def label_smoothing_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Label-aware smoothing (MiSLAS, concave form): (1 - eps_y) CE(v, y) + eps_y mean_c CE(v, c); equal counts all take the tail's eps."""
    counts_C = at_least_float32(counts_C).clamp_min(1)
    rank_C = (counts_C - counts_C.min()) / (counts_C.max() - counts_C.min()).clamp_min(1)
    smooth_C = config.smoothing_tail + (config.smoothing_head - config.smoothing_tail) * torch.sin(
        rank_C * torch.pi / 2
    )
    smooth_B1 = smooth_C[labels_B][:, None]
    return (1 - smooth_B1) * cross_entropy(
        logits_BEC, labels_B
    ) - smooth_B1 * logits_BEC.log_softmax(-1).mean(-1)


EXPERT_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]] = {
    "prior": prior_shifted_loss,
    "sade": prior_shifted_loss,
    "focal": focal_loss,
    "class_balanced": plain_loss,
    "vs": vector_scaling_loss,
    "influence": plain_loss,
    "smoothing": label_smoothing_loss,
}


def margins(counts_C: Tensor, margin: float) -> Tensor:
    """[C] LDAM margins Delta_c = margin (n_min / n_c)^(1/4)."""
    counts_C = at_least_float32(counts_C).clamp_min(1)
    return margin * (counts_C.min() / counts_C) ** 0.25


def subtract_margin(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """v - s Delta_y e_y; the cosine classifier has already multiplied its logits by s."""
    if config.margin == 0:
        return logits_BEC
    taken_B = config.scale * margins(counts_C, config.margin)[labels_B]
    one_hot_BC = torch.nn.functional.one_hot(labels_B, logits_BEC.shape[-1])
    return logits_BEC - (taken_B[:, None] * one_hot_BC)[:, None, :]


def effective_weights(counts_C: Tensor, beta: float) -> Tensor:
    """[C] (1 - beta) / (1 - beta^n) of the effective number of samples, averaging 1 over the training rows."""
    n_C = at_least_float32(counts_C).clamp_min(1).double()
    weights_C = -1 / torch.expm1(n_C * torch.tensor(beta, dtype=torch.float64).log())
    return (weights_C / (weights_C * n_C / n_C.sum()).sum()).to(at_least_float32(counts_C).dtype)


def inverse_weights(counts_C: Tensor) -> Tensor:
    """[C] 1 / n, averaging 1 over the training rows."""
    n_C = at_least_float32(counts_C).clamp_min(1)
    return n_C.sum() / (len(n_C) * n_C)


def reweighting_has_started(config: LossConfig, progress: float) -> bool:
    """Deferred re-weighting (DRW): with drw > 0 nothing is weighted before the last drw share of the training."""
    return config.drw == 0 or progress >= 1 - config.drw


def class_weights(counts_C: Tensor, config: LossConfig, progress: float) -> Tensor:
    """[C]: `influence` weights by 1 / n, `class_balanced` and every loss with drw > 0 by the effective number."""
    if reweighting_has_started(config, progress) and config.name == "influence":
        return inverse_weights(counts_C)
    if reweighting_has_started(config, progress) and (
        config.name == "class_balanced" or config.drw > 0
    ):
        return effective_weights(counts_C, config.effective_beta)
    return torch.ones_like(at_least_float32(counts_C))


def influence_weights(logits_BEC: Tensor, hidden_BEH: Tensor, labels_B: Tensor) -> Tensor:
    """[B, E] 1 / (|p - y|_1 mean|h|), the inverse influence of a sample on the classifier (influence-balanced loss, ICCV 2021).

    A constant of the step, as in the paper's derivation: with a gradient through it the loss would fall by growing the features alone. The
    paper divides by the sum of |h| and multiplies by a hand-set 1000; the mean needs no such constant.
    """
    one_hot_B1C = torch.nn.functional.one_hot(labels_B, logits_BEC.shape[-1])[:, None, :]
    error_BE = (logits_BEC.detach().softmax(-1) - one_hot_B1C).abs().sum(-1)
    size_BE = at_least_float32(hidden_BEH.detach()).abs().mean(-1)
    if (
        size_BE.shape != error_BE.shape
    ):  # late and evidential fusion have one row of logits for all experts
        size_BE = size_BE.mean(1, keepdim=True)
    return 1 / (error_BE * size_BE + 1e-3)


def expert_loss(
    logits_BEC: Tensor,
    hidden_BEH: Tensor,
    labels_B: Tensor,
    counts_C: Tensor,
    config: LossConfig,
    progress: float,
) -> Tensor:
    """[B, E] the loss named by config.name, with margin and weights; 0 where the label is unknown."""
    known_B = labels_B >= 0
    labels_B = labels_B.clamp_min(0)
    logits_BEC = subtract_margin(at_least_float32(logits_BEC), labels_B, counts_C, config)
    loss_BE = EXPERT_LOSSES[config.name](logits_BEC, labels_B, counts_C, config)
    loss_BE = loss_BE * class_weights(counts_C, config, progress)[labels_B][:, None]
    if config.name == "influence" and reweighting_has_started(config, progress):
        loss_BE = loss_BE * influence_weights(logits_BEC, hidden_BEH, labels_B)
    return torch.where(known_B[:, None], loss_BE, 0.0)
