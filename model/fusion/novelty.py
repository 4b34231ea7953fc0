"""Finds modalities of a record that are unlike those of all training rows.

Legend: B batch, M modalities, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Added to the variance of every direction, as a share of the mean variance: embeddings vary in few
# directions only.
RIDGE = 0.01
SLACK = 1.05  # factor of the farthest familiar distance, to allow for rounding
# With fewer validation rows that have the modality there is no limit: their largest distance says
# too little about how far a familiar one may be.
MIN_VALIDATION_ROWS = 100


class NoveltyGate(nn.Module):
    """Measures how far a modality is from the training rows; beyond a limit it is unfamiliar.

    A confidence is valid only near the embeddings that it was learned from: that of an image of
    pure noise can be high. The distance is Mahalanobis', from statistics in which every class
    counts alike, so that rare classes are not far away. The limit is the distance of the farthest
    validation row or degraded training image. Until both have been set, everything is familiar.
    """

    mean_MD: Tensor
    whiten_MDD: Tensor
    limit_M: Tensor  # 0: no limit (infinity would become NaN in the average of the weights)

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_MD", torch.zeros(modalities, dim))
        self.register_buffer("whiten_MDD", torch.eye(dim).repeat(modalities, 1, 1))
        self.register_buffer("limit_M", torch.zeros(modalities))

    def distance(self, embeddings_BMD: Tensor) -> Tensor:
        """Returns the squared distance divided by D, [B, M]: about 1 for a training row."""
        with torch.autocast(embeddings_BMD.device.type, enabled=False):
            centred_BMD = embeddings_BMD.to(self.mean_MD.dtype) - self.mean_MD
            return torch.einsum("bmd,mde->bme", centred_BMD, self.whiten_MDD).square().mean(-1)

    def forward(self, embeddings_BMD: Tensor, present_BM: Tensor) -> Tensor:
        """Returns whether a modality is present and beyond its limit, [B, M].

        A distance of NaN is beyond every limit.
        """
        within_BM = self.distance(embeddings_BMD) <= self.limit_M
        return present_BM & ~within_BM & (self.limit_M > 0)

    def relative_distance(self, embeddings_BMD: Tensor, present_BM: Tensor) -> Tensor:
        """Returns the distance as a share of the limit, [B, M]: above 1 is unfamiliar.

        It is NaN where a modality is absent or has no limit.
        """
        share_BM = self.distance(embeddings_BMD) / self.limit_M
        return share_BM.masked_fill(~present_BM | (self.limit_M <= 0), torch.nan)

    @torch.no_grad()
    def fit_distance(self, weight_M: Tensor, sum_MD: Tensor, square_MDD: Tensor) -> None:
        """Sets mean and covariance from the weighted sums that `weighted_moments` makes.

        `set_limits` comes after it: the limits are distances under these statistics.
        """
        total_M = weight_M.clamp_min(1e-12)
        mean_MD = sum_MD / total_M[:, None]
        covariance_MDD = (
            square_MDD / total_M[:, None, None] - mean_MD[:, :, None] * mean_MD[:, None, :]
        )
        ridge_M = RIDGE * covariance_MDD.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-6)
        eye_DD = torch.eye(mean_MD.shape[1], dtype=mean_MD.dtype, device=mean_MD.device)
        self.mean_MD.copy_(mean_MD)
        self.whiten_MDD.copy_(
            torch.linalg.cholesky(
                torch.linalg.inv(covariance_MDD + ridge_M[:, None, None] * eye_DD)
            )
        )

    @torch.no_grad()
    def set_limits(self, farthest_M: Tensor, rows_M: Tensor) -> None:
        """Sets the limits to the largest distances of what is familiar.

        farthest_M: those distances. rows_M: validation rows that have the modality.
        """
        self.limit_M.copy_(torch.where(rows_M >= MIN_VALIDATION_ROWS, SLACK * farthest_M, 0.0))


def only_unfamiliar(present_BM: Tensor, unfamiliar_BM: Tensor) -> Tensor:
    """Returns whether all modalities that a record has are unfamiliar, [B]."""
    return present_BM.any(1) & (present_BM == unfamiliar_BM).all(1)


def weighted_moments(
    embeddings_BMD: Tensor, present_BM: Tensor, weights_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the weighted sums of a batch for `fit_distance`, in double precision.

    They are those of 1, of the embeddings and of their products: [M], [M, D], [M, D, D].
    """
    weights_BM = present_BM.double() * weights_B[:, None].double()
    embeddings_BMD = torch.where(present_BM[..., None], embeddings_BMD, 0.0).double()
    weighted_BMD = embeddings_BMD * weights_BM[..., None]
    return (
        weights_BM.sum(0),
        weighted_BMD.sum(0),
        torch.einsum("bmd,bme->mde", weighted_BMD, embeddings_BMD),
    )
