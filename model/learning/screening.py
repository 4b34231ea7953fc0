"""Which columns of a wide table tell classes apart, by a permutation test of each column alone.

Where columns are many and rows few, a network learns the noise of all columns. A column is kept
where its values differ between the classes by more than those of columns whose labels were drawn
anew, at a false discovery rate (Benjamini and Hochberg). Columns that matter only together are not
seen by it, so that it is used only where the rows are too few to learn such a thing from so many.

Legend: R rows, N numeric columns, K categorical columns, F both, Q quantiles, B bins of a column's
values, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

BINS = 5  # of a column's values, and one of the rows without a value
PERMUTATIONS = 20  # of the labels; their statistics are pooled over the columns


def telling_columns(numbers_RN: Tensor, ids_RK: Tensor, labels_R: Tensor, rate: float) -> Tensor:
    """Returns which columns tell the classes apart, [F], the numeric ones first.

    numbers_RN: NaN where missing. ids_RK: of categories, -1 where missing.
    labels_R: from 0 on. rate: the false discovery rate.
    """
    codes_RF = torch.cat([_number_bins(numbers_RN), _category_bins(ids_RK)], 1)
    bins_RFB = one_hot(codes_RF, BINS + 1).float()
    # The numbers of categories have no order: their ranks say nothing.
    ranks_RF = pad(_ranks(numbers_RN), (0, ids_RK.shape[1]))
    generator = torch.Generator().manual_seed(0)
    statistics = [_statistics(bins_RFB, ranks_RF, labels_R)]
    for _ in range(PERMUTATIONS):
        order_R = torch.randperm(len(labels_R), generator=generator)
        statistics.append(_statistics(bins_RFB, ranks_RF, labels_R[order_R]))
    drawn = torch.cat(statistics[1:]).sort().values
    above_F = len(drawn) - torch.searchsorted(drawn, statistics[0])
    return _discoveries((1 + above_F) / (1 + len(drawn)), rate)


def _statistics(bins_RFB: Tensor, ranks_RF: Tensor, labels_R: Tensor) -> Tensor:
    """Returns how much each column differs between the classes, in standard deviations, [F].

    The larger of Pearson's statistic of the bins and Kruskal and Wallis' one of the ranks.
    """
    rows = len(labels_R)
    classes_RC = one_hot(labels_R).float()
    classes_RC = classes_RC[:, classes_RC.any(0)]
    size_C = classes_RC.sum(0)
    freedom = max(len(size_C) - 1, 1)
    seen_CFB = torch.einsum("rc,rfb->cfb", classes_RC, bins_RFB)
    bin_FB = bins_RFB.sum(0)
    expected_CFB = size_C[:, None, None] * bin_FB / rows
    pearson_F = ((seen_CFB - expected_CFB).square() / expected_CFB.clamp_min(1e-9)).sum((0, 2))
    freedom_F = freedom * ((bin_FB > 0).sum(1) - 1).clamp_min(1)
    pearson_F = (pearson_F - freedom_F) / (2 * freedom_F).sqrt()
    means_CF = classes_RC.T @ ranks_RF / size_C[:, None]
    wallis_F = (size_C[:, None] * means_CF.square()).sum(0)
    return torch.maximum(pearson_F, (wallis_F - freedom) / (2 * freedom) ** 0.5)


def _number_bins(values_RN: Tensor) -> Tensor:
    """Returns the bins of numbers, each with about as many rows; BINS where missing."""
    if not values_RN.shape[1]:
        return values_RN.long()
    shares = torch.arange(1, BINS, dtype=values_RN.dtype) / BINS
    edges_QN = torch.nan_to_num(torch.nanquantile(values_RN, shares, 0))
    codes_RN = (values_RN[:, None] > edges_QN).sum(1)
    return codes_RN.masked_fill(values_RN.isnan(), BINS)


def _category_bins(ids_RK: Tensor) -> Tensor:
    """Returns the bins of categories: the most frequent ones, and the rest; BINS where missing."""
    columns = []
    for ids_R in ids_RK.unbind(1):
        known_R = ids_R[ids_R >= 0]
        frequent = torch.bincount(known_R, minlength=1).argsort(descending=True)[: BINS - 1]
        is_RB = ids_R[:, None] == frequent
        code_R = torch.where(is_RB.any(1), is_RB.int().argmax(1), BINS - 1)
        columns.append(code_R.masked_fill(ids_R < 0, BINS))
    return torch.stack(columns, 1) if columns else ids_RK.long()


def _ranks(values_RN: Tensor) -> Tensor:
    """Returns the ranks of a column's values with mean 0 and variance 1; 0 where missing.

    Equal values have their mean rank, whatever the order of the rows.
    """
    values_NR = values_RN.T.contiguous()
    ordered_NR = values_NR.sort(1).values
    first_NR = torch.searchsorted(ordered_NR, values_NR)
    last_NR = torch.searchsorted(ordered_NR, values_NR, right=True)
    ranks_RN = (first_NR + last_NR).T.float().masked_fill(values_RN.isnan(), torch.nan)
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
