"""Random changes to a training batch, made on the device.

This is own code and not kornia, because every random draw is indexed by the record's position in
the global batch: a batch that is divided over N workers is changed exactly as on one. The random
generators of kornia cannot be divided that way.

Legend: B batch, M modalities, C channels, U uniform draws, N numeric columns, K categorical
columns, W = N + K columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy
import torch
from torch import Tensor

from model.batch import Batch
from model.config import LossConfig
from model.copying import put, put_numbers
from model.learning.losses import remix_share
from model.one_hot import one_hot
from model.schema import Categorical, Image, Numeric, Table


class AugmentSettings(Protocol):
    """The settings of the section `data` that this file uses."""

    @property
    def flip(self) -> str: ...
    @property
    def shift(self) -> float: ...
    @property
    def zoom(self) -> float: ...
    @property
    def rotate(self) -> float: ...
    @property
    def colour(self) -> float: ...
    @property
    def erase(self) -> float: ...
    @property
    def cell_dropout(self) -> float: ...


def uniform_draws(batch: Batch, columns: int, seed: int, device: torch.device) -> Tensor:
    """Returns uniform numbers for each record, [B, columns].

    They are drawn for the whole global batch, so that they do not depend on the number of workers,
    and on the CPU, so that a CPU and a GPU draw alike.
    """
    generator = torch.Generator().manual_seed(seed)
    total = batch.total or len(batch)
    table = torch.rand(total, columns, generator=generator)
    return put(table[batch.start : batch.start + len(batch)], device)


def derive_seed(seed: int, step: int, stream: int) -> int:
    """Returns the seed of one kind of draws (`stream`) in one step."""
    return (seed * 1_000_003 + step * 101 + stream) % (2**63 - 1)


def augment(
    batch: Batch, images: Sequence[Image], config: AugmentSettings, seed: int, step: int
) -> Batch:
    """Returns the batch with augmented images and with some table cells set to missing."""
    device = batch.present_BM.device
    flips = {image.name: image.flips_for(config.flip) for image in images}
    changed = {
        name: augment_images(
            pixels,
            uniform_draws(batch, 11, derive_seed(seed, step, 10 + k), device),
            config,
            flips[name],
        )
        for k, (name, pixels) in enumerate(batch.images.items())
    }
    numbers, categories = dict(batch.numbers), dict(batch.categories)
    for k, name in enumerate(batch.numbers):
        if config.cell_dropout == 0:
            break
        numeric, columns = numbers[name].shape[1], categories[name].shape[1]
        u_BW = uniform_draws(batch, numeric + columns, derive_seed(seed, step, 50 + k), device)
        lost_BW = u_BW < config.cell_dropout
        numbers[name] = numbers[name].masked_fill(lost_BW[:, :numeric], torch.nan)
        categories[name] = categories[name].masked_fill(lost_BW[:, numeric:], -1)
    return batch.replace(images=changed, numbers=numbers, categories=categories)


def augment_images(
    pixels_BCHW: Tensor, u_BU: Tensor, config: AugmentSettings, flips: str
) -> Tensor:
    """Returns the images turned, shifted, scaled, recoloured and partly covered, in 0..1."""
    x_BCHW = warp(in_unit_range(pixels_BCHW), u_BU, config, flips)
    if config.colour:
        contrast_B = 1 + config.colour * (2 * u_BU[:, 6] - 1)
        brightness_B = config.colour * (2 * u_BU[:, 7] - 1)
        x_BCHW = x_BCHW * contrast_B[:, None, None, None] + brightness_B[:, None, None, None]
        x_BCHW = x_BCHW.clamp(0, 1)
    if config.erase:
        x_BCHW = x_BCHW.masked_fill(square_mask(x_BCHW, u_BU[:, 8], u_BU[:, 9], config.erase), 0.5)
    return x_BCHW


def warp(x_BCHW: Tensor, u_BU: Tensor, config: AugmentSettings, flips: str) -> Tensor:
    """Returns the images after one affine map each: flip, shift, rotation and zoom.

    The shift is by whole pixels, and only half of the images are rotated and zoomed: the others
    stay sharp, as test images are, because resampling blurs.
    """
    height, width = x_BCHW.shape[2:]
    aspect = height / width
    flip_x_B = flip_y_B = one_B = torch.ones_like(u_BU[:, 0])
    if flips in ("horizontal", "both"):
        flip_x_B = torch.where(u_BU[:, 0] < 0.5, -one_B, one_B)
    if flips in ("vertical", "both"):
        flip_y_B = torch.where(u_BU[:, 1] < 0.5, -one_B, one_B)
    turned_B = (u_BU[:, 10] < 0.5).to(u_BU.dtype)
    angle_B = turned_B * math.radians(config.rotate) * (2 * u_BU[:, 2] - 1)
    scale_B = 1 + turned_B * config.zoom * (2 * u_BU[:, 3] - 1)
    cos_B, sin_B = torch.cos(angle_B) * scale_B, torch.sin(angle_B) * scale_B
    # From pixels to affine_grid's unit, half of the image's side.
    shift_x_B = torch.round(config.shift * width * (2 * u_BU[:, 4] - 1)) * 2 / width
    shift_y_B = torch.round(config.shift * height * (2 * u_BU[:, 5] - 1)) * 2 / height
    top = torch.stack([cos_B * flip_x_B, -sin_B * aspect * flip_x_B, shift_x_B], 1)
    bottom = torch.stack([sin_B / aspect * flip_y_B, cos_B * flip_y_B, shift_y_B], 1)
    grid = torch.nn.functional.affine_grid(
        torch.stack([top, bottom], 1), list(x_BCHW.shape), align_corners=False
    )
    return torch.nn.functional.grid_sample(
        x_BCHW, grid.to(x_BCHW.dtype), padding_mode="reflection", align_corners=False
    )


def square_mask(x_BCHW: Tensor, u_B: Tensor, v_B: Tensor, share: float) -> Tensor:
    """Returns the mask of a square in each image, [B, 1, H, W].

    share: its side as a share of the image's shorter side. u_B, v_B: row and column of its centre
    as shares of the image's sides.
    """
    height, width = x_BCHW.shape[2:]
    half = share * min(height, width) / 2
    rows_H = torch.arange(height, device=x_BCHW.device)
    columns_W = torch.arange(width, device=x_BCHW.device)
    in_rows = (rows_H[None] - u_B[:, None] * height).abs() <= half
    in_columns = (columns_W[None] - v_B[:, None] * width).abs() <= half
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def resample_cells(
    batch: Batch, tables: Sequence[Table], probability: float | Tensor, seed: int, step: int
) -> Batch:
    """Returns the batch with table cells replaced at random by values of other training rows.

    probability: that a cell is replaced; one number, or one a record, [B, 1].

    A number is drawn by interpolating the training quantiles of its column, a category uniformly
    from the vocabulary (the schema does not hold frequencies); both are missing as often as in
    training.
    """
    device = batch.present_BM.device
    numbers, categories = dict(batch.numbers), dict(batch.categories)
    for k, table in enumerate(tables):
        columns: list[Numeric | Categorical] = [*table.numeric, *table.categorical]
        width, numeric = len(columns), len(table.numeric)
        u_BU = uniform_draws(batch, 3 * width, derive_seed(seed, step, 70 + k), device)
        replaced_BW = u_BU[:, :width] < probability
        missing_W = put_numbers([c.missing for c in columns], device)
        missing_BW = u_BU[:, width : 2 * width] < missing_W
        v_BW = u_BU[:, 2 * width :]
        values_BN = v_BW[:, :0]
        if numeric:
            drawn = [_quantile(c, v_BW[:, i]) for i, c in enumerate(table.numeric)]
            values_BN = torch.stack(drawn, 1)
        sizes_K = put_numbers([len(c.vocabulary) for c in table.categorical], device)
        ids_BK = torch.where(sizes_K > 0, (v_BW[:, numeric:] * sizes_K).long(), -1)
        values_BN = values_BN.masked_fill(missing_BW[:, :numeric], torch.nan)
        ids_BK = ids_BK.masked_fill(missing_BW[:, numeric:], -1)
        name = table.name
        numbers[name] = torch.where(replaced_BW[:, :numeric], values_BN, numbers[name])
        categories[name] = torch.where(replaced_BW[:, numeric:], ids_BK, categories[name])
    return batch.replace(numbers=numbers, categories=categories)


def _quantile(column: Numeric, u_B: Tensor) -> Tensor:
    """Returns the quantiles of the column at the levels u_B in 0..1, interpolated linearly."""
    quantiles = column.quantiles or (column.mean,)
    quantiles_Q = put_numbers(quantiles, u_B.device, torch.float32)
    place_B = u_B * (len(quantiles_Q) - 1)
    low_B = place_B.long()
    high_B = (low_B + 1).clamp_max(len(quantiles_Q) - 1)
    return torch.lerp(quantiles_Q[low_B], quantiles_Q[high_B], place_B - low_B)


def drop_modalities(batch: Batch, probability: float, seed: int, step: int) -> Batch:
    """Returns the batch with some present modalities hidden, but never all of a record."""
    modalities = batch.present_BM.shape[1]
    if probability == 0 or modalities == 1:
        return batch
    u_BU = uniform_draws(batch, 2 * modalities, derive_seed(seed, step, 1), batch.present_BM.device)
    dropped_BM = (u_BU[:, :modalities] < probability) & batch.present_BM
    survivor_BM = torch.where(batch.present_BM, u_BU[:, modalities:], -1.0)
    spared_BM = one_hot(survivor_BM.argmax(1), modalities)
    nothing_left_B1 = (batch.present_BM & ~dropped_BM).sum(1, keepdim=True) == 0
    return batch.replace(dropped_BM=dropped_BM & ~(nothing_left_B1 & spared_BM))


def partners(batch: Batch) -> Tensor:
    """Returns for every record another one of the batch, [B].

    Pairs are the records 2i and 2i + 1 of the shuffled global batch. A record whose partner is on
    another worker is its own.
    """
    is_odd = batch.start % 2  # the first record of this worker is the second of its pair
    index_B = torch.arange(len(batch), device=batch.present_BM.device)
    partner_B = ((index_B + is_odd) ^ 1) - is_odd
    return torch.where((partner_B < 0) | (partner_B >= len(batch)), index_B, partner_B)


def mix_samples(batch: Batch, config: LossConfig, counts_C: Tensor, seed: int, step: int) -> Batch:
    """Returns the batch with pairs of records blended by mixup or Remix (loss.mix).

    Pixels and numbers are blended by value, categories by a draw. Only records with the same
    modalities, spoilt ones left out, are blended: a modality that only one of them has would
    otherwise learn the label of the other. The partner may be of another fold, so that
    cross-fitting is approximate under loss.mix: a head sees a blend of rows that it holds out.
    """
    if config.mix == "none" or len(batch) < 2:
        return batch
    device = batch.present_BM.device
    partner_B = partners(batch)
    u_B1 = uniform_draws(batch, 1, derive_seed(seed, step, 2), device)
    share_B = _beta(batch, config.mix_alpha, derive_seed(seed, step, 3), device)
    others = batch.select(partner_B)
    alike_B = (batch.intact_BM == others.intact_BM).all(1)
    label_share_B = share_B
    if config.mix == "remix":
        own_counts_B = counts_C[batch.labels_B.clamp_min(0)]
        partner_counts_B = counts_C[others.labels_B.clamp_min(0)]
        label_share_B = remix_share(
            share_B, own_counts_B, partner_counts_B, config.remix_kappa, config.remix_tau
        )
    blended = _blend(batch, others, torch.where(alike_B, share_B, 1.0), u_B1)
    return blended.replace(
        partners_B=others.labels_B,
        shares_B=torch.where(alike_B, label_share_B, 1.0),
        partners_trust_B=others.trust_B,
    )


def _blend(batch: Batch, partners: Batch, share_B: Tensor, u_B1: Tensor) -> Batch:
    """Returns the records with `share_B` of their own content and the rest of their partners'."""
    share_B1 = share_B[:, None]
    images = {
        name: _weighted(
            in_unit_range(pixels_BCHW),
            in_unit_range(partners.images[name]),
            share_B[:, None, None, None],
        )
        for name, pixels_BCHW in batch.images.items()
    }
    numbers = {}
    for name, own_BN in batch.numbers.items():
        partner_BN = partners.numbers[name]
        partner_BN = torch.where(partner_BN.isnan(), own_BN, partner_BN)
        numbers[name] = _weighted(own_BN, partner_BN, share_B1)
    categories = {
        name: torch.where(u_B1 < share_B1, own_BK, partners.categories[name])
        for name, own_BK in batch.categories.items()
    }
    frozen = {
        name: _weighted(own_BVK, partners.frozen[name], share_B1[:, None])
        for name, own_BVK in batch.frozen.items()
    }
    return batch.replace(images=images, numbers=numbers, categories=categories, frozen=frozen)


def _weighted(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Returns `share` of the one and the rest of the other."""
    return share * own + (1 - share) * other


def in_unit_range(pixels_BCHW: Tensor) -> Tensor:
    """Returns pixels as floats in 0..1."""
    return pixels_BCHW / 255 if pixels_BCHW.dtype == torch.uint8 else pixels_BCHW


def _beta(batch: Batch, alpha: float, seed: int, device: torch.device) -> Tensor:
    """Returns draws of Beta(alpha, alpha), made for the whole global batch, [B]."""
    values = numpy.random.default_rng(seed).beta(alpha, alpha, batch.total or len(batch))
    return put(torch.from_numpy(values[batch.start : batch.start + len(batch)]).float(), device)
