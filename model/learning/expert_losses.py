"""The classification losses of the experts by name, all experts in one operation.

Every loss gives one value a sample and expert, [B, E]. Three things are common to all of them: the
LDAM margin is subtracted from the true logit first; class weights multiply last and average to 1
over the training rows (never over the batch, so that the means of several workers add up); and a
sample whose label is unknown gives 0. A class without training rows counts as if it had one, which
keeps every logarithm finite.

Legend: B batch, E experts, C classes, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.config import LossConfig
from model.one_hot import one_hot
from model.precision import at_least_float32

SADE_STRENGTH = 2.0  # lambda of SADE's third loss, as in the paper
MIN_FOCAL_FACTOR = 1e-6  # 0^(gamma - 1) has no gradient, hence the floor

# A loss by name: (logits_BEC, labels_B, counts_C, config) -> [B, E].
ExpertLoss = Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]


def log_prior(counts_C: Tensor) -> Tensor:
    """Returns log pi, the log of the classes' shares of the training rows, [C]."""
    return at_least_float32(counts_C).clamp_min(1).log().log_softmax(0)


def cross_entropy(logits_BEC: Tensor, labels_B: Tensor) -> Tensor:
    """Returns the cross-entropy of each sample and expert, [B, E]."""
    index_BE1 = labels_B[:, None, None].expand(-1, logits_BEC.shape[1], 1)
    return -logits_BEC.log_softmax(-1).gather(-1, index_BE1).squeeze(-1)


def prior_strengths(config: LossConfig, experts: int, device: torch.device | None = None) -> Tensor:
    """Returns the prior strengths lambda_e, spaced evenly around their average, [E].

    A single expert has the average.
    """
    position_E = (
        torch.linspace(-1, 1, experts, device=device)
        if experts > 1
        else torch.zeros(1, device=device)
    )
    return config.average_prior_strength + config.spread_of_prior_strength * position_E


def reversed_prior(log_prior_C: Tensor) -> Tensor:
    """Returns the log prior with ranks reversed: the rarest class gets the largest share, [C]."""
    order_C = log_prior_C.argsort(stable=True)
    descending_C = log_prior_C.sort(descending=True, stable=True).values
    return torch.empty_like(log_prior_C).scatter(0, order_C, descending_C)


def sade_logit_shifts(counts_C: Tensor, experts: int) -> Tensor:
    """Returns SADE's logit shifts: 0, log pi, log pi - lambda log(reversed pi), [E, C].

    The paper has three experts. Another number of them is spaced evenly on the straight lines from
    the first shift over the second to the third; a single one takes the second (balanced softmax).
    """
    log_prior_C = log_prior(counts_C)
    device = log_prior_C.device
    position_E = (
        torch.linspace(0, 2, experts, device=device)
        if experts > 1
        else torch.ones(1, device=device)
    )
    position_E1 = position_E.to(log_prior_C.dtype)[:, None]
    forward_EC = position_E1.clamp_max(1) * log_prior_C
    backward_EC = (position_E1 - 1).clamp_min(0) * SADE_STRENGTH * reversed_prior(log_prior_C)
    return forward_EC - backward_EC


def logit_shifts(counts_C: Tensor, config: LossConfig, experts: int) -> Tensor:
    """Returns what the named loss adds to the logits in training, [E, C].

    It is 0 for the losses that do not correct for the prior.
    """
    if config.name == "sade":
        return sade_logit_shifts(counts_C, experts)
    log_prior_C = log_prior(counts_C)
    if config.name in ("prior", "vs"):
        strength_E = prior_strengths(config, experts, log_prior_C.device)
        return strength_E.to(log_prior_C.dtype)[:, None] * log_prior_C
    return log_prior_C.new_zeros(experts, len(counts_C))


def expert_priors(counts_C: Tensor, config: LossConfig, experts: int) -> Tensor:
    """Returns the class prior under which each expert's softmax is a posterior, [E, C].

    The shifted logits learn the posterior under the training prior pi, so the raw logits stand for
    the prior pi / exp(shift), from which every later correction starts. It holds for rows that are
    drawn as they come, and does not undo weights, margins and multiplicative scales.
    """
    return (log_prior(counts_C) - logit_shifts(counts_C, config, experts)).softmax(-1)


def plain_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Returns CE(v, y); `class_balanced` and `influence` multiply it by weights."""
    return cross_entropy(logits_BEC, labels_B)


def prior_shifted_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Returns CE(v + lambda_e log pi, y) for `prior` and CE(v + SADE's shift, y) for `sade`."""
    return cross_entropy(logits_BEC + logit_shifts(counts_C, config, logits_BEC.shape[1]), labels_B)


def focal_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Returns (1 - p_y)^gamma CE(v, y)."""
    loss_BE = cross_entropy(logits_BEC, labels_B)
    factor_BE = (-torch.expm1(-loss_BE)).clamp_min(MIN_FOCAL_FACTOR)
    return factor_BE**config.focal_gamma * loss_BE


def vector_scaling_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Returns the VS loss, CE((n_c / n_max)^gamma v_c + lambda_e log pi_c, y).

    The paper's tau is the prior strength lambda_e here, one for each expert.
    """
    counts_C = at_least_float32(counts_C).clamp_min(1)
    scale_C = (counts_C / counts_C.max()) ** config.vs_gamma
    shifts_EC = logit_shifts(counts_C, config, logits_BEC.shape[1])
    return cross_entropy(scale_C * logits_BEC + shifts_EC, labels_B)


