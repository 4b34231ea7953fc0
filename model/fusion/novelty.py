"""Whether a modality of a record is like those of the training rows. Legend: B batch, M modalities, D embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RIDGE = 0.01  # share of the mean variance that every direction has at least: embeddings fill few of them
SLACK = 1.05  # beyond the farthest validation row, for rounding
MIN_VALIDATION_ROWS = (
    100  # of validation with the modality: fewer do not tell how far a familiar one may be
)


class NoveltyGate(nn.Module):
    """A distance from the training rows for every modality, and the limit beyond which it counts as absent.

    A confidence means something near the embeddings that it was learned from: of an image of pure noise it can be high. The distance is
    Mahalanobis' with every class counted alike, so that rare classes are not far away; the limit is the farthest row of validation. Until
    both have been learned, everything is familiar.
    """

    mean_MD: Tensor
    whiten_MDD: Tensor
    limit_M: Tensor  # 0: no limit (not inf, which an average of weights would turn into NaN)

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_MD", torch.zeros(modalities, dim))
        self.register_buffer("whiten_MDD", torch.eye(dim).repeat(modalities, 1, 1))
        self.register_buffer("limit_M", torch.zeros(modalities))

    def distance(self, embeddings_BMD: Tensor) -> Tensor:
        """[B, M]: about 1 for a training row."""
        with torch.autocast(embeddings_BMD.device.type, enabled=False):
            centred_BMD = embeddings_BMD.to(self.mean_MD.dtype) - self.mean_MD
            return torch.einsum("bmd,mde->bme", centred_BMD, self.whiten_MDD).square().mean(-1)

    def forward(self, embeddings_BMD: Tensor, present_BM: Tensor) -> Tensor:
        """[B, M] whether a modality is there and beyond its limit."""
        return (
            present_BM & ~(self.distance(embeddings_BMD) <= self.limit_M) & (self.limit_M > 0)
        )  # so is one that is no number

    @torch.no_grad()
    def fit_distance(self, weight_M: Tensor, sum_MD: Tensor, square_MDD: Tensor) -> None:
        """Mean and covariance from weighted sums over training rows; `set_limits` comes after it."""
        total_M = weight_M.clamp_min(1e-12)
        mean_MD = sum_MD / total_M[:, None]
        covariance_MDD = (
            square_MDD / total_M[:, None, None] - mean_MD[:, :, None] * mean_MD[:, None, :]
        )
        least_M = RIDGE * covariance_MDD.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-6)
        eye_DD = torch.eye(mean_MD.shape[1], dtype=mean_MD.dtype, device=mean_MD.device)
        self.mean_MD.copy_(mean_MD)
        self.whiten_MDD.copy_(
            torch.linalg.cholesky(
                torch.linalg.inv(covariance_MDD + least_M[:, None, None] * eye_DD)
            )
        )

    @torch.no_grad()
    def set_limits(self, farthest_M: Tensor, rows_M: Tensor) -> None:
        """Takes the largest distance of validation, if enough rows have the modality."""
        self.limit_M.copy_(torch.where(rows_M >= MIN_VALIDATION_ROWS, SLACK * farthest_M, 0.0))


def only_unfamiliar(present_BM: Tensor, unfamiliar_BM: Tensor) -> Tensor:
    """[B] whether all that a record has is unfamiliar."""
    return present_BM.any(1) & (present_BM == unfamiliar_BM).all(1)


def weighted_moments(
    embeddings_BMD: Tensor, present_BM: Tensor, weights_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums over a batch for `fit_distance`, in double precision: [M], [M, D], [M, D, D]."""
    weights_BM = present_BM.double() * weights_B[:, None].double()
    embeddings_BMD = torch.where(present_BM[..., None], embeddings_BMD, 0.0).double()
    weighted_BMD = embeddings_BMD * weights_BM[..., None]
    return (
        weights_BM.sum(0),
        weighted_BMD.sum(0),
        torch.einsum("bmd,bme->mde", weighted_BMD, embeddings_BMD),
    )
