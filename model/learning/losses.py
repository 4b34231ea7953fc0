"""Every term of the training loss by name. Legend: B batch, M modalities, F folds, E experts, C classes.

Terms are sums over the rows divided by the number of rows: the mean over workers weighted by their rows is the global mean, and the
terms of two parts of a batch (see `restricted`) add up to those of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from model.batch import Batch
from model.config import WITHOUT_EXPERTS, ModelConfig
from model.fusion.confidence import held_out_logits
from model.learning.expert_losses import expert_loss, log_prior
from model.outputs import Outputs
from model.precision import at_least_float32


def loss_terms(
    outputs: Outputs, batch: Batch, counts_C: Tensor, config: ModelConfig, progress: float
) -> dict[str, Tensor]:
    """Weighted scalar terms whose sum is the loss; `progress` in 0..1 is the share of the training that is done."""
    rows = max(len(batch), 1)
    loss = (
        replace(config.loss, margin=0.0) if config.fusion.kind in WITHOUT_EXPERTS else config.loss
    )  # a margin is one between cosines

    def experts_B(labels_B: Tensor) -> Tensor:
        return expert_loss(
            outputs.logits_BEC, outputs.hidden_BEH, labels_B, counts_C, loss, progress
        ).mean(1)

    def alone_B(labels_B: Tensor) -> Tensor:
        return auxiliary_loss(
            outputs.auxiliary_BMFC, labels_B, batch.ranks_B, outputs.present_BM, counts_C
        )

    return {
        "classification": mix_over_labels(experts_B, batch).sum() / rows,
        "auxiliary": config.fusion.auxiliary_weight * mix_over_labels(alone_B, batch).sum() / rows,
        "confidence": config.fusion.confidence_weight
        * confidence_loss(outputs, batch).sum()
        / rows,
        "diversity": -config.loss.diversity
        * expert_diversity(outputs.logits_BEC, has_label(batch)).sum()
        / rows,
    }


def has_label(batch: Batch) -> Tensor:
    """[B] bool: rows with a label."""
    return batch.labels_B >= 0


def mix_over_labels(value_B: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """[B] share * value(y) + (1 - share) * value(partner) for rows that mixup or Remix has blended, else value(y)."""
    if batch.partners_B is None or batch.shares_B is None:
        return value_B(batch.labels_B)
    shares_B = at_least_float32(batch.shares_B)
    return shares_B * value_B(batch.labels_B) + (1 - shares_B) * value_B(batch.partners_B)


def auxiliary_loss(
    auxiliary_BMFC: Tensor, labels_B: Tensor, ranks_B: Tensor, present_BM: Tensor, counts_C: Tensor
) -> Tensor:
    """[B] sum over the modalities a row has of CE(u + log pi, y), the mean over the heads that may learn from it: all but its own fold's.

    A single head (F = 1) learns from every row: the in-sample confidence of the baselines.
    """
    folds = auxiliary_BMFC.shape[2]
    log_BMFC = (at_least_float32(auxiliary_BMFC) + log_prior(counts_C)).log_softmax(-1)
    index_BMF1 = labels_B.clamp_min(0)[:, None, None, None].expand(*log_BMFC.shape[:3], 1)
    loss_BMF = -log_BMFC.gather(-1, index_BMF1).squeeze(-1)
    learns_BF = ((ranks_B % folds)[:, None] != torch.arange(folds, device=ranks_B.device)) | (
        folds == 1
    )
    counted_BMF = present_BM[..., None] & learns_BF[:, None, :] & (labels_B >= 0)[:, None, None]
    return torch.where(counted_BMF, loss_BMF, 0.0).sum((1, 2)) / max(folds - 1, 1)


def mean_over_folds(auxiliary_BMFC: Tensor) -> Tensor:
    """[B, M, C] mean logits of the F heads: what is used for data that no head has learned from."""
    return auxiliary_BMFC.mean(2)


def true_class_probability(outputs: Outputs, batch: Batch, cross_fitted: bool = True) -> Tensor:
    """[B, M] probability that each modality alone gives to the true class, without gradient; 0 where absent or the label is unknown.

    Cross-fitted (training rows): from the head of the row's own fold. Otherwise (validation, test): from the mean of the heads.
    """
    auxiliary_BMFC = outputs.auxiliary_BMFC.detach()
    alone_BMC = (
        held_out_logits(auxiliary_BMFC, batch.ranks_B)
        if cross_fitted
        else mean_over_folds(auxiliary_BMFC)
    )
    posterior_BMC = at_least_float32(alone_BMC).softmax(-1)

    def of(labels_B: Tensor) -> Tensor:
        index_BM1 = labels_B.clamp_min(0)[:, None, None].expand(-1, posterior_BMC.shape[1], 1)
        return (
            posterior_BMC.gather(-1, index_BM1).squeeze(-1).T
        )  # [M, B]: `blended` works on the last axis

    return torch.where(
        outputs.present_BM & has_label(batch)[:, None], mix_over_labels(of, batch).T, 0.0
    )


def confidence_loss(outputs: Outputs, batch: Batch) -> Tensor:
    """[B] sum over the modalities a row has of (c - TCP)^2."""
    error_BM = at_least_float32(outputs.confidence_BM) - true_class_probability(outputs, batch)
    return torch.where(outputs.present_BM & has_label(batch)[:, None], error_BM**2, 0.0).sum(1)


def expert_diversity(logits_BEC: Tensor, known_B: Tensor) -> Tensor:
    """[B] mean over the experts of KL(softmax of the mean logits || expert): RIDE's diversity, at temperature 1, the mean held constant.

    Rewarded with a weight below 1 it is outweighed by the cross-entropy wherever an expert denies the true class; from 1 on it may diverge.
    """
    log_BEC = at_least_float32(logits_BEC).log_softmax(-1)
    log_mean_B1C = at_least_float32(logits_BEC).detach().mean(1, keepdim=True).log_softmax(-1)
    divergence_BE = (log_mean_B1C.exp() * (log_mean_B1C - log_BEC)).sum(-1)
    return torch.where(known_B, divergence_BE.mean(1), 0.0)


def tail_rows(batch: Batch, counts_C: Tensor) -> Tensor:
    """[B] bool: labelled rows of the classes with fewer training rows than the mean class: the part that ImbSAM flattens.

    The authors' code sets the bound by hand (20 rows); the mean fits data of any size, and no class is in the tail of balanced data.
    """
    return has_label(batch) & (counts_C < counts_C.mean())[batch.labels_B.clamp_min(0)]


def keep_labels_of(batch: Batch, kept_B: Tensor) -> Batch:
    """The batch in which only the kept rows count in the loss; the network still sees all of them."""
    partners_B = None if batch.partners_B is None else batch.partners_B.where(kept_B, -1)
    return batch.replace(labels_B=batch.labels_B.where(kept_B, -1), partners_B=partners_B)


def remix_share(
    lam: Tensor, counts_y: Tensor, counts_partner: Tensor, kappa: float, tau: float
) -> Tensor:
    """Remix: the label's share is the blend's lam, but the rarer label of a pair takes all of it.

    That is when the counts differ kappa-fold and the more frequent record's part of the blend is below tau.
    """
    partner_wins = (counts_y >= kappa * counts_partner) & (lam < tau)
    label_wins = (counts_partner >= kappa * counts_y) & (1 - lam < tau)
    return torch.where(partner_wins, 0.0, torch.where(label_wins, 1.0, lam))