def label_smoothing_loss(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Returns (1 - eps_y) CE(v, y) + eps_y mean_c CE(v, c): label-aware smoothing (MiSLAS).

    eps rises from the smallest to the largest class in MiSLAS' concave form. Where all counts are
    equal, all classes take that of the smallest.
    """
    counts_C = at_least_float32(counts_C).clamp_min(1)
    rank_C = (counts_C - counts_C.min()) / (counts_C.max() - counts_C.min()).clamp_min(1)
    rise_C = torch.sin(rank_C * torch.pi / 2)
    eps_C = config.smoothing_tail + (config.smoothing_head - config.smoothing_tail) * rise_C
    eps_B1 = eps_C[labels_B][:, None]
    own_BE = cross_entropy(logits_BEC, labels_B)
    return (1 - eps_B1) * own_BE - eps_B1 * logits_BEC.log_softmax(-1).mean(-1)


EXPERT_LOSSES: dict[str, ExpertLoss] = {
    "prior": prior_shifted_loss,
    "sade": prior_shifted_loss,
    "focal": focal_loss,
    "class_balanced": plain_loss,
    "vs": vector_scaling_loss,
    "influence": plain_loss,
    "smoothing": label_smoothing_loss,
}


def margins(counts_C: Tensor, margin: float) -> Tensor:
    """Returns the LDAM margins Delta_c = margin (n_min / n_c)^(1/4), [C]."""
    counts_C = at_least_float32(counts_C).clamp_min(1)
    return margin * (counts_C.min() / counts_C) ** 0.25


def subtract_margin(
    logits_BEC: Tensor, labels_B: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Returns the logits with s Delta_y subtracted from the true one, [B, E, C].

    The cosine classifier has already multiplied its logits by s.
    """
    if config.margin == 0:
        return logits_BEC
    margin_B = config.scale * margins(counts_C, config.margin)[labels_B]
    one_hot_BC = one_hot(labels_B, logits_BEC.shape[-1]).long()
    return logits_BEC - (margin_B[:, None] * one_hot_BC)[:, None, :]


def effective_weights(counts_C: Tensor, beta: float) -> Tensor:
    """Returns the weights of the effective number of samples, (1 - beta) / (1 - beta^n), [C].

    They are scaled to average 1 over the training rows.
    """
    n_C = at_least_float32(counts_C).clamp_min(1).double()
    weights_C = -1 / torch.expm1(n_C * torch.tensor(beta, dtype=torch.float64).log())
    return (weights_C / (weights_C * n_C / n_C.sum()).sum()).to(at_least_float32(counts_C).dtype)


def inverse_weights(counts_C: Tensor) -> Tensor:
    """Returns 1 / n, scaled to average 1 over the training rows, [C]."""
    n_C = at_least_float32(counts_C).clamp_min(1)
    return n_C.sum() / (len(n_C) * n_C)


def reweighting_has_started(config: LossConfig, progress: float) -> bool:
    """Returns whether class weights apply at this share of the training.

    Deferred re-weighting: with loss.drw > 0 they apply to the last `drw` share of it only.
    """
    return config.drw == 0 or progress >= 1 - config.drw


def class_weights(counts_C: Tensor, config: LossConfig, progress: float) -> Tensor:
    """Returns the weights of the classes, [C].

    They are 1 / n for `influence`, those of the effective number of samples for `class_balanced`
    and for every other loss with drw > 0, and 1 otherwise or before re-weighting has started.
    """
    if reweighting_has_started(config, progress):
        if config.name == "influence":
            return inverse_weights(counts_C)
        if config.name == "class_balanced" or config.drw > 0:
            return effective_weights(counts_C, config.effective_beta)
    return torch.ones_like(at_least_float32(counts_C))


def influence_weights(logits_BEC: Tensor, hidden_BEH: Tensor, labels_B: Tensor) -> Tensor:
    """Returns 1 / (|p - y|_1 mean|h|), a sample's inverse influence on the classifier, [B, E].

    Influence-balanced loss, ICCV 2021. No gradient flows through it, as in the paper's derivation:
    else the loss would fall by growing the features alone. The paper divides by the sum of |h| and
    multiplies by a hand-set 1000; the mean needs no such constant.
    """
    one_hot_B1C = one_hot(labels_B, logits_BEC.shape[-1]).long()[:, None, :]
    error_BE = (logits_BEC.detach().softmax(-1) - one_hot_B1C).abs().sum(-1)
    size_BE = at_least_float32(hidden_BEH.detach()).abs().mean(-1)
    if size_BE.shape != error_BE.shape:  # late and evidential fusion have one row of logits
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
    """Returns the loss named by config.name, with margin and weights, [B, E]."""
    labelled_B = labels_B >= 0
    labels_B = labels_B.clamp_min(0)
    logits_BEC = subtract_margin(at_least_float32(logits_BEC), labels_B, counts_C, config)
    loss_BE = EXPERT_LOSSES[config.name](logits_BEC, labels_B, counts_C, config)
    loss_BE = loss_BE * class_weights(counts_C, config, progress)[labels_B][:, None]
    if config.name == "influence" and reweighting_has_started(config, progress):
        loss_BE = loss_BE * influence_weights(logits_BEC, hidden_BEH, labels_B)
    return torch.where(labelled_B[:, None], loss_BE, 0.0)
