"""Whether the modalities of records still belong together, told without labels. Legend: B batch, M modalities, C classes.

Each modality has a posterior of its own. Where pictures and rows belong to the same records, those posteriors go up and down together;
where one has become noise, or was joined to the wrong records, they do not, however familiar each looks by itself. What counts is their
covariance, beside that on validation: it falls in proportion to the share of broken records. Which of the two is broken remains open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

LEAST_ROWS = 50  # with both modalities: fewer do not tell
ERRORS = 4.0  # standard errors by which two modalities must agree on validation, and less than there
FALLEN = 0.75  # share of the agreement on validation below which they are said not to belong together
DIVERSE = 0.8  # records of few classes give any posteriors little to go up and down by: share of validation's variance that must be left


@dataclass
class Agreement:
    """Sums over records, for every pair of modalities where both are there. They add up over batches, workers and files."""

    rows_MM: Tensor
    joint_MM: Tensor  # of the product of the two posteriors
    squares_MM: Tensor  # of its square
    own_MM: Tensor  # of the first one's product with itself
    sums_MMC: Tensor  # of the first one's posterior

    @classmethod
    def of(cls, posterior_BMC: Tensor, present_BM: Tensor) -> Agreement:
        posterior_BMC, both_BMM = posterior_BMC.double(), (present_BM[:, :, None] & present_BM[:, None, :]).double()
        posterior_BMC = torch.where(present_BM[..., None], posterior_BMC, 0.0)
        product_BMM = posterior_BMC @ posterior_BMC.transpose(1, 2)
        own_BM = product_BMM.diagonal(dim1=1, dim2=2)
        return cls(
            both_BMM.sum(0),
            (both_BMM * product_BMM).sum(0),
            (both_BMM * product_BMM.square()).sum(0),
            torch.einsum("bmn,bm->mn", both_BMM, own_BM),
            torch.einsum("bmn,bmc->mnc", both_BMM, posterior_BMC),
        )

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(*(a + b for a, b in zip(self.tensors(), other.tensors(), strict=True)))

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def state_dict(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor | Sequence[object]]) -> Agreement:
        """From tensors, or from the nested lists that JSON makes of them."""
        return cls(**{name: torch.as_tensor(values, dtype=torch.float64) for name, values in state.items()})

    def covariance(self) -> tuple[Tensor, Tensor]:
        """[M, M] the covariance of two posteriors, summed over classes, and its standard error."""
        rows_MM = self.rows_MM.clamp_min(1)
        chance_MM = (self.sums_MMC * self.sums_MMC.transpose(0, 1)).sum(-1) / rows_MM.square()
        mean_MM = self.joint_MM / rows_MM
        return mean_MM - chance_MM, ((self.squares_MM / rows_MM - mean_MM.square()).clamp_min(0) / rows_MM).sqrt()

    def variance(self) -> Tensor:
        """[M, M] of the first one's posterior."""
        rows_MM = self.rows_MM.clamp_min(1)
        return self.own_MM / rows_MM - (self.sums_MMC / rows_MM[..., None]).square().sum(-1)

    def fallen(self, known: Agreement) -> list[tuple[int, int, float]]:
        """The pairs that no longer belong together, and their share of the agreement that is known from validation."""
        (now_MM, error_MM), (then_MM, then_error_MM) = self.covariance(), known.covariance()
        told_MM = (then_MM > ERRORS * then_error_MM) & (self.rows_MM >= LEAST_ROWS) & (known.rows_MM >= LEAST_ROWS)
        share_MM = now_MM / then_MM.clamp_min(1e-12)
        sure_MM = (share_MM < FALLEN) & (then_MM - now_MM > ERRORS * (error_MM.square() + then_error_MM.square()).sqrt())
        varied_MM = self.variance() >= DIVERSE * known.variance()  # of either: a broken modality may well always say the same
        found_MM = (told_MM & sure_MM & (varied_MM | varied_MM.T)).triu(1)
        return [(i, j, max(0.0, float(share_MM[i, j]))) for i, j in found_MM.nonzero().tolist()]
