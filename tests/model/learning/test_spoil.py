"""Modalities spoilt on purpose: which records, what is left of them, and who learns from them."""

from __future__ import annotations

import pytest
import torch

from model.batch import Batch
from model.config import FusionConfig, ModelConfig
from model.learning.augment import in_unit_range
from model.learning.image_kinds import DRAWS, SPOILING, change_images
from model.learning.losses import auxiliary_loss, loss_terms
from model.learning.spoil import EXCHANGE, spoil_modalities
from model.network import Network
from tests.model import samples

SCHEMA = samples.schema()


def spoilt(batch: Batch, share: float = 0.3, left_out: tuple[str, ...] = ()) -> Batch:
    return spoil_modalities(batch, SCHEMA, share, left_out, seed=3, step=5)


def large_batch(rows: int = 2000) -> Batch:
    batch = samples.batch(SCHEMA, rows)
    images = {name: in_unit_range(pixels) for name, pixels in batch.images.items()}
    return batch.replace(images=images, present_BM=torch.ones_like(batch.present_BM))


def test_each_modality_of_the_share_is_spoilt_and_never_two_of_a_record() -> None:
    batch = large_batch()
    after = spoilt(batch, 0.15)
    assert after.spoilt_BM is not None
    assert after.spoilt_BM.float().mean(0).tolist() == pytest.approx([0.15, 0.15], abs=0.03)
    assert not after.spoilt_BM.all(1).any()
    changed_B = (after.images["photo"] != batch.images["photo"]).flatten(1).any(1)
    assert torch.equal(changed_B, after.spoilt_BM[:, 0])
    untouched_B = ~after.spoilt_BM[:, 1]
    same = torch.equal(
        after.categories["table"][untouched_B], batch.categories["table"][untouched_B]
    )
    assert same


def test_a_record_with_one_modality_keeps_it() -> None:
    batch = large_batch(400)
    present_BM = torch.ones_like(batch.present_BM)
    present_BM[::2, 1] = False
    after = spoilt(batch.replace(present_BM=present_BM), 0.5)
    assert after.spoilt_BM is not None
    assert not after.spoilt_BM[::2].any()
    assert after.spoilt_BM[1::2].any()
    assert torch.equal(after.images["photo"][::2], batch.images["photo"][::2])


def test_two_workers_spoil_as_one_does() -> None:
    batch = large_batch(40)
    whole = spoilt(batch)
    halves = [
        spoilt(batch.select(slice(low, low + 20)).replace(start=low, total=40)) for low in (0, 20)
    ]
    joined = samples.concatenate(halves)
    assert torch.equal(whole.images["photo"], joined.images["photo"])
    assert torch.equal(whole.categories["table"], joined.categories["table"])


def test_content_is_exchanged_between_records() -> None:
    batch = large_batch(400)
    after = spoilt(batch, 0.3, left_out=tuple(SPOILING))
    assert after.spoilt_BM is not None
    rows = after.spoilt_BM[:, 0].nonzero()[:, 0]
    assert len(rows) > 50
    assert torch.equal(after.images["photo"][rows], batch.images["photo"][rows ^ 1])


@pytest.mark.parametrize("kind", SPOILING)
def test_little_is_left_of_an_image(kind: str) -> None:
    torch.manual_seed(0)
    fine = torch.rand(64, 3, 24, 24)  # nothing but fine structure
    u_SU = torch.rand(64, DRAWS)
    after = change_images(fine, u_SU, {kind: SPOILING[kind]})
    assert after.shape == fine.shape
    assert after.min() >= 0
    assert after.max() <= 1
    kept = ((after - after.mean()) * (fine - fine.mean())).mean() / fine.var()
    assert kept < 0.5
    assert torch.equal(after, change_images(fine, u_SU, {kind: SPOILING[kind]}))


def test_auxiliary_heads_do_not_learn_from_spoilt_modalities() -> None:
    torch.manual_seed(0)
    network = Network(SCHEMA, ModelConfig(dim=16, fusion=FusionConfig(joint_confidence=True)))
    batch = spoilt(large_batch(64), 0.4).replace(labels_B=torch.randint(0, 5, (64,)))
    outputs = network.train()(batch)
    counts_C = network.counts_C
    assert batch.spoilt_BM is not None
    loss_B = auxiliary_loss(
        outputs.auxiliary_BMFC, batch.labels_B, batch.ranks_B, batch.intact_BM, counts_C
    )
    alone = loss_terms(outputs, batch, counts_C, network.config, 0.0)
    weight = network.config.fusion.auxiliary_weight
    assert alone["auxiliary"].item() == pytest.approx(weight * loss_B.sum().item() / 64, rel=1e-5)
    gradient = torch.autograd.grad(alone["auxiliary"], outputs.auxiliary_BMFC, retain_graph=True)[0]
    assert not gradient[batch.spoilt_BM].any()
    assert gradient[batch.intact_BM].any()
    confidence = torch.autograd.grad(alone["confidence"], outputs.confidence_BM)[0]
    assert confidence[batch.spoilt_BM].all()


def test_without_a_share_nothing_changes() -> None:
    batch = large_batch(8)
    assert spoilt(batch, 0.0) is batch
    assert EXCHANGE not in SPOILING
