"""How informative each modality is for this sample. Legend: B batch, M modalities, D embedding, F folds, C classes, H hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import FusionConfig


def held_out_logits(auxiliary_BMFC: Tensor, ranks_B: Tensor) -> Tensor:
    """[B, M, C]: each sample's logits from the head of its own fold, which has not learned from it."""
    folds = auxiliary_BMFC.shape[2]
    index_B = (ranks_B % folds)[:, None, None, None].expand(
        -1, auxiliary_BMFC.shape[1], 1, auxiliary_BMFC.shape[3]
    )
    return auxiliary_BMFC.gather(2, index_B).squeeze(2)


class AuxiliaryHeads(nn.Module):
    """F linear classifiers on every modality's own embedding, all in one operation."""

    def __init__(self, modalities: int, folds: int, dim: int, classes: int) -> None:
        super().__init__()
        self.weight_MFDC = nn.Parameter(torch.randn(modalities, folds, dim, classes) * dim**-0.5)
        self.bias_MFC = nn.Parameter(torch.zeros(modalities, folds, classes))

    def forward(self, embeddings_BMD: Tensor) -> Tensor:
        return torch.einsum("bmd,mfdc->bmfc", embeddings_BMD, self.weight_MFDC) + self.bias_MFC


class ConfidenceHeads(nn.Module):
    """A small network a modality: embedding -> expected true-class probability in (0, 1)."""

    def __init__(self, modalities: int, dim: int, hidden: int = 32) -> None:
        super().__init__()
        self.weight_MDH = nn.Parameter(torch.randn(modalities, dim, hidden) * (2 / dim) ** 0.5)
        self.bias_MH = nn.Parameter(torch.zeros(modalities, hidden))
        self.weight_MH = nn.Parameter(torch.zeros(modalities, hidden))
        self.bias_M = nn.Parameter(torch.zeros(modalities))

    def forward(self, embeddings_BMD: Tensor) -> Tensor:
        hidden_BMH = torch.relu(
            torch.einsum("bmd,mdh->bmh", embeddings_BMD, self.weight_MDH) + self.bias_MH
        )
        return torch.sigmoid((hidden_BMH * self.weight_MH).sum(-1) + self.bias_M)


class RunningConfidence(nn.Module):
    """Per-modality, per-class running mean of the true-class probability, and the shrinkage towards its class-balanced mean.

    On training rows a confidence may rise above the truth even when cross-fitted: the encoder has learned from the row that its head has
    not. Rows that nothing has learned from, those of validation, say by how much: see `correct_on_validation`.
    """

    mean_MC: Tensor
    rows_MC: Tensor
    validation_mean_M: Tensor
    bias_M: Tensor
    corrected_M: Tensor

    def __init__(self, modalities: int, classes: int, config: FusionConfig) -> None:
        super().__init__()
        self.momentum, self.shrinkage = config.momentum, config.shrinkage
        self.register_buffer("mean_MC", torch.zeros(modalities, classes))
        self.register_buffer("rows_MC", torch.zeros(modalities, classes))
        self.register_buffer("validation_mean_M", torch.zeros(modalities))
        self.register_buffer("bias_M", torch.zeros(modalities))
        self.register_buffer("corrected_M", torch.zeros(modalities, dtype=torch.bool))

    def balanced_mean(self) -> Tensor:
        """[M]: mean over the classes seen so far of their means, running or on validation; 0.5 before any."""
        rows_MC = self.rows_MC > 0
        running_M = torch.where(
            rows_MC.any(1), (self.mean_MC * rows_MC).sum(1) / rows_MC.sum(1).clamp_min(1), 0.5
        )
        return torch.where(self.corrected_M, self.validation_mean_M, running_M)

    def shrink(
        self, confidence_BM: Tensor, posterior_BMC: Tensor, present_BM: Tensor, counts_C: Tensor
    ) -> Tensor:
        """c tilde = s (c - bias) + (1 - s) balanced mean, s = n / (n + kappa), n the training count expected from the mean posterior."""
        present_BM1 = present_BM[..., None].float()
        posterior_BC = (posterior_BMC * present_BM1).sum(1) / present_BM1.sum(1).clamp_min(1)
        count_B1 = (posterior_BC @ counts_C.to(posterior_BC.dtype))[:, None]
        s_B1 = count_B1 / (count_B1 + self.shrinkage).clamp_min(1e-12)
        return s_B1 * (confidence_BM - self.bias_M).clamp(0, 1) + (1 - s_B1) * self.balanced_mean()

    @torch.no_grad()
    def correct_on_validation(
        self, confidence_NM: Tensor, true_NM: Tensor, present_NM: Tensor, labels_N: Tensor
    ) -> None:
        """Class-balanced means over validation: of the true-class probability, and of what the confidences are above it.

        A modality that no row of validation has stays as it is.
        """
        one_hot_NC = (
            nn.functional.one_hot(labels_N.clamp_min(0), self.mean_MC.shape[1])
            * (labels_N >= 0)[:, None]
        ).float()
        there_NM = present_NM.float()
        count_MC = there_NM.T @ one_hot_NC
        for buffer_M, values_NM in (
            (self.validation_mean_M, true_NM),
            (self.bias_M, confidence_NM - true_NM),
        ):
            mean_MC = (values_NM * there_NM).T @ one_hot_NC / count_MC.clamp_min(1)
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
        reduce: Callable[[Tensor], Tensor],
    ) -> None:
        """Updates the means with one batch; `reduce` adds sums and counts up over workers before they are divided."""
        one_hot_BC = (
            nn.functional.one_hot(labels_B.clamp_min(0), self.mean_MC.shape[1]).to(true_BM.dtype)
            * (labels_B >= 0)[:, None]
        )
        present_BM = present_BM.to(true_BM.dtype)
        sums = torch.stack([(true_BM * present_BM).T @ one_hot_BC, present_BM.T @ one_hot_BC])
        total_MC, count_MC = reduce(sums).unbind()
        rate_MC = torch.where(
            self.rows_MC > 0, 1 - (1 - self.momentum) ** count_MC, (count_MC > 0).float()
        )
        self.mean_MC += rate_MC * (total_MC / count_MC.clamp_min(1) - self.mean_MC)
        self.rows_MC += count_MC
