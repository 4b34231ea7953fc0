"""Every term of the training loss by name.

Terms are sums over the rows divided by the number of rows: the mean over workers weighted by their
rows is the global mean, and the terms of two parts of a batch (see `keep_labels_of`) add up to
those of the whole.

Legend: B batch, M modalities, T tables, F folds, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from model.batch import Batch
from model.config import WITHOUT_EXPERTS, LossConfig, ModelConfig
from model.fusion.confidence import held_out_logits
from model.learning.expert_losses import expert_loss, log_prior, logit_shifts
from model.outputs import Outputs, SubsetAnswers
from model.precision import at_least_float32


def loss_terms(
    outputs: Outputs, batch: Batch, counts_C: Tensor, config: ModelConfig, progress: float
) -> dict[str, Tensor]:
    """Returns the weighted scalar terms whose sum is the loss.

    counts_C: training rows of every class, those that are not trusted left out.
    progress: share of the training that is done, 0 to 1.
    """
    rows = max(len(batch), 1)
    loss = config.loss
    if config.fusion.kind in WITHOUT_EXPERTS:  # a margin needs logits that are cosines
        loss = replace(loss, margin=0.0)

    def experts_B(labels_B: Tensor) -> Tensor:
        loss_BE = expert_loss(
            outputs.logits_BEC, outputs.hidden_BEH, labels_B, counts_C, loss, progress
        )
        return loss_BE.mean(1)

    def alone_B(labels_B: Tensor) -> Tensor:
        return auxiliary_loss(
            outputs.auxiliary_BMFC, labels_B, batch.ranks_B, batch.intact_BM, counts_C
        )

    classification_B = mix_trusted(experts_B, batch)
    if batch.teacher_BC is not None:
        taught_B = teacher_loss(outputs.logits_BEC, batch.teacher_BC, counts_C, loss)
        classification_B = torch.lerp(classification_B, taught_B, loss.teacher_weight)
    terms = {
        "classification": classification_B.sum() / rows,
        "auxiliary": config.fusion.auxiliary_weight * mix_trusted(alone_B, batch).sum() / rows,
        "confidence": config.fusion.confidence_weight
        * confidence_loss(outputs, batch).sum()
        / rows,
        "diversity": -config.loss.diversity
        * expert_diversity(outputs.logits_BEC, has_label(batch)).sum()
        / rows,
    }
    if outputs.subsets is not None:
        answers = outputs.subsets

        def subsets_B(labels_B: Tensor) -> Tensor:
            return subset_loss(answers, batch.intact_BM, labels_B, counts_C, loss, progress)

        weight = config.fusion.subset_weight
        terms["subsets"] = weight * mix_trusted(subsets_B, batch).sum() / rows
        terms["plausibility"] = plausibility_loss(answers, batch).sum() / rows
        terms["trust"] = config.fusion.trust_weight * trust_loss(answers, batch).sum() / rows
    return terms


def teacher_loss(
    logits_BEC: Tensor, teacher_BC: Tensor, counts_C: Tensor, config: LossConfig
) -> Tensor:
    """Returns CE(v + shift, teacher), the mean over the experts, [B].

    The shifted logits learn the posterior at the class prior of the training rows, as they do from
    labels; the teacher's answers are at that prior.
    """
    shifts_EC = logit_shifts(counts_C, config, logits_BEC.shape[1])
    log_BEC = (at_least_float32(logits_BEC) + shifts_EC).log_softmax(-1)
    return -(at_least_float32(teacher_BC).exp()[:, None] * log_BEC).sum(-1).mean(1)


def subset_loss(
    answers: SubsetAnswers,
    intact_BM: Tensor,
    labels_B: Tensor,
    counts_C: Tensor,
    config: LossConfig,
    progress: float,
) -> Tensor:
    """Returns the mean loss of the answers from subsets without absent or spoilt members, [B]."""
    subsets = answers.logits_BSEC.shape[1]
    counted_BS = ~(answers.members_BSM & ~intact_BM[:, None]).any(-1)
    logits_NEC, hidden_NEH = answers.logits_BSEC.flatten(0, 1), answers.hidden_BSEH.flatten(0, 1)
    labels_N = labels_B.repeat_interleave(subsets)  # N = B * S
    loss_NE = expert_loss(logits_NEC, hidden_NEH, labels_N, counts_C, config, progress)
    loss_BS = loss_NE.mean(1).view(-1, subsets)
    return torch.where(counted_BS, loss_BS, 0.0).sum(1) / counted_BS.sum(1).clamp_min(1)


def trust_loss(answers: SubsetAnswers, batch: Batch) -> Tensor:
    """Returns the cross-entropy of the trust against which modalities are spoilt, [B].

    It is 0 where no record is spoilt on purpose: there is nothing to learn from. How far a degraded
    image can be trusted is learned from the loss of the answers alone.
    """
    trust_BM = at_least_float32(answers.trust_BM)
    if batch.spoilt_BM is None:
        return trust_BM.sum(1) * 0
    loss_BM = binary_cross_entropy_with_logits(
        trust_BM, (~batch.spoilt_BM).to(trust_BM.dtype), reduction="none"
    )
    counted_BM = batch.present_BM & has_label(batch)[:, None]
    if batch.degraded_BM is not None:
        counted_BM = counted_BM & (batch.spoilt_BM | ~batch.degraded_BM)
    return torch.where(counted_BM, loss_BM, 0.0).sum(1)


def plausibility_loss(answers: SubsetAnswers, batch: Batch) -> Tensor:
    """Returns the cross-entropy of telling rows of tables from unrelated cells, [B].

    Tables that are absent or spoilt on purpose do not count, nor do rows without a label, which
    stand for those of another part of the batch.
    """
    related_BT = at_least_float32(answers.plausible_BT)
    if answers.unrelated_BT is None or not related_BT.shape[1]:
        return related_BT.sum(1) * 0
    loss_BT = (softplus(-related_BT) + softplus(at_least_float32(answers.unrelated_BT))) / 2
    counted_BT = batch.intact_BM[:, -loss_BT.shape[1] :] & has_label(batch)[:, None]
    return torch.where(counted_BT, loss_BT, 0.0).sum(1)


def has_label(batch: Batch) -> Tensor:
    """Returns whether a row has a label, [B]."""
    return batch.labels_B >= 0


def mix_over_labels(value_B: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """Returns value(y), or share * value(y) + (1 - share) * value(partner) where rows are blended.

    value_B: computes a value of each row from labels, [B] or with more axes before the last.
    """
    if batch.partners_B is None or batch.shares_B is None:
        return value_B(batch.labels_B)
    shares_B = at_least_float32(batch.shares_B)
    return shares_B * value_B(batch.labels_B) + (1 - shares_B) * value_B(batch.partners_B)


def mix_trusted(loss_B: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """Returns the loss of each row as mix_over_labels does, each label as far as it is trusted."""
    if batch.trust_B is None:
        return mix_over_labels(loss_B, batch)
    own_B = batch.trust_B * loss_B(batch.labels_B)
    if batch.partners_B is None or batch.shares_B is None or batch.partners_trust_B is None:
        return own_B
    partner_B = batch.partners_trust_B * loss_B(batch.partners_B)
    shares_B = at_least_float32(batch.shares_B)
    return shares_B * own_B + (1 - shares_B) * partner_B


def auxiliary_loss(
    auxiliary_BMFC: Tensor, labels_B: Tensor, ranks_B: Tensor, present_BM: Tensor, counts_C: Tensor
) -> Tensor:
    """Returns the sum over the present modalities of CE(u + log pi, y), [B].

    It is the mean over the heads that may learn from the row: all but that of its own fold. A
    single head (F = 1) learns from every row, which is the in-sample confidence of the baselines.
    """
    folds = auxiliary_BMFC.shape[2]
    log_BMFC = (at_least_float32(auxiliary_BMFC) + log_prior(counts_C)).log_softmax(-1)
    index_BMF1 = labels_B.clamp_min(0)[:, None, None, None].expand(*log_BMFC.shape[:3], 1)
    loss_BMF = -log_BMFC.gather(-1, index_BMF1).squeeze(-1)
    other_fold_BF = (ranks_B % folds)[:, None] != torch.arange(folds, device=ranks_B.device)
    learns_BF = other_fold_BF | (folds == 1)
    counted_BMF = present_BM[..., None] & learns_BF[:, None, :] & (labels_B >= 0)[:, None, None]
    return torch.where(counted_BMF, loss_BMF, 0.0).sum((1, 2)) / max(folds - 1, 1)


def mean_over_folds(auxiliary_BMFC: Tensor) -> Tensor:
    """Returns the mean logits of the F heads, for rows that no head has learned from, [B, M, C]."""
    return auxiliary_BMFC.mean(2)


def true_class_probability(outputs: Outputs, batch: Batch, cross_fitted: bool = True) -> Tensor:
    """Returns the probability that each modality alone gives to the true class, [B, M].

    It has no gradient, and is 0 where the modality is absent or the label unknown.

    cross_fitted: the rows are training rows; take the head of each row's own fold, which has not
        learned from it. Otherwise (validation, test) take the mean of the heads.
    """
    auxiliary_BMFC = outputs.auxiliary_BMFC.detach()
    if cross_fitted:
        alone_BMC = held_out_logits(auxiliary_BMFC, batch.ranks_B)
    else:
        alone_BMC = mean_over_folds(auxiliary_BMFC)
    posterior_BMC = at_least_float32(alone_BMC).softmax(-1)

    def probability_MB(labels_B: Tensor) -> Tensor:  # `mix_over_labels` works on the last axis
        index_BM1 = labels_B.clamp_min(0)[:, None, None].expand(-1, posterior_BMC.shape[1], 1)
        return posterior_BMC.gather(-1, index_BM1).squeeze(-1).T

    counted_BM = outputs.present_BM & has_label(batch)[:, None]
    return torch.where(counted_BM, mix_over_labels(probability_MB, batch).T, 0.0)


def confidence_loss(outputs: Outputs, batch: Batch) -> Tensor:
    """Returns the sum over the present modalities of (c - true-class probability)^2, [B]."""
    error_BM = at_least_float32(outputs.confidence_BM) - true_class_probability(outputs, batch)
    return torch.where(outputs.present_BM & has_label(batch)[:, None], error_BM**2, 0.0).sum(1)


def expert_diversity(logits_BEC: Tensor, labelled_B: Tensor) -> Tensor:
    """Returns the mean over the experts of KL(softmax of the mean logits || expert), [B].

    This is RIDE's diversity at temperature 1, without a gradient through the mean. It is rewarded:
    with a weight below 1 the cross-entropy outweighs it wherever an expert denies the true class;
    from 1 on the loss may diverge.
    """
    log_BEC = at_least_float32(logits_BEC).log_softmax(-1)
    log_mean_B1C = at_least_float32(logits_BEC).detach().mean(1, keepdim=True).log_softmax(-1)
    divergence_BE = (log_mean_B1C.exp() * (log_mean_B1C - log_BEC)).sum(-1)
    return torch.where(labelled_B, divergence_BE.mean(1), 0.0)


def tail_rows(batch: Batch, counts_C: Tensor) -> Tensor:
    """Returns whether a row has a label of the tail, whose part of the loss ImbSAM flattens, [B].

    The tail are the classes with fewer training rows than the mean class. The authors' code sets
    the bound by hand (20 rows); the mean fits data of any size, and balanced data have no tail.
    """
    return has_label(batch) & (counts_C < counts_C.mean())[batch.labels_B.clamp_min(0)]


def keep_labels_of(batch: Batch, kept_B: Tensor) -> Batch:
    """Returns the batch with the labels of the other rows removed, so that the loss skips them."""
    partners_B = None if batch.partners_B is None else batch.partners_B.where(kept_B, -1)
    return batch.replace(labels_B=batch.labels_B.where(kept_B, -1), partners_B=partners_B)


def remix_share(
    share_B: Tensor, counts_B: Tensor, partner_counts_B: Tensor, kappa: float, tau: float
) -> Tensor:
    """Returns Remix's share of a record's own label in the loss, [B].

    It is the record's share of the blend, but the rarer label of a pair takes all of it where the
    classes' counts differ kappa-fold and the more frequent record's share is below tau.
    """
    partner_wins_B = (counts_B >= kappa * partner_counts_B) & (share_B < tau)
    own_wins_B = (partner_counts_B >= kappa * counts_B) & (1 - share_B < tau)
    return torch.where(partner_wins_B, 0.0, torch.where(own_wins_B, 1.0, share_B))
