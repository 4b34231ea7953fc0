"""Several networks as one: model/ensemble.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.config import ExpertsConfig, FusionConfig, ImageConfig, ModelConfig
from model.decisions.calibration import Calibration
from model.ensemble import Ensemble
from model.explaining.occlusion import explain
from model.member import Member
from model.network import Network
from model.schema import Schema
from tests.model import samples

DATA = samples.schema()
CLASSES = len(DATA.classes)
UNIFORM = torch.full((CLASSES,), 1 / CLASSES)
PRIORS = torch.arange(1.0, CLASSES + 1).softmax(0)


def member(seed: int, data: Schema = DATA, prior_C: Tensor = UNIFORM, **settings: object) -> Member:
    torch.manual_seed(seed)
    config = ModelConfig(**{"dim": 8, "image": ImageConfig(encoder="resnet", width=8), **settings})
    network = Network(data, config).eval()
    calibration = Calibration.identity(network.expert_count, CLASSES)
    calibration.temperatures_E += 0.1 * torch.rand(network.expert_count)
    calibration.temperature += 0.5 * seed
    return Member(network, calibration, prior_C, f"run {seed}", {})


def answer(of: Member, batch: samples.Batch) -> Tensor:
    """A member's log probabilities at a uniform prior, computed one by one."""
    logits_BEC = of.network(batch).logits_BEC
    scaled = logits_BEC / of.calibration.temperatures_E[:, None] / of.calibration.temperature
    return (scaled.mean(1) - of.prior_C.log()).log_softmax(-1)


@torch.inference_mode()
def test_the_answers_are_those_of_the_members_as_often_as_they_are_picked() -> None:
    members = [
        member(1),
        member(2, prior_C=PRIORS, experts=ExpertsConfig(count=2)),
        member(3, dim=16, fusion=FusionConfig(kind="late")),
    ]
    ensemble = Ensemble(DATA, members, [0, 2, 2], UNIFORM).eval()
    batch = samples.batch(DATA)
    outputs = ensemble(batch)
    expected = [answer(members[k], batch) for k in (0, 2, 2)]
    assert ensemble.expert_count == 3
    torch.testing.assert_close(outputs.logits_BEC, torch.stack(expected, 1))
    weights = [members[k].network(batch).weights_BM for k in (0, 2, 2)]
    mean_BM = torch.stack(weights).mean(0)
    torch.testing.assert_close(outputs.weights_BM, mean_BM / mean_BM.sum(1, keepdim=True))
    assert outputs.auxiliary_BMFC.shape == (len(batch), 2, 1, CLASSES)


@torch.inference_mode()
def test_a_member_without_a_look_at_a_record_leaves_the_answer_to_the_others() -> None:
    table_only = DATA.keep(("table",))
    members = [member(1), member(2, data=table_only), member(3)]
    ensemble = Ensemble(DATA, members, [0, 1, 2], UNIFORM).eval()
    batch = samples.batch(DATA)
    present_BM = torch.ones_like(batch.present_BM)
    table = DATA.modalities.index("table")
    present_BM[:4, table] = False
    batch = batch.replace(present_BM=present_BM)
    outputs = ensemble(batch)
    logits_BKC, others_BC = outputs.logits_BEC, outputs.logits_BEC[:, [0, 2]].mean(1)
    torch.testing.assert_close(logits_BKC[:4, 1], others_BC[:4])
    alone = batch.replace(images={}, present_BM=present_BM[:, [table]])
    own_BC = answer(members[1], alone)
    # The more the others trust the table in a record, the more it counts.
    trust_B = outputs.weights_BM[:, table]
    others = [members[k].network(batch).weights_BM[:, table] for k in (0, 2)]
    torch.testing.assert_close(trust_B, torch.stack(others).mean(0))
    expected_BC = trust_B[:, None] * own_BC + (1 - trust_B[:, None]) * others_BC
    torch.testing.assert_close(logits_BKC[4:, 1], expected_BC[4:])


