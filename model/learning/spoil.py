"""Spoils one modality of some training records on purpose.

The fusion learns from such records which modality of a record to trust. What a spoilt modality
shows does not belong to the label, so the auxiliary heads do not learn from it (model/learning/
losses.py). All draws are indexed by the record's position in the global batch, as in augment.py.

Legend: B batch, M modalities, S spoilt records, C channels, H x W pixels, U uniform draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.batch import Batch
from model.copying import put, put_numbers
from model.learning.augment import (
    derive_seed,
    in_unit_range,
    partners,
    resample_cells,
    uniform_draws,
)
from model.learning.image_kinds import DRAWS, SPOILING, change_some, without
from model.schema import Schema

EXCHANGE = "exchange"  # the content of another record


def spoil_modalities(
    batch: Batch, schema: Schema, share: float, left_out: Sequence[str], seed: int, step: int
) -> Batch:
    """Returns the batch with one modality of some records spoilt, and which: spoilt_BM.

    Only records with more than one modality are touched. share: of the records, for each modality.
    left_out: kinds that are not used.
    """
    modalities = len(schema.modalities)
    if not share or modalities == 1:
        return batch
    # Drawn on the CPU: to find rows on a GPU would wait for all work there.
    u_BU = uniform_draws(batch, 2 + DRAWS, derive_seed(seed, step, 4), torch.device("cpu"))
    chosen_B = (u_BU[:, 0] / share).long()  # from M on: the record stays as it is
    chosen_BM = chosen_B[:, None] == torch.arange(modalities)
    several_B1 = batch.present_BM.sum(1, keepdim=True) > 1
    spoilt_BM = put(chosen_BM, several_B1.device) & batch.present_BM & several_B1
    kinds = without(SPOILING, left_out)
    images, frozen = dict(batch.images), dict(batch.frozen)
    numbers, categories = dict(batch.numbers), dict(batch.categories)
    noisy = resample_cells(batch, schema.tables, 1.0, seed, step)
    for m, name in enumerate(schema.modalities):
        is_exchanged_B = _is_exchanged(u_BU[:, 1], name in numbers, left_out)
        exchanged_B = put(is_exchanged_B, spoilt_BM.device)
        change = _Change(spoilt_BM[:, m], exchanged_B, partners(batch))
        if name in images:
            x_BCHW = in_unit_range(images[name])
            spoilt_BCHW = change_some(x_BCHW, u_BU[:, 2:], chosen_BM[:, m], kinds)
            images[name] = change.apply(x_BCHW, spoilt_BCHW)
        elif name in frozen:
            frozen[name] = change.apply(frozen[name], batch.frozen_spoilt.get(name, frozen[name]))
        else:
            numbers[name] = change.apply(numbers[name], noisy.numbers[name])
            categories[name] = change.apply(categories[name], noisy.categories[name])
    return batch.replace(
        images=images,
        frozen=frozen,
        numbers=numbers,
        categories=categories,
        spoilt_BM=spoilt_BM,
    )


def add_unrelated_cells(batch: Batch, schema: Schema, seed: int, step: int) -> Batch:
    """Returns the batch with cells of tables that were drawn independently of each other.

    A third of the records has all of its cells drawn from their columns, a third about half of
    them, and a third has numbers from a normal distribution, narrower or wider than the column's.
    """
    if not batch.numbers or len(schema.modalities) == 1:
        return batch
    device = batch.present_BM.device
    u_BU = uniform_draws(batch, 2, derive_seed(seed, step, 5), device)
    is_half_B1, is_normal_B1 = u_BU[:, :1] < 1 / 3, u_BU[:, :1] > 2 / 3
    share_B1 = torch.where(is_half_B1, 0.5, 1.0)
    drawn = resample_cells(batch, schema.tables, share_B1, derive_seed(seed, step, 6), step)
    numbers = dict(drawn.numbers)
    for k, table in enumerate(schema.tables):
        mean_N = put_numbers([column.mean for column in table.numeric], device)
        std_N = put_numbers([column.std for column in table.numeric], device)
        u_BN = uniform_draws(batch, len(table.numeric), derive_seed(seed, step, 90 + k), device)
        scale_B1 = 0.25 * 16 ** u_BU[:, 1:]
        normal_BN = mean_N + scale_B1 * std_N * torch.special.ndtri(u_BN.clamp(1e-6, 1 - 1e-6))
        normal_BN = torch.where(drawn.numbers[table.name].isnan(), torch.nan, normal_BN)
        numbers[table.name] = torch.where(is_normal_B1, normal_BN, drawn.numbers[table.name])
    return batch.replace(unrelated_numbers=numbers, unrelated_categories=drawn.categories)


@dataclass(frozen=True)
class _Change:
    """Which records get spoilt content, and which of these that of their partner."""

    spoilt_B: Tensor
    exchanged_B: Tensor
    partner_B: Tensor

    def apply(self, own: Tensor, spoilt: Tensor) -> Tensor:
        """Returns the records' content after the change; the first axis is that of the records."""
        shape = (-1, *[1] * (own.ndim - 1))
        other = torch.where(self.exchanged_B.view(shape), own[self.partner_B], spoilt)
        return torch.where(self.spoilt_B.view(shape), other, own)


def _is_exchanged(u_B: Tensor, is_table: bool, left_out: Sequence[str]) -> Tensor:
    """Returns whether a record gets its partner's content: half of the tables, a fifth of images.

    Every kind of an image comes up as often as any other.
    """
    kinds = 1 if is_table else sum(kind not in left_out for kind in SPOILING)
    share = 0.0 if EXCHANGE in left_out else 1 / (1 + kinds)
    return u_B < share
