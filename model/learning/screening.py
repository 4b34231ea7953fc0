"""Which columns of a wide table tell classes apart, by a permutation test of each column alone.

Where columns are many and rows few, a network learns the noise of all columns. A column is kept
where its values differ between the classes by more than those of columns whose labels were drawn
anew, at about a false discovery rate (Benjamini and Hochberg). Columns that matter only together
are not seen by it, so that it is used only where rows are few for so many columns.

Legend: R rows, N numeric columns, K categorical columns, F both, Q quantiles, B bins of a column's
values, C classes, P permutations of the labels and the labels as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

BINS = 5  # of a column's values, and one of the rows without a value
# Rarer bins do not count, and rarer classes are one together: with them Pearson's statistic has a
# long tail, which would hide the columns that lack it.
LEAST_SHARE, LEAST_ROWS = 0.05, 5
PERMUTATIONS = 20
CELLS_AT_ONCE = 2_000_000


def telling_columns(numbers_RN: Tensor, ids_RK: Tensor, labels_R: Tensor, rate: float) -> Tensor:
    """Returns which columns tell the classes apart, [F], the numeric ones first.

    numbers_RN: NaN where missing. ids_RK: of categories, -1 where missing.
    labels_R: from 0 on. rate: the false discovery rate.
    """
    labels_R = _merge_rare(labels_R)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(labels_R), generator=generator) for _ in range(PERMUTATIONS)]
    labels_PR = torch.stack([labels_R, *(labels_R[order_R] for order_R in orders)])
    columns = max(1, CELLS_AT_ONCE // len(labels_R))
    statistics_PF = torch.cat(
        [_of_numbers(part, labels_PR) for part in torch.split(numbers_RN, columns, 1)]
        + [_of_bins(_category_bins(part), labels_PR) for part in torch.split(ids_RK, columns, 1)],
        1,
    )
    drawn = statistics_PF[1:].flatten().sort().values
    above_F = len(drawn) - torch.searchsorted(drawn, statistics_PF[0])
    return _discoveries((1 + above_F) / (1 + len(drawn)), rate)


def _of_numbers(numbers_RN: Tensor, labels_PR: Tensor) -> Tensor:
    """Returns how much numbers differ between the classes, by their ranks or by bins, [P, N]."""
    if not numbers_RN.shape[1]:
        return torch.zeros(len(labels_PR), 0)
    ranks_RN = _ranks(numbers_RN)
    present_RN = (~numbers_RN.isnan()).float()
    by_rank = []
    for labels_R in labels_PR:
        classes_RC = one_hot(labels_R).float()
        sums_CN, rows_CN = classes_RC.T @ ranks_RN, classes_RC.T @ present_RN
        by_rank.append((sums_CN.square() / rows_CN.clamp_min(1)).sum(0))  # Kruskal and Wallis' H
    by_rank_PN = _scaled(torch.stack(by_rank), torch.ones(numbers_RN.shape[1]), labels_PR)
    by_rank_PN[:, present_RN.mean(0) < LEAST_SHARE] = -torch.inf  # so few ranks show nothing
    return torch.maximum(by_rank_PN, _of_bins(_number_bins(numbers_RN), labels_PR))


def _scaled(statistics_PF: Tensor, freedom_F: Tensor, labels_PR: Tensor) -> Tensor:
    """Returns chi-squared statistics in standard deviations from their mean.

    freedom_F: degrees of freedom, for two classes.
    """
    freedom_F = (freedom_F * labels_PR.max()).clamp_min(1)
    return (statistics_PF - freedom_F) / (2 * freedom_F).sqrt()


def _of_bins(codes_RF: Tensor, labels_PR: Tensor) -> Tensor:
    """Returns how much bins differ between the classes, by Pearson's statistic, [P, F]."""
    bins_RFB = (codes_RF[:, :, None] == torch.arange(BINS + 1)).float()
    share_FB = bins_RFB.mean(0)
    counts_FB = share_FB >= LEAST_SHARE
    statistics = []
    for labels_R in labels_PR:
        classes_RC = one_hot(labels_R).float()
        seen_CFB = torch.einsum("rc,rfb->cfb", classes_RC, bins_RFB)
        expected_CFB = classes_RC.sum(0)[:, None, None] * share_FB
        difference_CFB = (seen_CFB - expected_CFB).square() / expected_CFB.clamp_min(1e-9)
        statistics.append((difference_CFB * counts_FB).sum((0, 2)))
    return _scaled(torch.stack(statistics), ((1 - share_FB) * counts_FB).sum(1), labels_PR)


def _merge_rare(labels_R: Tensor) -> Tensor:
    """Returns labels from 0 on without gaps; classes of few rows have one together."""
    count_C = torch.bincount(labels_R)
    merged_R = torch.where(count_C[labels_R] < LEAST_ROWS, len(count_C), labels_R)
    return torch.searchsorted(torch.unique(merged_R), merged_R)


def _number_bins(values_RN: Tensor) -> Tensor:
    """Returns the bins of numbers, each with about as many rows; BINS where missing."""
    shares = torch.arange(1, BINS, dtype=values_RN.dtype) / BINS
    edges_QN = torch.nan_to_num(torch.nanquantile(values_RN, shares, 0))
    codes_RN = (values_RN[:, None] > edges_QN).sum(1)
    return codes_RN.masked_fill(values_RN.isnan(), BINS)


def _category_bins(ids_RK: Tensor) -> Tensor:
    """Returns the bins of categories: the most frequent ones, and the rest; BINS where missing."""
    columns = []
    for ids_R in ids_RK.unbind(1):
        frequent = torch.bincount(ids_R[ids_R >= 0], minlength=1).argsort(descending=True)
        is_RB = ids_R[:, None] == frequent[: BINS - 1]
        code_R = torch.where(is_RB.any(1), is_RB.int().argmax(1), BINS - 1)
        columns.append(code_R.masked_fill(ids_R < 0, BINS))
    return torch.stack(columns, 1) if columns else ids_RK


def _ranks(values_RN: Tensor) -> Tensor:
    """Returns the ranks of a column's values with mean 0 and variance 1; 0 where missing.

    Equal values have their mean rank, whatever the order of the rows.
    """
    missing_RN = values_RN.isnan()
    # Missing values are the last ones and change no other's rank.
    values_NR = values_RN.masked_fill(missing_RN, torch.inf).T.contiguous()
    ordered_NR = values_NR.sort(1).values
    first_NR = torch.searchsorted(ordered_NR, values_NR)
    last_NR = torch.searchsorted(ordered_NR, values_NR, right=True)
    ranks_RN = (first_NR + last_NR).T.float().masked_fill(missing_RN, torch.nan)
    centred_RN = ranks_RN - ranks_RN.nanmean(0)
    scale_N = centred_RN.square().nanmean(0).sqrt()
    return torch.nan_to_num(centred_RN / scale_N, 0.0, 0.0, 0.0)


def _discoveries(p_F: Tensor, rate: float) -> Tensor:
    """Returns the discoveries of Benjamini and Hochberg's procedure."""
    ordered = p_F.sort()
    limit_F = rate * torch.arange(1, len(p_F) + 1) / len(p_F)
    below = (ordered.values <= limit_F).nonzero()
    found_F = torch.zeros(len(p_F), dtype=torch.bool)
    if len(below):
        found_F[ordered.indices[: int(below[-1]) + 1]] = True
    return found_F
