"""How well one column or one patch position alone tells a class from all others.

The rows of a class are divided in two; a simple model of the part, fitted on one half of all rows,
scores the other half. A column is modelled by the frequencies of its values (numbers: of bins,
two of which end where the class does), a patch by the means of its pixels and of their differences
to the pixels around them, of which only those count that differ clearly: nearest shrunken centroids
(Tibshirani, Hastie, Narasimhan and Chu 2002), made for few rows with many features. What counts is
the average precision: 1 where the part alone finds every row of the class and no other.

Legend: N rows, P features of a patch: pixels and their channels, twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from model.batch import Batch
from model.explaining.occlusion import patch_slices
from model.schema import Numeric, Schema

BINS = 10  # of a numeric column, with equally many rows each
SMOOTHING = 0.5  # rows that are added to every value
SMALLEST_SPREAD = 4.0  # grey levels
SHRINKAGE = 2.0  # standard errors by which the difference of a pixel's means is drawn towards 0
MIN_ROWS = 4  # of a class; with fewer nothing is known


def giveaways(
    schema: Schema, batch: Batch, label: int, grid: int
) -> dict[tuple[str, str, int], Tensor]:
    """Returns the precisions of every part at the rows of one class; their mean is the average one.

    A part is named by its modality, its column or "", and the number of its patch, row by row, or
    -1. Missing cells are a value; rows without the picture are left out.
    """
    is_class_N = batch.labels_B == label
    found: dict[tuple[str, str, int], Tensor] = {}
    for table in schema.tables:
        for j, column in enumerate(table.columns):
            if isinstance(column, Numeric):
                precision = _precision_of_numbers(batch.numbers[table.name][:, j], is_class_N)
            else:
                values_N = batch.categories[table.name][:, j - len(table.numeric)] + 1
                precision = _precision_of_values([values_N, values_N], is_class_N)
            found[table.name, column.name, -1] = precision
    for m, image in enumerate(schema.images):
        rows_N = batch.present_BM[:, m]
        x_NCHW, of_class_N = batch.images[image.name][rows_N], is_class_N[rows_N]
        for k, (rows, columns) in enumerate(patch_slices(image, grid)):
            features_NP = patch_features(x_NCHW[:, :, rows, columns])
            found[image.name, "", k] = _precision_of_features(features_NP, of_class_N)
    return found


def patch_features(x_NCHW: Tensor) -> Tensor:
    """Returns each pixel, and each pixel less the mean of those around it, [N, P].

    Neighbours are alike in pictures, so that the second part shows a drawn mark where the pictures
    themselves vary much.
    """
    pixels_NCHW = x_NCHW.float()
    around_NCHW = avg_pool2d(pixels_NCHW, 3, stride=1, padding=1, count_include_pad=False)
    return torch.cat([pixels_NCHW, pixels_NCHW - around_NCHW], 1).flatten(1)


def binned(values_N: Tensor, edges: Tensor) -> Tensor:
    """Returns the bin of each number, 0 where it is missing."""
    is_number_N = ~values_N.isnan()
    return torch.where(is_number_N, torch.bucketize(values_N.double(), edges) + 1, 0)


def bin_edges(values_N: Tensor, own_N: Tensor) -> Tensor:
    """Returns quantiles of all numbers, and the ends of the range of a class's own.

    The range is widened by what so few rows are expected to leave out.
    """
    known, own = (rows[~rows.isnan()].double() for rows in (values_N, own_N))
    if not len(known):
        return torch.zeros(0, dtype=torch.float64)
    edges = torch.quantile(known, torch.linspace(0, 1, BINS + 1, dtype=torch.float64)[1:-1])
    if len(own):
        margin = (own.max() - own.min()) / len(own)
        edges = torch.cat([edges, torch.stack([own.min() - margin, own.max() + margin])])
    distinct: Tensor = torch.unique(edges)
    return distinct


def halves(is_class_N: Tensor) -> Tensor:
    """Returns the half, 0 or 1, of each row; the rows of a class and the others alternate."""
    rank_N = torch.where(is_class_N, is_class_N.cumsum(0), (~is_class_N).cumsum(0))
    return rank_N % 2


def _precision_of_numbers(values_N: Tensor, is_class_N: Tensor) -> Tensor:
    half_N = halves(is_class_N)
    fitted = [values_N[is_class_N & (half_N != half)] for half in range(2)]
    return _precision_of_values(
        [binned(values_N, bin_edges(values_N, own_N)) for own_N in fitted], is_class_N
    )


def _precision_of_values(values: Sequence[Tensor], is_class_N: Tensor) -> Tensor:
    """Returns the precisions by the frequencies of values.

    values: those of all rows, once for each half that is scored.
    """
    if int(is_class_N.sum()) < MIN_ROWS:
        return torch.zeros(1, dtype=torch.float64)
    half_N = halves(is_class_N)
    scores_N = torch.zeros(len(is_class_N), dtype=torch.float64)
    for half, values_N in enumerate(values):
        fitted_N, size = half_N != half, int(values_N.max()) + 1
        own_V, others_V = (
            torch.bincount(values_N[fitted_N & rows_N], minlength=size).double() + SMOOTHING
            for rows_N in (is_class_N, ~is_class_N)
        )
        ratio_V = (own_V / own_V.sum()).log() - (others_V / others_V.sum()).log()
        scores_N[~fitted_N] = ratio_V[values_N[~fitted_N]]
    return precisions(scores_N, is_class_N)


def _precision_of_features(features_NP: Tensor, is_class_N: Tensor) -> Tensor:
    if int(is_class_N.sum()) < MIN_ROWS or bool(is_class_N.all()):
        return torch.zeros(1, dtype=torch.float64)
    half_N = halves(is_class_N)
    scores_N = torch.zeros(len(features_NP), dtype=torch.float64)
    for half in range(2):
        fitted_N = half_N != half
        own, others = features_NP[fitted_N & is_class_N], features_NP[fitted_N & ~is_class_N]
        spread_P = (others.var(0, correction=0) + SMALLEST_SPREAD**2).sqrt()
        spread_P = spread_P + spread_P.median()
        shift_P = _shrunken_shift(own, others, spread_P)
        middle_P = others.mean(0) + shift_P / 2
        ratio_NP = shift_P * (features_NP[~fitted_N] - middle_P) / spread_P**2
        scores_N[~fitted_N] = ratio_NP.double().sum(1)
    return precisions(scores_N, is_class_N)


def _shrunken_shift(own_DP: Tensor, others_RP: Tensor, spread_P: Tensor) -> Tensor:
    """Returns how far the mean of a class lies from that of the others, [P]; 0 where by chance.

    D rows of the class, R others.
    """
    error_P = spread_P * math.sqrt(1 / len(own_DP) + 1 / len(others_RP))
    shift_P = own_DP.mean(0) - others_RP.mean(0)
    return shift_P.sign() * (shift_P.abs() - SHRINKAGE * error_P).clamp_min(0)


def precisions(scores_N: Tensor, is_class_N: Tensor) -> Tensor:
    """Returns the precision at each row of the class, in the order of falling scores.

    Rows with the same score come in the worst order.
    """
    order = torch.argsort(is_class_N.long(), stable=True)
    order = order[torch.argsort(-scores_N[order], stable=True)]
    hits_N = is_class_N[order]
    ranks_N = torch.arange(1, len(hits_N) + 1)
    return hits_N.cumsum(0)[hits_N].double() / ranks_N[hits_N]
