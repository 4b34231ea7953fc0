"""Checks, without labels, whether the modalities of new records still belong together.

Each modality has a posterior of its own. Where modality m decides for class k, the posterior of
another modality n is on average what it was over those validation rows where m decided for k: that
mean is the expectation. Where images and table rows belong to the same records, posteriors follow
the expectations. Where one modality has become noise, or was joined to the wrong records, they do
not, however familiar each of them looks by itself.

The measure is the slope of the posterior on the expectation, corrected for the noise of the
expectation. It falls with the share of broken records and hardly depends on the mix of classes;
where both modalities indicate another mix of classes than on validation, no pair is reported. Which
of the two modalities is broken remains open.

Legend: B batch, V validation rows, R rows with both modalities, M modalities, C classes. In a pair,
the first axis M is the modality that expects and the second the modality that is expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_PAIR_ROWS = 50  # records with both modalities that a pair needs to be judged
MIN_VALIDATION_ROWS = 100  # validation rows with both modalities that an expectation needs
MAX_EXPECTED_CLASSES = 1000  # an expectation holds C x C numbers
# Standard errors by which a slope must be above 0 on validation, and now be lower than there.
ERRORS = 4.0
BROKEN_SHARE = 0.75  # share of the slope on validation below which a pair is broken
# Distance of the mean posterior from that of validation, in deviations of the expectation, up to
# which a modality shows the same mix of classes.
SAME_MIX_DISTANCE = 0.3
CHANCE = 2.0  # times the squared distance that chance gives, which is subtracted from it
MIN_SIGNAL = 0.25  # share of the variance of the expectation that must not be noise
PSEUDO_ROWS = 10.0  # rows by which the mean over all classes counts in the mean of one class
CHUNK = 1024  # validation rows that are compared at a time: each takes M x M x C numbers


@dataclass
class TensorFields:
    """Tensors by name, which can go into a checkpoint or through JSON."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the tensors by the names of their fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor | Sequence[object]]) -> Self:
        """Returns the object of these tensors, or of nested lists in their place."""
        return cls(
            **{
                name: value
                if isinstance(value, Tensor)
                else torch.tensor(value, dtype=torch.float64)
                for name, value in state.items()
            }
        )


@dataclass
class CrossModalStats(TensorFields):
    """Sums over the records that have both modalities of a pair, for every ordered pair.

    Posteriors and expectations are taken less their means on validation. The sums of several
    batches, workers or files add up.
    """

    rows_MM: Tensor
    product_MM: Tensor  # of posterior times expectation, summed over classes
    product_square_MM: Tensor  # of the square of that product
    expected_square_MM: Tensor  # of the square of the expectation
    noise_MM: Tensor  # of the part of that square which is noise
    posterior_MMC: Tensor
    expected_MMC: Tensor

    def __add__(self, other: CrossModalStats) -> CrossModalStats:
        theirs = other.state_dict()
        return CrossModalStats(
            **{name: mine + theirs[name] for name, mine in self.state_dict().items()}
        )

    def slope(self) -> tuple[Tensor, Tensor]:
        """Returns the slope of posterior on expectation and its standard error, [M, M] each.

        Both directions of a pair are taken together. 1: the posteriors follow the expectations. NaN
        where the expectation is mostly noise.
        """
        rows_MM = self.rows_MM.clamp_min(1)
        posterior_MMC = self.posterior_MMC / rows_MM[..., None]
        expected_MMC = self.expected_MMC / rows_MM[..., None]
        mean_MM = self.product_MM / rows_MM
        covariance_MM = mean_MM - (posterior_MMC * expected_MMC).sum(-1)
        variance_MM = self.expected_square_MM / rows_MM - expected_MMC.square().sum(-1)
        product_variance_MM = self.product_square_MM / rows_MM - mean_MM.square()
        error_MM = (product_variance_MM.clamp_min(0) / rows_MM).sqrt()
        variance_MM = variance_MM + variance_MM.T
        noise_MM = (self.noise_MM + self.noise_MM.T) / rows_MM
        signal_MM = torch.where(
            noise_MM < (1 - MIN_SIGNAL) * variance_MM, variance_MM - noise_MM, torch.nan
        )
        return (covariance_MM + covariance_MM.T) / signal_MM, (error_MM + error_MM.T) / signal_MM

    def has_same_mix(self, model: CrossModalModel) -> Tensor:
        """Returns whether the second modality shows about the classes of validation, [M, M]."""
        rows_MM = self.rows_MM.clamp_min(1)
        moved_MM = (self.posterior_MMC / rows_MM[..., None]).square().sum(-1)
        chance_MM = model.posterior_variance_MM * (1 / rows_MM + 1 / model.rows_MM.clamp_min(1))
        return moved_MM - CHANCE * chance_MM <= SAME_MIX_DISTANCE**2 * model.signal_MM

    def broken_pairs(self, model: CrossModalModel) -> list[tuple[int, int, float]]:
        """Returns the pairs that no longer belong together, and the share of their slope left.

        The share is that of the slope on validation; `model` was fitted there.
        """
        slope_MM, error_MM = self.slope()  # every comparison with NaN is false
        same_mix_MM = self.has_same_mix(model)
        judged_MM = (
            (model.slope_MM > ERRORS * model.error_MM)
            & (self.rows_MM >= MIN_PAIR_ROWS)
            & (same_mix_MM | same_mix_MM.T)
        )
        share_MM = slope_MM / model.slope_MM.clamp_min(1e-9)
        difference_error_MM = (error_MM.square() + model.error_MM.square()).sqrt()
        fell_MM = model.slope_MM - slope_MM > ERRORS * difference_error_MM
        broken_MM = (judged_MM & fell_MM & (share_MM < BROKEN_SHARE)).triu(1)
        return [(i, j, max(0.0, float(share_MM[i, j]))) for i, j in broken_MM.nonzero().tolist()]


