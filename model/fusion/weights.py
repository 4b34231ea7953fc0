"""From modality embeddings and confidences to one fused vector. Legend: B batch, M modalities, D embedding, C classes, Z = M * D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import FusionConfig

MIN_CONFIDENCE = 1e-3  # confidence that the logarithm sees at least


def fusion_scores(
    confidence_BM: Tensor, visible_BM: Tensor, config: FusionConfig, classes: int
) -> Tensor:
    """[B, M] what the softmax of the weights sees of the confidences, by fusion.score.

    surplus: the log of r^4 / (r^4 + half^4), r being the confidence above chance as a share of the record's best one. A modality that tells
    nothing gets no weight, and all that tell something much the same: a weaker one that tells other things is not silenced by a stronger.
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
    """Softmax of scores / tau over the modalities a sample has; all zero where it has none."""
    scores_BM = (scores_BM.float() / temperature).masked_fill(~visible_BM, -torch.inf)
    return torch.nan_to_num(scores_BM.softmax(1), nan=0.0)


def embedding_gains(weights_BM: Tensor, visible_BM: Tensor, normalise: str) -> Tensor:
    """Scale of every embedding: `sum` adds up to the number of modalities there, equal weights are 1 each; `max` gives the best one 1."""
    if normalise == "max":
        return weights_BM / weights_BM.amax(1, keepdim=True).clamp_min(1e-12)
    return weights_BM * visible_BM.sum(1, keepdim=True)


class Gate(nn.Module):
    """Weights learned end to end from all embeddings, without a true-class probability."""

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(modalities * dim, modalities)

    def forward(self, embeddings_BMD: Tensor, visible_BM: Tensor) -> Tensor:
        seen_BMD = torch.where(visible_BM[..., None], embeddings_BMD, 0.0)
        return confidence_weights(self.score(seen_BMD.flatten(1)), visible_BM, 1.0)


class Concatenate(nn.Module):
    """z = concat(g_m h_m), with a learned vector in the place of a modality that is not there."""

    def __init__(self, modalities: int, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.normalise = config.normalise
        self.absent_MD = nn.Parameter(torch.zeros(modalities, dim))

    def forward(self, embeddings_BMD: Tensor, weights_BM: Tensor, visible_BM: Tensor) -> Tensor:
        gains_BM = embedding_gains(weights_BM, visible_BM, self.normalise).to(embeddings_BMD.dtype)
        return torch.where(
            visible_BM[..., None],
            gains_BM[..., None] * embeddings_BMD,
            self.absent_MD.to(embeddings_BMD.dtype),
        ).flatten(1)


def late_logits(auxiliary_BMC: Tensor, weights_BM: Tensor) -> Tensor:
    """[B, C]: confidence-weighted mean of what the modalities say alone; the heads learn from their own loss only."""
    return (auxiliary_BMC.detach().float() * weights_BM[..., None]).sum(1)


def evidential_logits(auxiliary_BMC: Tensor, visible_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Dempster-Shafer combination of Dirichlet evidence: [B, C] log expected probability, [B, M] weights (normalised 1 - uncertainty)."""
    evidence_BMC = (
        nn.functional.softplus(auxiliary_BMC.float()) * visible_BM[..., None]
    )  # an absent modality is vacuous
    classes = evidence_BMC.shape[-1]
    strength_BM1 = evidence_BMC.sum(-1, keepdim=True) + classes
    belief_BMC, doubt_BM1 = evidence_BMC / strength_BM1, classes / strength_BM1
    belief_BC, doubt_B1 = belief_BMC[:, 0], doubt_BM1[:, 0]
    for m in range(1, evidence_BMC.shape[1]):  # the rule combines two sources; modalities are few
        agreed_BC = (
            belief_BC * belief_BMC[:, m] + belief_BC * doubt_BM1[:, m] + belief_BMC[:, m] * doubt_B1
        )
        both_B1 = doubt_B1 * doubt_BM1[:, m]
        scale_B1 = (agreed_BC.sum(1, keepdim=True) + both_B1).clamp_min(1e-12)  # 1 - conflict
        belief_BC, doubt_B1 = agreed_BC / scale_B1, both_B1 / scale_B1
    expected_BC = belief_BC + doubt_B1 / classes
    trust_BM = (1 - doubt_BM1.squeeze(-1)) * visible_BM
    return expected_BC.clamp_min(1e-12).log(), trust_BM / trust_BM.sum(1, keepdim=True).clamp_min(
        1e-12
    )
