"""Random changes to a batch are the same on one worker and on many, and never remove everything."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from distributed.config import DataConfig
from model.batch import Batch
from model.config import LossConfig
from model.learning.augment import augment, drop_modalities, mix_samples
from tests.model import samples

STILL = DataConfig(
    flip="none", shift=0.0, zoom=0.0, rotate=0.0, colour=0.0, erase=0.0, cell_dropout=0.0
)
COUNTS = torch.tensor(samples.COUNTS, dtype=torch.float32)

IMAGES = samples.schema().images


def shares(batch: Batch, cuts: list[int]) -> list[Batch]:
    bounds = [0, *cuts, len(batch)]
    return [
        batch.select(slice(a, b)).replace(start=a, total=len(batch))
        for a, b in zip(bounds, bounds[1:])
    ]


def equal(a: Batch, b: Batch) -> bool:
    changed = all(torch.allclose(a.images[k], b.images[k], atol=1e-6) for k in a.images)
    changed &= all(torch.allclose(a.numbers[k], b.numbers[k], equal_nan=True) for k in a.numbers)
    changed &= all(torch.equal(a.categories[k], b.categories[k]) for k in a.categories)
    for name in ("present_BM", "dropped_BM", "partners_B", "shares_B"):
        mine, theirs = getattr(a, name), getattr(b, name)
        changed &= mine is theirs if mine is None else torch.equal(mine, theirs)
    return changed


@pytest.mark.parametrize("kind", ["none", "mixup", "remix"])
def test_one_worker_and_three_change_a_batch_alike(kind: str) -> None:
    batch = samples.batch(samples.schema(), 12)
    config, loss = (
        dataclasses.replace(DataConfig(), erase=0.3, cell_dropout=0.3),
        LossConfig(mix=kind),
    )

    def change(part: Batch) -> Batch:
        return drop_modalities(
            mix_samples(augment(part, IMAGES, config, 5, 7), loss, COUNTS, 5, 7), 0.4, 5, 7
        )

    whole = change(batch)
    parts = [change(part) for part in shares(batch, [4, 10])]
    assert equal(whole, samples.concatenate(parts))
    assert not equal(whole, change(batch.replace(images={"photo": batch.images["photo"].flip(0)})))


def test_another_step_draws_anew() -> None:
    batch = samples.batch(samples.schema())
    assert not torch.equal(
        augment(batch, IMAGES, DataConfig(), 0, 1).images["photo"],
        augment(batch, IMAGES, DataConfig(), 0, 2).images["photo"],
    )


def test_no_augmentation_leaves_pixels_and_cells() -> None:
    batch = samples.batch(samples.schema())
    changed = augment(batch, IMAGES, STILL, 0, 1)
    assert torch.allclose(changed.images["photo"], batch.images["photo"] / 255, atol=1e-5)
    assert torch.equal(changed.categories["table"], batch.categories["table"])


def test_flip_mirrors_half_of_the_images() -> None:
    batch = samples.batch(samples.schema(), 64)
    pixels = batch.images["photo"] / 255
    changed = augment(batch, IMAGES, dataclasses.replace(STILL, flip="horizontal"), 0, 1).images[
        "photo"
    ]
    flipped = torch.tensor(
        [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(changed, pixels)]
    )
    kept = torch.tensor([torch.allclose(a, b, atol=1e-4) for a, b in zip(changed, pixels)])
    assert (flipped ^ kept).all()
    assert 16 < flipped.sum() < 48


def test_cells_are_lost_at_the_rate_asked_for() -> None:
    batch = samples.batch(samples.schema(), 2000)
    lost = augment(batch, IMAGES, dataclasses.replace(STILL, cell_dropout=0.2), 0, 1)
    was_there = ~batch.numbers["table"].isnan()
    assert abs(lost.numbers["table"].isnan()[was_there].float().mean() - 0.2) < 0.03


@pytest.mark.parametrize("probability", [0.3, 0.9])
def test_modality_dropout_never_drops_all(probability: float) -> None:
    data = samples.schema((samples.image("a", 8), samples.image("b", 8)), None)
    batch = samples.batch(data, 500)
    batch.present_BM[:] = torch.rand(500, 3) < 0.6
    dropped_BM = drop_modalities(batch, probability, 0, 3).dropped_BM
    assert dropped_BM is not None
    had_B, has_B = batch.present_BM.any(1), (batch.present_BM & ~dropped_BM).any(1)
    assert torch.equal(had_B, has_B)
    assert dropped_BM.any()
    assert not (dropped_BM & ~batch.present_BM).any()


def test_mixup_blends_neighbours_by_hand() -> None:
    batch = samples.batch(samples.schema(), 4)
    mixed = mix_samples(batch, LossConfig(mix="mixup", mix_alpha=1.0), COUNTS, 0, 1)
    assert mixed.partners_B is not None
    assert mixed.shares_B is not None
    assert mixed.partners_B.tolist() == batch.labels_B[[1, 0, 3, 2]].tolist()
    share = mixed.shares_B[2]
    by_hand = share * batch.images["photo"][2] / 255 + (1 - share) * batch.images["photo"][3] / 255
    assert torch.allclose(mixed.images["photo"][2], by_hand, atol=1e-6)


def test_mixup_leaves_records_of_other_modalities_alone() -> None:
    batch = samples.batch(samples.schema(), 4)
    batch.present_BM[1, 0] = False
    mixed = mix_samples(batch, LossConfig(mix="mixup", mix_alpha=1.0), COUNTS, 0, 1)
    assert mixed.shares_B is not None
    assert mixed.shares_B[:2].tolist() == [1.0, 1.0], (
        "the image would stay the record's own, and must not learn the partner's label"
    )
    assert torch.allclose(mixed.images["photo"][0], batch.images["photo"][0] / 255)
    assert torch.equal(
        mixed.numbers["table"][0].nan_to_num(), batch.numbers["table"][0].nan_to_num()
    )
    assert torch.equal(mixed.present_BM, batch.present_BM)
    assert (mixed.shares_B[2:] < 1).all()
