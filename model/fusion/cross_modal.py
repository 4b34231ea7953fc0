"""Whether the modalities of records still belong together, told without labels. Legend: B batch, V validation rows, R some of these,
M modalities, C classes.

Each modality has a posterior of its own, and what one says leads to expect something of the other. On validation that expectation is
learned: the mean posterior of n where m says class k. Where pictures and rows belong to the same records it comes true; where one has
become noise, or was joined to the wrong records, it does not, however familiar each looks by itself. What counts is the slope of what is
said on what was expected, less the noise of the expectations. It falls with the share of broken records, and little with another mix of
classes; where both modalities say that the mix is another, nothing is told. Which of two is broken remains open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_ROWS = 50  # with both modalities: fewer do not tell
MIN_VALIDATION_ROWS = 100  # of validation: fewer do not tell what to expect
ERRORS = 4.0  # standard errors by which a slope must be above 0 on validation, and less than there
FALLEN = 0.75  # share of the slope on validation below which two modalities are said not to belong together
STEADY = 0.3  # how far the mean of one of the two may be from validation's, in deviations of what the other leads to expect of it
CHANCE = 2.0  # times the square of that distance which chance gives, that are left out
SIGNAL = 0.25  # share of the variance of what is expected that must not be noise
PSEUDO = 10.0  # rows for which the mean over all classes counts beside those of one class
CHUNK = 1024  # validation rows that are compared at a time, each with squares of the modalities times the classes
MAX_CLASSES = 1000  # an expectation has their square of numbers


@dataclass
class Sums:
    """What both can do: go into a checkpoint, or through JSON."""

    def state_dict(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor | Sequence[object]]) -> Self:
        return cls(
            **{
                n: v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64)
                for n, v in state.items()
            }
        )


@dataclass
class CrossModalStats(Sums):
    """Sums over records for every ordered pair of modalities where both are there; they add up over batches, workers and files."""

    rows_MM: Tensor
    product_MM: Tensor  # of what the second says with what the first leads to expect, both less their means on validation
    square_MM: Tensor  # of its square
    expected_MM: Tensor  # of the square of what is expected
    noise_MM: Tensor  # of the part of that which is noise
    said_MMC: Tensor
    middle_MMC: Tensor  # of what is expected

    def __add__(self, other: CrossModalStats) -> CrossModalStats:
        theirs = other.state_dict()
        return CrossModalStats(
            **{name: mine + theirs[name] for name, mine in self.state_dict().items()}
        )

    def slope(self) -> tuple[Tensor, Tensor]:
        """[M, M] for every pair, both ways together, and its standard error; 1 where all comes true as expected."""
        rows_MM = self.rows_MM.clamp_min(1)
        said_MMC, middle_MMC = (
            self.said_MMC / rows_MM[..., None],
            self.middle_MMC / rows_MM[..., None],
        )
        mean_MM = self.product_MM / rows_MM
        covariance_MM = mean_MM - (said_MMC * middle_MMC).sum(-1)
        variance_MM = self.expected_MM / rows_MM - middle_MMC.square().sum(-1)
        error_MM = ((self.square_MM / rows_MM - mean_MM.square()).clamp_min(0) / rows_MM).sqrt()
        variance_MM, noise_MM = (
            variance_MM + variance_MM.T,
            (self.noise_MM + self.noise_MM.T) / rows_MM,
        )
        signal_MM = torch.where(
            noise_MM < (1 - SIGNAL) * variance_MM, variance_MM - noise_MM, torch.nan
        )
        return (covariance_MM + covariance_MM.T) / signal_MM, (error_MM + error_MM.T) / signal_MM

    def steady(self, known: CrossModalModel) -> Tensor:
        """[M, M] whether the mean posterior of the second is about that of validation: the records are of much the same classes."""
        rows_MM = self.rows_MM.clamp_min(1)
        moved_MM = (self.said_MMC / rows_MM[..., None]).square().sum(-1)
        chance_MM = known.spread_MM * (1 / rows_MM + 1 / known.rows_MM.clamp_min(1))
        return moved_MM - CHANCE * chance_MM <= STEADY**2 * known.signal_MM

    def broken_pairs(self, known: CrossModalModel) -> list[tuple[int, int, float]]:
        """The pairs that no longer belong together, and their share of the slope on validation."""
        slope_MM, error_MM = self.slope()  # comparisons with what is no number are false
        steady_MM = self.steady(known)
        told_MM = (
            (known.slope_MM > ERRORS * known.error_MM)
            & (self.rows_MM >= MIN_ROWS)
            & (steady_MM | steady_MM.T)
        )
        share_MM = slope_MM / known.slope_MM.clamp_min(1e-9)
        sure_MM = (
            known.slope_MM - slope_MM
            > ERRORS * (error_MM.square() + known.error_MM.square()).sqrt()
        )
        found_MM = (told_MM & sure_MM & (share_MM < FALLEN)).triu(1)
        return [(i, j, max(0.0, float(share_MM[i, j]))) for i, j in found_MM.nonzero().tolist()]


@dataclass
class CrossModalModel(Sums):
    """What each modality leads to expect of each other, and how far that comes true on validation rows other than those it is from."""

    table_MMCC: Tensor  # [m, n, k]: the mean posterior of n where m says k
    said_MMC: Tensor  # the mean posterior of n where both are there
    middle_MMC: Tensor  # the mean of what is expected
    count_MMC: Tensor  # rows where m says k
    noise_MMC: Tensor  # the variance of each expectation, summed over classes
    spread_MM: Tensor  # the variance of the posterior of n
    signal_MM: Tensor  # the part of it that is expected
    rows_MM: Tensor
    slope_MM: Tensor
    error_MM: Tensor

    @classmethod
    def fit(cls, posterior_VMC: Tensor, present_VM: Tensor) -> CrossModalModel | None:
        """Nothing, where there are too few rows or too many classes."""
        rows_MM = (present_VM[:, :, None] & present_VM[:, None, :]).sum(0)
        if (
            posterior_VMC.shape[-1] > MAX_CLASSES
            or not (rows_MM.triu(1) >= MIN_VALIDATION_ROWS).any()
        ):
            return None
        found = cls(
            **_expected(posterior_VMC, present_VM),
            slope_MM=torch.zeros(rows_MM.shape),
            error_MM=torch.zeros(rows_MM.shape),
        )
        parts = zip(torch.split(posterior_VMC, CHUNK), torch.split(present_VM, CHUNK), strict=True)
        first, *others = (
            found.compare(posterior_RMC, present_RM, learned=True)
            for posterior_RMC, present_RM in parts
        )
        slope_MM, error_MM = sum(others, first).slope()
        return replace(
            found,
            slope_MM=torch.where(rows_MM >= MIN_VALIDATION_ROWS, slope_MM, 0.0).float(),
            error_MM=error_MM.float(),
        )

    def compare(
        self, posterior_BMC: Tensor, present_BM: Tensor, learned: bool = False
    ) -> CrossModalStats:
        """The sums of these records. `learned`: the expectation is from these, so of each it is taken from all but itself."""
        both_BMM1 = (present_BM[:, :, None] & present_BM[:, None, :])[..., None].double()
        posterior_BMC = torch.where(present_BM[..., None], posterior_BMC, 0.0).double()
        says_BM, modalities = (
            posterior_BMC.argmax(-1),
            torch.arange(present_BM.shape[1], device=present_BM.device),
        )
        place = (modalities[:, None], modalities, says_BM[:, :, None])
        expected_BMMC, said_BMMC = self.table_MMCC[place].double(), posterior_BMC[:, None]
        if learned:
            weight_BMM1 = self.count_MMC[place].double()[..., None] + PSEUDO
            own_MM1 = (1 + PSEUDO / self.rows_MM.clamp_min(1))[
                ..., None
            ]  # it is a part of the mean over all classes, too
            expected_BMMC = (weight_BMM1 * expected_BMMC - own_MM1 * said_BMMC) / (
                weight_BMM1 - own_MM1
            )
        expected_BMMC, said_BMMC = expected_BMMC - self.middle_MMC, said_BMMC - self.said_MMC
        product_BMM1 = (said_BMMC * expected_BMMC).sum(-1, keepdim=True)
        size_BMM1 = expected_BMMC.square().sum(-1, keepdim=True)
        noise_BMM1 = self.noise_MMC[place].double()[..., None]
        parts = (
            torch.ones_like(product_BMM1),
            product_BMM1,
            product_BMM1.square(),
            size_BMM1,
            noise_BMM1,
            said_BMMC,
            expected_BMMC,
        )
        sums = ((both_BMM1 * part).sum(0) for part in parts)
        return CrossModalStats(*(s.squeeze(-1) if s.shape[-1] == 1 else s for s in sums))


def _expected(posterior_VMC: Tensor, present_VM: Tensor) -> dict[str, Tensor]:
    """What these records lead to expect; a class that is said seldom leads to expect what any does."""
    posterior_VMC = torch.where(present_VM[..., None], posterior_VMC, 0.0).float()
    modalities, classes = posterior_VMC.shape[1:]
    says_VMC = F.one_hot(posterior_VMC.argmax(-1), classes).float()
    table_MMCC = torch.zeros(modalities, modalities, classes, classes)
    said_MMC, middle_MMC, count_MMC, noise_MMC = (
        torch.zeros(modalities, modalities, classes) for _ in range(4)
    )
    rows_MM, spread_MM, signal_MM = (torch.zeros(modalities, modalities) for _ in range(3))
    for m in range(modalities):
        for n in range(modalities):
            both_V = present_VM[:, m] & present_VM[:, n]
            says_RC, said_RC = says_VMC[both_V, m], posterior_VMC[both_V, n]
            rows, count_C1 = max(1, len(says_RC)), says_RC.sum(0)[:, None]
            said_MMC[m, n] = said_RC.sum(0) / rows
            table_MMCC[m, n] = (says_RC.T @ said_RC + PSEUDO * said_MMC[m, n]) / (count_C1 + PSEUDO)
            middle_MMC[m, n] = (count_C1 * table_MMCC[m, n]).sum(0) / rows
            rest_RC = said_RC - says_RC @ (says_RC.T @ said_RC / count_C1.clamp_min(1))
            variance = rest_RC.square().sum() / max(1, rows - int((count_C1 > 0).sum()))
            count_MMC[m, n] = count_C1[:, 0]
            noise_MMC[m, n] = (count_C1 * variance / (count_C1 + PSEUDO).square())[:, 0]
            rows_MM[m, n], spread_MM[m, n] = (
                len(says_RC),
                (said_RC - said_MMC[m, n]).square().sum() / rows,
            )
            size_C = (table_MMCC[m, n] - middle_MMC[m, n]).square().sum(-1) - noise_MMC[m, n]
            signal_MM[m, n] = (count_C1[:, 0] * size_C).sum().clamp_min(0) / rows
    sums = {
        "count_MMC": count_MMC,
        "noise_MMC": noise_MMC,
        "rows_MM": rows_MM,
        "spread_MM": spread_MM,
        "signal_MM": signal_MM,
    }
    return {"table_MMCC": table_MMCC, "said_MMC": said_MMC, "middle_MMC": middle_MMC, **sums}
