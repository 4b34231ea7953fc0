"""Estimates for every record how informative each of its modalities is.

The confidence of a modality is the probability that the modality alone gives to the true class,
which a small network predicts from the embedding.

Legend: B batch, N validation rows, M modalities, D embedding, F folds, C classes, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import FusionConfig
from model.one_hot import one_hot


def held_out_logits(auxiliary_BMFC: Tensor, ranks_B: Tensor) -> Tensor:
    """Returns the logits of the head that has not learned from the record, [B, M, C].

    That is the head of the record's own fold, which is the remainder of its rank by F.
    """
    folds = auxiliary_BMFC.shape[2]
    index_B = (ranks_B % folds)[:, None, None, None].expand(
        -1, auxiliary_BMFC.shape[1], 1, auxiliary_BMFC.shape[3]
    )
    return auxiliary_BMFC.gather(2, index_B).squeeze(2)


class AuxiliaryHeads(nn.Module):
    """F linear classifiers on the embedding of each modality alone, for cross-fitting."""

    def __init__(self, modalities: int, folds: int, dim: int, classes: int) -> None:
        super().__init__()
        self.weight_MFDC = nn.Parameter(torch.randn(modalities, folds, dim, classes) * dim**-0.5)
        self.bias_MFC = nn.Parameter(torch.zeros(modalities, folds, classes))

    def forward(self, embeddings_BMD: Tensor) -> Tensor:
        """Returns the logits of all heads, [B, M, F, C]."""
        return torch.einsum("bmd,mfdc->bmfc", embeddings_BMD, self.weight_MFDC) + self.bias_MFC


class ConfidenceHeads(nn.Module):
    """A small network for each modality that predicts its true-class probability.

    joint: it sees the embeddings of the other modalities too, so that it can notice when they
        contradict its own.
    """

    def __init__(self, modalities: int, dim: int, hidden: int = 32, joint: bool = False) -> None:
        super().__init__()
        self.weight_MDH = nn.Parameter(torch.randn(modalities, dim, hidden) * (2 / dim) ** 0.5)
        self.bias_MH = nn.Parameter(torch.zeros(modalities, hidden))
        self.weight_MH = nn.Parameter(torch.zeros(modalities, hidden))
        self.bias_M = nn.Parameter(torch.zeros(modalities))
        self.others = (
            nn.Linear(modalities * dim, modalities * hidden, bias=False)
            if joint and modalities > 1
            else None
        )

    def forward(self, embeddings_BMD: Tensor, visible_BM: Tensor) -> Tensor:
        """Returns the confidences, [B, M] in (0, 1).

        A modality that is not visible has no influence on the others' confidences.
        """
        hidden_BMH = torch.einsum("bmd,mdh->bmh", embeddings_BMD, self.weight_MDH) + self.bias_MH
        if self.others is not None:
            visible_BMD = torch.where(visible_BM[..., None], embeddings_BMD, 0.0)
            hidden_BMH = hidden_BMH + self.others(visible_BMD.flatten(1)).view_as(hidden_BMH)
        return torch.sigmoid((torch.relu(hidden_BMH) * self.weight_MH).sum(-1) + self.bias_M)


class RunningConfidence(nn.Module):
    """Running means of the true-class probability, and the shrinkage of confidences towards them.

    On training rows a confidence may be too high even when it is cross-fitted, because the encoder
    has learned from the row that the head has not. The validation rows, from which nothing learns,
    show by how much: see `correct_on_validation`.
    """

    mean_MC: Tensor  # running mean of each modality over the rows of each class
    rows_MC: Tensor  # training rows in each of these means
    validation_mean_M: Tensor  # class-balanced mean over validation
    bias_M: Tensor  # class-balanced mean of confidence - true-class probability on validation
    corrected_M: Tensor  # bool: whether validation has given the two before

    def __init__(self, modalities: int, classes: int, config: FusionConfig) -> None:
        super().__init__()
        self.momentum, self.shrinkage = config.momentum, config.shrinkage
        self.register_buffer("mean_MC", torch.zeros(modalities, classes))
        self.register_buffer("rows_MC", torch.zeros(modalities, classes))
        self.register_buffer("validation_mean_M", torch.zeros(modalities))
        self.register_buffer("bias_M", torch.zeros(modalities))
        self.register_buffer("corrected_M", torch.zeros(modalities, dtype=torch.bool))

    def balanced_mean(self) -> Tensor:
        """Returns the class-balanced mean of each modality, [M].

        It is that of validation, before a first validation the running one over the classes that
        have come up so far, and 0.5 before any.
        """
        has_rows_MC = self.rows_MC > 0
        sum_M = (self.mean_MC * has_rows_MC).sum(1)
        running_M = torch.where(has_rows_MC.any(1), sum_M / has_rows_MC.sum(1).clamp_min(1), 0.5)
        return torch.where(self.corrected_M, self.validation_mean_M, running_M)

    def shrink(
        self, confidence_BM: Tensor, posterior_BMC: Tensor, present_BM: Tensor, counts_C: Tensor
    ) -> Tensor:
        """Returns c tilde = s (c - bias) + (1 - s) balanced mean, [B, M].

        s = n / (n + kappa), where n is the number of training rows of the record's class, expected
        under the mean of its modalities' posteriors.
        """
        present_BM1 = present_BM[..., None].float()
        posterior_BC = (posterior_BMC * present_BM1).sum(1) / present_BM1.sum(1).clamp_min(1)
        count_B1 = (posterior_BC @ counts_C.to(posterior_BC.dtype))[:, None]
        s_B1 = count_B1 / (count_B1 + self.shrinkage).clamp_min(1e-12)
        return s_B1 * (confidence_BM - self.bias_M).clamp(0, 1) + (1 - s_B1) * self.balanced_mean()

    @torch.no_grad()
    def correct_on_validation(
        self, confidence_NM: Tensor, true_NM: Tensor, present_NM: Tensor, labels_N: Tensor
    ) -> None:
        """Takes the mean true-class probability and the bias of the confidences from validation.

        Both are class-balanced. A modality that no validation row has keeps its values.
        """
        one_hot_NC = self._one_hot(labels_N, torch.float32)
        weights_NM = present_NM.float()
        count_MC = weights_NM.T @ one_hot_NC
        for buffer_M, values_NM in (
            (self.validation_mean_M, true_NM),
            (self.bias_M, confidence_NM - true_NM),
        ):
            mean_MC = (values_NM * weights_NM).T @ one_hot_NC / count_MC.clamp_min(1)
            classes_M = (count_MC > 0).sum(1)
            buffer_M.copy_(
                torch.where(classes_M > 0, mean_MC.sum(1) / classes_M.clamp_min(1), buffer_M)
            )
        self.corrected_M |= (count_MC > 0).any(1)

    @torch.no_grad()
    def update(
        self,
        true_BM: Tensor,
        present_BM: Tensor,
        labels_B: Tensor,
        sum_over_workers: Callable[[Tensor], Tensor],
    ) -> None:
        """Updates the running means with one training batch.

        sum_over_workers: adds up sums and counts of all workers, before they are divided.
        """
        one_hot_BC = self._one_hot(labels_B, true_BM.dtype)
        weights_BM = present_BM.to(true_BM.dtype)
        sums = torch.stack([(true_BM * weights_BM).T @ one_hot_BC, weights_BM.T @ one_hot_BC])
        total_MC, count_MC = sum_over_workers(sums).unbind()
        rate_MC = torch.where(
            self.rows_MC > 0, 1 - (1 - self.momentum) ** count_MC, (count_MC > 0).float()
        )
        self.mean_MC += rate_MC * (total_MC / count_MC.clamp_min(1) - self.mean_MC)
        self.rows_MC += count_MC

    def _one_hot(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the labels as rows of zeros and a one; only zeros where a label is unknown."""
        return one_hot(labels, self.mean_MC.shape[1]).to(dtype)