@dataclass
class CrossModalModel(TensorFields):
    """What each modality leads to expect of each other one, learned from validation rows."""

    table_MMCC: Tensor  # [m, n, k]: the mean posterior of n where m decides for class k
    posterior_MMC: Tensor  # the mean posterior of n over the rows that have both
    expected_MMC: Tensor  # the mean of the expectations
    count_MMC: Tensor  # rows in which m decides for each class
    noise_MMC: Tensor  # the variance of each expectation, summed over the classes of n
    posterior_variance_MM: Tensor  # of the posterior of n
    signal_MM: Tensor  # the variance of the expectations, without their noise
    rows_MM: Tensor
    slope_MM: Tensor  # on the validation rows, each compared with the expectation of the others
    error_MM: Tensor  # its standard error

    @classmethod
    def fit(cls, posterior_VMC: Tensor, present_VM: Tensor) -> CrossModalModel | None:
        """Returns the model of these rows; None with too few rows or too many classes."""
        rows_MM = (present_VM[:, :, None] & present_VM[:, None, :]).sum(0)
        enough = bool((rows_MM.triu(1) >= MIN_VALIDATION_ROWS).any())
        if posterior_VMC.shape[-1] > MAX_EXPECTED_CLASSES or not enough:
            return None
        model = cls(
            **_expectations(posterior_VMC, present_VM),
            slope_MM=torch.zeros(rows_MM.shape),
            error_MM=torch.zeros(rows_MM.shape),
        )
        chunks = zip(torch.split(posterior_VMC, CHUNK), torch.split(present_VM, CHUNK), strict=True)
        stats = [
            model.compare(posteriors, present, fitted_on_these_rows=True)
            for posteriors, present in chunks
        ]
        slope_MM, error_MM = sum(stats[1:], stats[0]).slope()
        return replace(
            model,
            slope_MM=torch.where(rows_MM >= MIN_VALIDATION_ROWS, slope_MM, 0.0).float(),
            error_MM=error_MM.float(),
        )

    def compare(
        self, posterior_BMC: Tensor, present_BM: Tensor, fitted_on_these_rows: bool = False
    ) -> CrossModalStats:
        """Compares posteriors with expectations; returns the sums that give `slope`.

        For every pair of modalities, each record's posterior is compared with the mean posterior
        that validation gives for the other modality's decision.

        fitted_on_these_rows: the model was fitted on these records; each record is then left out
        of its own expectation.
        """
        both_BMM = (present_BM[:, :, None] & present_BM[:, None, :]).double()
        posterior_BMC = torch.where(present_BM[..., None], posterior_BMC, 0.0).double()
        decided_BM = posterior_BMC.argmax(-1)
        modalities = torch.arange(present_BM.shape[1], device=present_BM.device)
        # table_MMCC[index][b, m, n] is the expectation of n by the decision of m in record b.
        index = (modalities[:, None], modalities, decided_BM[:, :, None])
        expected_BMMC, posterior_BMMC = self.table_MMCC[index].double(), posterior_BMC[:, None]
        if fitted_on_these_rows:
            count_BMM1 = self.count_MMC[index].double()[..., None] + PSEUDO_ROWS
            # The record counts once in its class, and again by its part in the pseudo rows.
            own_MM1 = (1 + PSEUDO_ROWS / self.rows_MM.clamp_min(1))[..., None]
            others_BMMC = count_BMM1 * expected_BMMC - own_MM1 * posterior_BMMC
            expected_BMMC = others_BMMC / (count_BMM1 - own_MM1)
        expected_BMMC = expected_BMMC - self.expected_MMC
        posterior_BMMC = posterior_BMMC - self.posterior_MMC
        product_BMM = (posterior_BMMC * expected_BMMC).sum(-1)
        return CrossModalStats(
            rows_MM=both_BMM.sum(0),
            product_MM=(both_BMM * product_BMM).sum(0),
            product_square_MM=(both_BMM * product_BMM.square()).sum(0),
            expected_square_MM=(both_BMM * expected_BMMC.square().sum(-1)).sum(0),
            noise_MM=(both_BMM * self.noise_MMC[index].double()).sum(0),
            posterior_MMC=(both_BMM[..., None] * posterior_BMMC).sum(0),
            expected_MMC=(both_BMM[..., None] * expected_BMMC).sum(0),
        )


