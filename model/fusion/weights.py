"""Combines the modalities of a record: fusion weights, concatenation, gate, late and evidential.

Legend: B batch, M modalities, D embedding, C classes, Z = M * D fused features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import FusionConfig

MIN_CONFIDENCE = 1e-3  # smaller confidences count as this, so that the logarithm is finite


def fusion_scores(
    confidence_BM: Tensor, visible_BM: Tensor, config: FusionConfig, classes: int
) -> Tensor:
    """Returns the logits of the fusion weights by fusion.score, [B, M].

    surplus: log of r^4 / (r^4 + half^4), where r is the modality's confidence above chance as a
    share of the record's best one. An uninformative modality gets no weight, and all informative
    ones nearly the same: a weaker modality, which may hold other information, keeps its weight
    beside a stronger one.
    """
    confidence_BM = confidence_BM.float()
    if config.score == "level":
        return confidence_BM
    if config.score == "share":
        return confidence_BM.clamp_min(MIN_CONFIDENCE).log()
    surplus_BM = ((confidence_BM - 1 / classes) / (1 - 1 / classes)).clamp_min(MIN_CONFIDENCE)
    best_B1 = surplus_BM.masked_fill(~visible_BM, 0.0).amax(1, keepdim=True)
    return -torch.log1p((config.half_weight_at * best_B1 / surplus_BM) ** 4)


def confidence_weights(scores_BM: Tensor, visible_BM: Tensor, temperature: float) -> Tensor:
    """Returns the softmax of scores / tau over the visible modalities; 0 where there are none."""
    scores_BM = (scores_BM.float() / temperature).masked_fill(~visible_BM, -torch.inf)
    return torch.nan_to_num(scores_BM.softmax(1), nan=0.0)


def embedding_gains(weights_BM: Tensor, visible_BM: Tensor, normalise: str) -> Tensor:
    """Returns the factor of every embedding by fusion.normalise, [B, M].

    sum: the factors add up to the number of visible modalities, so equal weights give 1 each.
    max: the largest factor is 1.
    """
    if normalise == "max":
        return weights_BM / weights_BM.amax(1, keepdim=True).clamp_min(1e-12)
    return weights_BM * visible_BM.sum(1, keepdim=True)


class Gate(nn.Module):
    """Fusion weights that are learned from all embeddings, without confidences."""

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(modalities * dim, modalities)

    def forward(self, embeddings_BMD: Tensor, visible_BM: Tensor) -> Tensor:
        """Returns the weights, [B, M]; a modality that is not visible has no influence."""
        visible_BMD = torch.where(visible_BM[..., None], embeddings_BMD, 0.0)
        return confidence_weights(self.score(visible_BMD.flatten(1)), visible_BM, 1.0)


class Concatenate(nn.Module):
    """Concatenates the weighted embeddings, z = concat(g_m h_m).

    A learned vector stands for a modality that is not visible.
    """

    def __init__(self, modalities: int, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.normalise = config.normalise
        self.absent_MD = nn.Parameter(torch.zeros(modalities, dim))

    def forward(self, embeddings_BMD: Tensor, weights_BM: Tensor, visible_BM: Tensor) -> Tensor:
        """Returns z, [B, Z]."""
        gains_BM = embedding_gains(weights_BM, visible_BM, self.normalise).to(embeddings_BMD.dtype)
        return torch.where(
            visible_BM[..., None],
            gains_BM[..., None] * embeddings_BMD,
            self.absent_MD.to(embeddings_BMD.dtype),
        ).flatten(1)


def late_logits(auxiliary_BMC: Tensor, weights_BM: Tensor) -> Tensor:
    """Returns the weighted mean of the logits that the modalities have alone, [B, C].

    It gives no gradient to the auxiliary heads, which learn from their own loss only.
    """
    return (auxiliary_BMC.detach().float() * weights_BM[..., None]).sum(1)


def evidential_logits(auxiliary_BMC: Tensor, visible_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Combines the modalities' Dirichlet evidence by Dempster and Shafer's rule.

    Returns the log of the expected probabilities, [B, C], and weights, [B, M], which are
    1 - uncertainty of each modality, scaled to sum to 1. An absent modality has no evidence.
    """
    evidence_BMC = nn.functional.softplus(auxiliary_BMC.float()) * visible_BM[..., None]
    classes = evidence_BMC.shape[-1]
    strength_BM1 = evidence_BMC.sum(-1, keepdim=True) + classes
    belief_BMC, uncertainty_BM1 = evidence_BMC / strength_BM1, classes / strength_BM1
    belief_BC, uncertainty_B1 = belief_BMC[:, 0], uncertainty_BM1[:, 0]
    for m in range(1, evidence_BMC.shape[1]):  # the rule combines two sources at a time
        agreed_BC = (
            belief_BC * belief_BMC[:, m]
            + belief_BC * uncertainty_BM1[:, m]
            + belief_BMC[:, m] * uncertainty_B1
        )
        both_uncertain_B1 = uncertainty_B1 * uncertainty_BM1[:, m]
        # What the two sources do not contradict each other in: 1 - conflict.
        scale_B1 = (agreed_BC.sum(1, keepdim=True) + both_uncertain_B1).clamp_min(1e-12)
        belief_BC, uncertainty_B1 = agreed_BC / scale_B1, both_uncertain_B1 / scale_B1
    expected_BC = belief_BC + uncertainty_B1 / classes
    certainty_BM = (1 - uncertainty_BM1.squeeze(-1)) * visible_BM
    weights_BM = certainty_BM / certainty_BM.sum(1, keepdim=True).clamp_min(1e-12)
    return expected_BC.clamp_min(1e-12).log(), weights_BM
