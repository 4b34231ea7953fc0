"""Random changes to a training batch, on the device. Legend: B batch, M modalities, C channels, U uniform draws.

Own code and not kornia: every draw is indexed by the record's position in the global batch, so that a batch cut over N workers is
changed exactly as on one; kornia's generators cannot be sliced that way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from model.batch import Batch
from model.config import LossConfig
from model.schema import Categorical, Numeric, Table


class AugmentSettings(Protocol):
    """What this file reads of the data section of the configuration."""

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
    """[B, U] uniform numbers: rows of the global batch's table of draws, the same whatever the number of workers."""
    generator = torch.Generator().manual_seed(
        seed
    )  # on the CPU, so that a CPU and a GPU draw alike
    total = batch.total or len(batch)
    table = torch.rand(total, columns, generator=generator)
    return table[batch.start : batch.start + len(batch)].to(device, non_blocking=True)


def derive_seed(seed: int, step: int, stream: int) -> int:
    """A seed for one use (`stream`) of one step."""
    return (seed * 1_000_003 + step * 101 + stream) % (2**63 - 1)


def augment(batch: Batch, config: AugmentSettings, seed: int, step: int) -> Batch:
    """Images turned, shifted, scaled, recoloured and partly covered; table cells set to missing."""
    device = batch.present_BM.device
    images = {
        name: augment_images(
            pixels, uniform_draws(batch, 11, derive_seed(seed, step, 10 + k), device), config
        )
        for k, (name, pixels) in enumerate(batch.images.items())
    }
    numbers, categories = dict(batch.numbers), dict(batch.categories)
    for k, name in enumerate(batch.numbers):
        if config.cell_dropout == 0:
            break
        width = numbers[name].shape[1]
        lost = (
            uniform_draws(
                batch, width + categories[name].shape[1], derive_seed(seed, step, 50 + k), device
            )
            < config.cell_dropout
        )
        numbers[name] = numbers[name].masked_fill(lost[:, :width], torch.nan)
        categories[name] = categories[name].masked_fill(lost[:, width:], -1)
    return batch.replace(images=images, numbers=numbers, categories=categories)


def augment_images(pixels_BCHW: Tensor, u_BU: Tensor, config: AugmentSettings) -> Tensor:
    """uint8 pixels -> floats in 0..1."""
    x_BCHW = warp(_unit(pixels_BCHW), u_BU, config)
    if config.colour:
        gain_B, lift_B = (
            1 + config.colour * (2 * u_BU[:, 6] - 1),
            config.colour * (2 * u_BU[:, 7] - 1),
        )
        x_BCHW = (x_BCHW * gain_B[:, None, None, None] + lift_B[:, None, None, None]).clamp(0, 1)
    if config.erase:
        x_BCHW = x_BCHW.masked_fill(square_mask(x_BCHW, u_BU[:, 8], u_BU[:, 9], config.erase), 0.5)
    return x_BCHW


def warp(x_BCHW: Tensor, u_BU: Tensor, config: AugmentSettings) -> Tensor:
    """One affine map an image: a flip, a shift by whole pixels and, for half of the images, rotation and zoom; resampled once."""
    height, width = x_BCHW.shape[2:]
    one_B = torch.ones_like(u_BU[:, 0])
    flip_x = (
        torch.where(u_BU[:, 0] < 0.5, -one_B, one_B)
        if config.flip in ("horizontal", "both")
        else one_B
    )
    flip_y = (
        torch.where(u_BU[:, 1] < 0.5, -one_B, one_B)
        if config.flip in ("vertical", "both")
        else one_B
    )
    turned_B = (u_BU[:, 10] < 0.5).to(
        u_BU.dtype
    )  # the others stay sharp, as test images are: resampling blurs
    angle_B = turned_B * math.radians(config.rotate) * (2 * u_BU[:, 2] - 1)
    scale_B = 1 + turned_B * config.zoom * (2 * u_BU[:, 3] - 1)
    cos_B, sin_B, aspect = (
        torch.cos(angle_B) * scale_B,
        torch.sin(angle_B) * scale_B,
        height / width,
    )
    shift_x = torch.round(config.shift * width * (2 * u_BU[:, 4] - 1)) * 2 / width  # whole pixels
    shift_y = torch.round(config.shift * height * (2 * u_BU[:, 5] - 1)) * 2 / height
    top = torch.stack([cos_B * flip_x, -sin_B * aspect * flip_x, shift_x], 1)
    bottom = torch.stack([sin_B / aspect * flip_y, cos_B * flip_y, shift_y], 1)
    grid = torch.nn.functional.affine_grid(
        torch.stack([top, bottom], 1), list(x_BCHW.shape), align_corners=False
    )
    return torch.nn.functional.grid_sample(
        x_BCHW, grid.to(x_BCHW.dtype), padding_mode="reflection", align_corners=False
    )