def _expectations(posterior_VMC: Tensor, present_VM: Tensor) -> dict[str, Tensor]:
    """Returns the fields of CrossModalModel but slope and error."""
    posterior_VMC = torch.where(present_VM[..., None], posterior_VMC, 0.0).float()
    modalities, classes = posterior_VMC.shape[1:]
    decided_VMC = F.one_hot(posterior_VMC.argmax(-1), classes).float()
    rows = []
    for m in range(modalities):
        pairs = []
        for n in range(modalities):
            both_V = present_VM[:, m] & present_VM[:, n]
            pairs.append(_pair_expectations(decided_VMC[both_V, m], posterior_VMC[both_V, n]))
        rows.append({name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _pair_expectations(decided_RC: Tensor, posterior_RC: Tensor) -> dict[str, Tensor]:
    """Returns the expectations of one pair of modalities.

    decided_RC: the decisions of the first modality as rows of zeros and a one. posterior_RC: the
    posteriors of the second. A class that is rarely decided leads to expect what all do.
    """
    rows, count_C = max(1, len(decided_RC)), decided_RC.sum(0)
    count_C1 = count_C[:, None]
    mean_C = posterior_RC.sum(0) / rows
    table_CC = (decided_RC.T @ posterior_RC + PSEUDO_ROWS * mean_C) / (count_C1 + PSEUDO_ROWS)
    expected_C = (count_C1 * table_CC).sum(0) / rows
    class_means_CC = decided_RC.T @ posterior_RC / count_C1.clamp_min(1)
    residual_RC = posterior_RC - decided_RC @ class_means_CC
    variance = residual_RC.square().sum() / max(1, rows - int((count_C > 0).sum()))
    noise_C = (count_C1 * variance / (count_C1 + PSEUDO_ROWS).square())[:, 0]
    signal_C = (table_CC - expected_C).square().sum(-1) - noise_C
    return {
        "table_MMCC": table_CC,
        "posterior_MMC": mean_C,
        "expected_MMC": expected_C,
        "count_MMC": count_C,
        "noise_MMC": noise_C,
        "posterior_variance_MM": (posterior_RC - mean_C).square().sum() / rows,
        "signal_MM": (count_C * signal_C).sum().clamp_min(0) / rows,
        "rows_MM": torch.tensor(float(len(decided_RC)), device=mean_C.device),
    }