@torch.inference_mode()
def test_without_a_member_that_sees_everything_each_counts_in_full() -> None:
    members = [member(1, data=DATA.keep(("table",))), member(2, data=DATA.keep(("photo",)))]
    batch = samples.batch(DATA)
    outputs = Ensemble(DATA, members, [0, 1], UNIFORM).eval()(batch)
    table = DATA.modalities.index("table")
    alone = batch.replace(images={}, present_BM=batch.present_BM[:, [table]])
    torch.testing.assert_close(outputs.logits_BEC[:, 0], answer(members[0], alone))
    torch.testing.assert_close(outputs.weights_BM, torch.full((len(batch), 2), 0.5))


@torch.inference_mode()
def test_what_is_frozen_is_computed_once_for_the_members_that_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = samples.schema(images=(samples.image(size=32),))
    frozen = ImageConfig(encoder="efficientnet_lite0", trainable="head")
    members = [
        member(1, data=data, image=frozen),
        member(2, data=data),
        member(3, data=data, image=frozen, mirror="horizontal"),
        member(4, data=data, image=frozen),
    ]
    ensemble = Ensemble(data, members, [0, 1, 2, 3], UNIFORM).eval()
    batch = samples.batch(data)
    expected = torch.stack([answer(m, batch) for m in members], 1)
    calls = []
    for m in members:
        body = m.network.encoders[0].body
        if hasattr(body, "encode_frozen"):
            compute = body.encode_frozen
            monkeypatch.setattr(
                body, "encode_frozen", lambda x, compute=compute: calls.append(1) or compute(x)
            )
    torch.testing.assert_close(ensemble(batch).logits_BEC, expected)
    assert ensemble.shared == [[[0, 3], [2]]]
    assert len(calls) == 3  # once for the two that share it, twice for an image and its mirror
    assert ensemble.frozen_encoder("photo") is None
    of_one_kind = Ensemble(data, [members[0], members[3]], [0, 1], UNIFORM)
    assert of_one_kind.frozen_encoder("photo") is members[0].network.encoders[0]


@torch.inference_mode()
def test_explanations_replace_a_part_in_all_members() -> None:
    members = [member(1), member(2, dim=16), member(3, data=DATA.keep(("table",)))]
    ensemble = Ensemble(DATA, members, [0, 1, 2], UNIFORM).eval()
    batch = samples.batch(DATA)
    found = explain(ensemble, batch, lambda outputs: outputs.logits_BEC.mean(1).softmax(1), grid=2)
    changed = batch.replace(
        numbers={"table": batch.numbers["table"].clone()},
        images={name: pixels.clone() for name, pixels in batch.images.items()},
    )
    embeddings = ensemble.encode(batch)
    m = DATA.modalities.index("table")
    content = (changed.numbers["table"], changed.categories["table"])
    torch.testing.assert_close(
        ensemble.encode_modality(m, content, changed.present_BM[:, m]), embeddings[:, m]
    )
    assert torch.isfinite(found.columns["table"][batch.present_BM[:, m]]).all()
    assert found.modalities_BM.shape == batch.present_BM.shape


@torch.inference_mode()
def test_all_answers_are_moved_to_one_class_prior() -> None:
    members = [member(1), member(2, prior_C=PRIORS)]
    batch = samples.batch(DATA)
    outputs = Ensemble(DATA, members, [0, 1], PRIORS).eval()(batch)
    moved = [(answer(m, batch) + PRIORS.log()).log_softmax(-1) for m in members]
    torch.testing.assert_close(outputs.logits_BEC, torch.stack(moved, 1))


def test_it_needs_members_to_pick() -> None:
    for picks in ([], [2], [-1]):
        with pytest.raises(ValueError, match="at least one of its 2 members"):
            Ensemble(DATA, [member(1), member(2)], picks, UNIFORM)