def square_mask(x_BCHW: Tensor, u_B: Tensor, v_B: Tensor, share: float) -> Tensor:
    """[B, 1, H, W] mask of a square of `share` of the shorter side around a random place."""
    height, width = x_BCHW.shape[2:]
    half = share * min(height, width) / 2
    rows_H, columns_W = (
        torch.arange(height, device=x_BCHW.device),
        torch.arange(width, device=x_BCHW.device),
    )
    in_rows = (rows_H[None] - u_B[:, None] * height).abs() <= half
    in_columns = (columns_W[None] - v_B[:, None] * width).abs() <= half
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def resample_cells(
    batch: Batch, tables: Sequence[Table], probability: float, seed: int, step: int
) -> Batch:
    """Table cells replaced at random by draws from their column's training marginal: what a record of another class could have held.

    A number is drawn by interpolating the training quantiles, a category from the vocabulary (its frequencies are not known here); both are
    missing as often as in training.
    """
    device = batch.present_BM.device
    numbers, categories = dict(batch.numbers), dict(batch.categories)
    for k, table in enumerate(tables):
        columns: list[Numeric | Categorical] = [*table.numeric, *table.categorical]
        width, split = len(columns), len(table.numeric)
        u_BU = uniform_draws(batch, 3 * width, derive_seed(seed, step, 70 + k), device)
        chosen_BW = u_BU[:, :width] < probability
        lost_BW = u_BU[:, width : 2 * width] < torch.tensor(
            [c.missing for c in columns], device=device
        )
        v_BW = u_BU[:, 2 * width :]
        values_BN = (
            torch.stack([_quantile(c, v_BW[:, i]) for i, c in enumerate(table.numeric)], 1)
            if split
            else v_BW[:, :0]
        )
        sizes = torch.tensor([len(c.vocabulary) for c in table.categorical], device=device)
        ids_BK = torch.where(sizes > 0, (v_BW[:, split:] * sizes).long(), -1)
        values_BN = values_BN.masked_fill(lost_BW[:, :split], torch.nan)
        ids_BK = ids_BK.masked_fill(lost_BW[:, split:], -1)
        numbers[table.name] = torch.where(chosen_BW[:, :split], values_BN, numbers[table.name])
        categories[table.name] = torch.where(chosen_BW[:, split:], ids_BK, categories[table.name])
    return batch.replace(numbers=numbers, categories=categories)


def _quantile(column: Numeric, u_B: Tensor) -> Tensor:
    """The training values at these levels, between two known quantiles by interpolation."""
    knots_K = torch.tensor(
        column.quantiles or (column.mean,), dtype=torch.float32, device=u_B.device
    )
    place_B = u_B * (len(knots_K) - 1)
    low_B = place_B.long()
    return torch.lerp(
        knots_K[low_B], knots_K[(low_B + 1).clamp_max(len(knots_K) - 1)], place_B - low_B
    )


def drop_modalities(batch: Batch, probability: float, seed: int, step: int) -> Batch:
    """Hides each present modality from the fusion with this probability, but never all that a sample has."""
    modalities = batch.present_BM.shape[1]
    if probability == 0 or modalities == 1:
        return batch
    u_BU = uniform_draws(batch, 2 * modalities, derive_seed(seed, step, 1), batch.present_BM.device)
    dropped_BM = (u_BU[:, :modalities] < probability) & batch.present_BM
    survivor_BM = torch.where(batch.present_BM, u_BU[:, modalities:], -1.0)
    spared_BM = torch.nn.functional.one_hot(survivor_BM.argmax(1), modalities).bool()
    nothing_left_B1 = (batch.present_BM & ~dropped_BM).sum(1, keepdim=True) == 0
    return batch.replace(dropped_BM=dropped_BM & ~(nothing_left_B1 & spared_BM))


def mix_samples(batch: Batch, config: LossConfig, counts_C: Tensor, seed: int, step: int) -> Batch:
    """Mixup and Remix of neighbours 2i and 2i + 1 of the shuffled global batch: pixels and numbers by value, categories by a draw.

    Only of records with the same modalities: what stays the record's own must not be told the partner's label. A partner may be of another
    fold, so under mix the cross-fitting is approximate: a head sees a blend of rows it holds out.
    """
    if config.mix == "none" or len(batch) < 2:
        return batch
    from model.learning.losses import remix_share

    device = batch.present_BM.device
    even = batch.start % 2
    index_B = torch.arange(len(batch), device=device)
    partner_B = ((index_B + even) ^ 1) - even
    partner_B = torch.where((partner_B < 0) | (partner_B >= len(batch)), index_B, partner_B)
    u_B1 = uniform_draws(batch, 1, derive_seed(seed, step, 2), device)
    share_B = _beta(batch, config.mix_alpha, derive_seed(seed, step, 3), device)
    other = batch.select(partner_B)
    alike_B = (batch.present_BM == other.present_BM).all(1)
    weight_B = torch.where(alike_B, share_B, 1.0)
    shares_B = share_B
    if config.mix == "remix":
        own_B, partner_counts_B = (
            counts_C[batch.labels_B.clamp_min(0)],
            counts_C[other.labels_B.clamp_min(0)],
        )
        shares_B = remix_share(
            share_B, own_B, partner_counts_B, config.remix_kappa, config.remix_tau
        )
    return batch.replace(
        images={
            k: _blend(_unit(v), _unit(other.images[k]), weight_B[:, None, None, None])
            for k, v in batch.images.items()
        },
        numbers={
            k: _blend(
                v, torch.where(other.numbers[k].isnan(), v, other.numbers[k]), weight_B[:, None]
            )
            for k, v in batch.numbers.items()
        },
        categories={
            k: torch.where(u_B1 < weight_B[:, None], v, other.categories[k])
            for k, v in batch.categories.items()
        },
        partners_B=other.labels_B,
        shares_B=torch.where(alike_B, shares_B, 1.0),
    )


def _blend(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return share * own + (1 - share) * other


def _unit(pixels_BCHW: Tensor) -> Tensor:
    return pixels_BCHW / 255 if pixels_BCHW.dtype == torch.uint8 else pixels_BCHW


def _beta(batch: Batch, alpha: float, seed: int, device: torch.device) -> Tensor:
    """[B] draws of Beta(alpha, alpha): a ratio of two gamma draws, made for the whole global batch from one seed."""
    import numpy

    values = numpy.random.default_rng(seed).beta(alpha, alpha, batch.total or len(batch))
    return torch.from_numpy(values[batch.start : batch.start + len(batch)]).float().to(device)
