"""Degraded images: what is left of them, which records have them, and who learns from them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from model.batch import Batch
from model.config import DEGRADING_KINDS, SPOILING_KINDS, ModelConfig
from model.learning.augment import in_unit_range
from model.learning.degrade import TURN, degrade_images, degrading_kinds
from model.learning.image_kinds import DEGRADING, DRAWS, SPOILING, change_images
from model.learning.losses import loss_terms
from model.learning.spoil import EXCHANGE, spoil_modalities
from model.network import Network
from tests.model import samples

SCHEMA = samples.schema()


def large_batch(rows: int) -> Batch:
    batch = samples.batch(SCHEMA, rows)
    images = {name: in_unit_range(pixels) for name, pixels in batch.images.items()}
    return batch.replace(images=images, present_BM=torch.ones_like(batch.present_BM))


def degraded(batch: Batch, share: float = 0.3) -> Batch:
    return degrade_images(batch, SCHEMA, ["photo"], share, "auto", (), seed=3, step=5)


def pictures(rows: int = 200) -> torch.Tensor:
    """Smooth pictures of three channels, 24 x 32 pixels, that are unlike each other."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(rows, 3, 4, 5, generator=generator)
    return functional.interpolate(coarse, (24, 32), mode="bilinear")


def likeness(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How much of one picture's brightness the other one explains, in 0..1."""
    x, y = (z.mean(1).flatten(1) for z in (x, y))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (functional.normalize(x, dim=1) * functional.normalize(y, dim=1)).sum(1).square()


@pytest.mark.parametrize("kind", [kind for kind in DEGRADING if kind != TURN])
def test_a_degraded_picture_still_shows_what_it_showed(kind: str) -> None:
    x = pictures()
    u = torch.rand(len(x), DRAWS, generator=torch.Generator().manual_seed(1))
    after = change_images(x, u, {kind: DEGRADING[kind]})
    assert after.shape == x.shape
    assert after.min() >= 0
    assert after.max() <= 1
    assert not torch.allclose(after, x, atol=0.02)
    of_another = likeness(after, x.roll(1, 0)).mean()
    assert likeness(after, x).mean() > of_another + 0.2


def test_a_turned_picture_lies_on_its_side_between_bars() -> None:
    x = pictures()
    u = torch.rand(len(x), DRAWS, generator=torch.Generator().manual_seed(1))
    after = change_images(x, u, {TURN: DEGRADING[TURN]})
    bars, inner = 7, 18  # 24 rows of 32 columns become 18 columns of 24 rows
    assert not after[..., :bars].any()
    assert not after[..., bars + inner :].any()
    turned = functional.interpolate(x.transpose(2, 3), (24, 18), mode="bilinear", antialias=True)
    shown = after[..., bars : bars + inner]
    right = torch.stack([likeness(shown, turned.flip(axis)) for axis in (2, 3)]).amax(0)
    assert right.min() > 0.99
    assert likeness(shown, turned).mean() < 0.5


def test_the_kinds_that_settings_may_name_are_all_kinds() -> None:
    assert (*SPOILING, EXCHANGE) == SPOILING_KINDS
    assert tuple(DEGRADING) == DEGRADING_KINDS


def test_pictures_are_turned_only_where_the_data_have_no_up() -> None:
    image = samples.image()
    assert TURN not in degrading_kinds(image, "auto", ())
    assert TURN in degrading_kinds(dataclasses.replace(image, flips="both"), "auto", ())
    assert TURN in degrading_kinds(image, "both", ())
    assert [*degrading_kinds(image, "auto", ["tone", "hide"])] == [
        kind for kind in DEGRADING if kind not in ("tone", "hide", TURN)
    ]


def test_the_share_of_the_images_is_degraded_and_no_table() -> None:
    batch = large_batch(2000)
    after = degraded(batch, 0.15)
    assert after.degraded_BM is not None
    assert after.degraded_BM.float().mean(0).tolist() == pytest.approx([0.15, 0.0], abs=0.03)
    changed_B = (after.images["photo"] != batch.images["photo"]).flatten(1).any(1)
    assert torch.equal(changed_B, after.degraded_BM[:, 0])
    assert torch.equal(after.categories["table"], batch.categories["table"])
    assert degraded(batch, 0.0) is batch
    without_kinds = degrade_images(batch, SCHEMA, ["photo"], 0.5, "auto", DEGRADING_KINDS, 3, 5)
    assert without_kinds.degraded_BM is not None
    assert not without_kinds.degraded_BM.any()
    assert degrade_images(batch, SCHEMA, [], 0.15, "auto", (), seed=3, step=5) is batch


def test_an_absent_image_does_not_count_as_degraded() -> None:
    batch = large_batch(200)
    present_BM = torch.ones_like(batch.present_BM)
    present_BM[::2, 0] = False
    after = degraded(batch.replace(present_BM=present_BM), 0.9)
    assert after.degraded_BM is not None
    assert not after.degraded_BM[::2].any()
    assert after.degraded_BM[1::2, 0].any()


def test_two_workers_degrade_as_one_does() -> None:
    batch = large_batch(40)
    halves = [
        degraded(batch.select(slice(low, low + 20)).replace(start=low, total=40)) for low in (0, 20)
    ]
    joined = samples.concatenate(halves)
    assert torch.equal(degraded(batch).images["photo"], joined.images["photo"])


def test_views_of_degraded_images_take_the_place_of_others() -> None:
    batch = large_batch(200)
    frozen = {"photo": torch.zeros(200, 1, 4)}
    after = degraded(
        batch.replace(images={}, frozen=frozen, frozen_degraded={"photo": torch.ones(200, 1, 4)})
    )
    assert after.degraded_BM is not None
    assert torch.equal(after.frozen["photo"][:, 0, 0] == 1, after.degraded_BM[:, 0])
    assert after.degraded_BM[:, 0].any()


def test_all_heads_learn_from_degraded_images_but_not_whether_they_are_spoilt() -> None:
    torch.manual_seed(0)
    network = Network(SCHEMA, ModelConfig(dim=16))
    batch = degraded(large_batch(64), 0.4)
    batch = spoil_modalities(batch, SCHEMA, 0.2, (), seed=3, step=5)
    batch = batch.replace(labels_B=torch.randint(0, 5, (64,)))
    assert batch.degraded_BM is not None
    assert batch.spoilt_BM is not None
    only_degraded_BM = batch.degraded_BM & ~batch.spoilt_BM
    assert only_degraded_BM.any()
    assert (batch.degraded_BM & batch.spoilt_BM).any()
    outputs = network.train()(batch)
    terms = loss_terms(outputs, batch, network.counts_C, network.config, 0.0)
    of_heads = torch.autograd.grad(terms["auxiliary"], outputs.auxiliary_BMFC, retain_graph=True)[0]
    assert of_heads[only_degraded_BM].any()
    assert outputs.subsets is not None
    of_trust = torch.autograd.grad(terms["trust"], outputs.subsets.trust_BM)[0]
    assert not of_trust[only_degraded_BM].any()
    assert of_trust[~only_degraded_BM].all()
