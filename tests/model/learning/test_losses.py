"""Every term of the loss against numbers that are computed by hand or in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import FUSIONS, LOSSES, FusionConfig, LossConfig, ModelConfig
from model.learning import losses
from model.network import Network
from model.schema import Image, Numeric, Schema, Table
from tests.model import samples
from tests.model.cases import (
    COUNTS,
    LOGITS,
    PRIOR,
    change_outputs,
    classification,
    make_batch,
    make_outputs,
    numpy_ce,
    random_case,
)


def test_diversity_rewards_the_divergence_from_the_mean() -> None:
    batch = make_batch([0, -1])
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]).repeat(2, 1, 1).double()
    config = ModelConfig(loss=LossConfig(diversity=0.4))
    value = losses.loss_terms(
        make_outputs(logits, batch.present_BM), batch, COUNTS[:2], config, 0.0
    )["diversity"]
    # mean logits (1, 0); KL(mean || expert) by hand for experts with p = sigmoid(2) and 1/2
    m, a = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))
    kl = [m * math.log(m / q) + (1 - m) * math.log((1 - m) / (1 - q)) for q in (a, 0.5)]
    assert float(value) == pytest.approx(
        -0.4 * sum(kl) / 2 / 2, rel=1e-6
    )  # the unlabelled row counts as a row, with 0


def test_auxiliary_loss_is_balanced_softmax_over_the_heads_that_may_learn() -> None:
    g = torch.Generator().manual_seed(1)
    auxiliary = torch.randn(3, 2, 3, 3, generator=g, dtype=torch.float64)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    batch = make_batch([0, 1, 2], present=present, ranks_B=torch.tensor([0, 4, 5]))  # folds 0, 1, 2
    out = make_outputs(torch.zeros(3, 1, 3), present, auxiliary_BMFC=auxiliary)
    value = losses.loss_terms(
        out, batch, COUNTS, ModelConfig(fusion=FusionConfig(folds=3, auxiliary_weight=0.7)), 0.0
    )["auxiliary"]
    total = 0.0
    for row, fold in enumerate([0, 1, 2]):
        for m in range(2):
            heads = [
                numpy_ce(auxiliary[row, m, [f]].numpy() + np.log(PRIOR), [row])[0]
                for f in range(3)
                if f != fold
            ]
            total += float(present[row, m]) * np.mean(heads)
    assert float(value) == pytest.approx(0.7 * total / 3, rel=1e-6)


@pytest.mark.parametrize("folds", [1, 2, 5])
def test_a_head_gets_exactly_no_gradient_from_its_own_fold(folds: int) -> None:
    outputs, batch = random_case(2, rows=20, folds=folds)
    losses.loss_terms(outputs, batch, COUNTS, ModelConfig(fusion=FusionConfig(folds=folds)), 0.0)[
        "auxiliary"
    ].backward()
    gradient = outputs.auxiliary_BMFC.grad
    for row in range(20):
        for m in range(2):
            for f in range(folds):
                learns = bool(batch.present_BM[row, m]) and (
                    folds == 1 or int(batch.ranks_B[row]) % folds != f
                )
                assert bool((gradient[row, m, f] != 0).any()) == learns


def test_confidence_regresses_the_probability_of_the_head_of_the_rows_own_fold() -> None:
    outputs, batch = random_case(3)
    value = losses.loss_terms(
        outputs,
        batch,
        COUNTS,
        ModelConfig(fusion=FusionConfig(folds=3, confidence_weight=2.0)),
        0.0,
    )["confidence"]
    auxiliary = outputs.auxiliary_BMFC.detach().double().numpy()
    total = 0.0
    for row in range(12):
        for m in range(2):
            u = auxiliary[row, m, int(batch.ranks_B[row]) % 3]
            truth = np.exp(u[batch.labels_B[row]]) / np.exp(u).sum()
            total += (
                float(batch.present_BM[row, m])
                * (outputs.confidence_BM[row, m].item() - truth) ** 2
            )
    assert value.item() == pytest.approx(2 * total / 12, rel=1e-5)
    value.backward()
    assert outputs.auxiliary_BMFC.grad is None  # the target is a constant
    assert (outputs.confidence_BM.grad[batch.present_BM] != 0).all()
    assert (outputs.confidence_BM.grad[~batch.present_BM] == 0).all()


def test_the_public_probability_is_zero_where_it_means_nothing_and_averages_heads_when_asked() -> (
    None
):
    outputs, batch = random_case(4)
    batch.labels_B[0] = -1
    own, mean = (
        losses.true_class_probability(outputs, batch),
        losses.true_class_probability(outputs, batch, cross_fitted=False),
    )
    means = outputs.auxiliary_BMFC.detach().double().numpy().mean(2)
    for row in range(12):
        for m in range(2):
            if row == 0 or not batch.present_BM[row, m]:
                assert own[row, m] == mean[row, m] == 0
            else:
                assert float(mean[row, m]) == pytest.approx(
                    np.exp(means[row, m, batch.labels_B[row]]) / np.exp(means[row, m]).sum(),
                    rel=1e-5,
                )
    assert not own.requires_grad


def test_blended_rows_weigh_both_labels_in_every_term() -> None:
    config = LossConfig(average_prior_strength=0.0, spread_of_prior_strength=0.0)
    shares = torch.tensor([0.9, 0.6, 1.0, 0.0])
    partners = [1, 0, 2, 0]
    mixed = classification(config, partners_B=torch.tensor(partners), shares_B=shares)
    by_hand = shares.numpy() * numpy_ce(LOGITS) + (1 - shares.numpy()) * numpy_ce(LOGITS, partners)
    assert mixed == pytest.approx(by_hand.mean(), rel=1e-6)
    auxiliary = torch.tensor([[[[2.0, 0.0, 0.0]]]])
    batch = make_batch([0], partners_B=torch.tensor([1]), shares_B=torch.tensor([0.75]))
    out = make_outputs(torch.zeros(1, 1, 3), batch.present_BM, auxiliary_BMFC=auxiliary)
    top = math.exp(2) / (math.exp(2) + 2)
    assert float(losses.true_class_probability(out, batch)) == pytest.approx(
        0.75 * top + 0.25 * (1 - top) / 2, rel=1e-5
    )


def test_remix_gives_the_rarer_label_all_when_the_frequent_record_is_the_smaller_part() -> None:
    counts, partner = (
        torch.tensor([90.0, 90.0, 30.0, 10.0, 10.0]),
        torch.tensor([30.0, 30.0, 11.0, 30.0, 40.0]),
    )
    lam = torch.tensor([0.4, 0.6, 0.4, 0.6, 0.4])
    # A frequent class below tau: the partner's label; a frequent one above: blended; counts not
    # 3-fold apart: blended; a rare class whose partner has 0.4: its own label; 0.6: blended.
    assert losses.remix_share(lam, counts, partner, kappa=3.0, tau=0.5).tolist() == pytest.approx(
        [0.0, 0.6, 0.4, 1.0, 0.4]
    )


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_weighted_by_rows_are_the_whole(name: str) -> None:
    outputs, batch = random_case(5)
    config = ModelConfig(
        fusion=FusionConfig(folds=3), loss=LossConfig(name=name, diversity=0.2, drw=0.5, margin=0.1)
    )
    whole = losses.loss_terms(outputs, batch, COUNTS, config, 0.8)
    parts = []
    for rows in (slice(0, 5), slice(5, 12)):
        piece = change_outputs(outputs, lambda value, rows=rows: value[rows])
        parts.append(losses.loss_terms(piece, batch.select(rows), COUNTS, config, 0.8))
    for term in whole:
        assert (5 / 12 * parts[0][term] + 7 / 12 * parts[1][term]).item() == pytest.approx(
            whole[term].item(), rel=1e-5, abs=1e-7
        )
    tail_B = losses.tail_rows(batch, COUNTS)
    for term, value in losses.loss_terms(
        outputs, losses.keep_labels_of(batch, tail_B), COUNTS, config, 0.8
    ).items():
        other = losses.loss_terms(
            outputs, losses.keep_labels_of(batch, ~tail_B), COUNTS, config, 0.8
        )[term]
        assert (value + other).item() == pytest.approx(whole[term].item(), rel=1e-5, abs=1e-7)


def test_the_tail_is_the_classes_below_the_mean_count() -> None:
    batch = make_batch([0, 1, 2, -1], partners_B=torch.tensor([1, 2, 0, 0]), shares_B=torch.ones(4))
    tail_B = losses.tail_rows(batch, torch.tensor([90.0, 40.0, 20.0]))  # mean 50
    assert tail_B.tolist() == [False, True, True, False]
    assert losses.keep_labels_of(batch, tail_B).labels_B.tolist() == [-1, 1, 2, -1]
    assert losses.keep_labels_of(batch, tail_B).partners_B.tolist() == [-1, 2, 0, -1]
    assert not losses.tail_rows(batch, torch.ones(3)).any()


@pytest.mark.parametrize("kind", ["late", "evidential"])
def test_a_margin_is_off_where_there_are_no_cosines(kind: str) -> None:
    data = samples.schema()
    torch.manual_seed(0)
    network = Network(data, ModelConfig(dim=8, fusion=FusionConfig(kind=kind)))
    batch = samples.batch(data)
    outputs = network(batch)
    plain, wide = (
        losses.loss_terms(
            outputs,
            batch,
            network.counts_C,
            replace(network.config, loss=LossConfig(margin=m)),
            0.0,
        )
        for m in (0.0, 0.5)
    )
    assert plain["classification"] == wide["classification"]


def test_rows_without_a_label_contribute_nothing() -> None:
    outputs, batch = random_case(6)
    batch.labels_B[3:] = -1
    config = ModelConfig(fusion=FusionConfig(folds=3), loss=LossConfig(diversity=0.3))
    total = sum(losses.loss_terms(outputs, batch, COUNTS, config, 0.0).values())
    total.backward()
    for tensor in (outputs.logits_BEC, outputs.auxiliary_BMFC, outputs.confidence_BM):
        assert (tensor.grad[3:] == 0).all()
        assert (tensor.grad[:3] != 0).any()
    assert outputs.subsets is not None
    assert (outputs.subsets.logits_BSEC.grad[3:] == 0).all()


TERMS = {"classification", "auxiliary", "confidence", "diversity", "subsets", "trust"} | {
    "plausibility"
}
HARD_COUNTS = {
    "one sample": torch.tensor([1.0, 1.0, 1.0]),
    "10000 to 1": torch.tensor([10000.0, 3.0, 1.0]),
    "no sample": torch.tensor([50.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("counts", HARD_COUNTS.values(), ids=HARD_COUNTS)
@pytest.mark.parametrize("extreme", [0.0, 200.0])
def test_values_and_gradients_stay_finite(name: str, counts: Tensor, extreme: float) -> None:
    config = ModelConfig(
        fusion=FusionConfig(folds=3),
        loss=LossConfig(
            name=name,
            average_prior_strength=-1.0,
            spread_of_prior_strength=2.0,
            margin=0.5,
            drw=1.0,
            diversity=0.1,
            focal_gamma=0.5,
            effective_beta=0.9999,
        ),
    )
    for labels in (
        [0] * 6,
        [2],
        [0, 1, 2, 2, -1, 1],
        [-1, -1],
        [],
    ):  # one class only, batch of 1, all, nothing known, an empty share
        outputs, _ = random_case(7, rows=len(labels))
        batch = make_batch(labels, present=torch.zeros(len(labels), 2, dtype=torch.bool))
        batch.present_BM[:, 0] = True  # the second modality is in no row
        outputs.present_BM = batch.present_BM
        with torch.no_grad():
            outputs.logits_BEC[:, :, 0] += extreme
            outputs.auxiliary_BMFC[..., 1] += extreme
            assert outputs.subsets is not None
            outputs.subsets.logits_BSEC[..., 0] += extreme
            outputs.hidden_BEH[:1] = 0
        terms = losses.loss_terms(outputs, batch, counts, config, 1.0)
        assert set(terms) == TERMS
        sum(terms.values()).backward()
        assert all(torch.isfinite(value) for value in terms.values())
        assert outputs.subsets is not None
        for tensor in (
            outputs.logits_BEC,
            outputs.auxiliary_BMFC,
            outputs.confidence_BM,
            outputs.subsets.logits_BSEC,
            outputs.subsets.trust_BM,
        ):
            assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_gives_the_float32_loss_of_the_rounded_logits(name: str) -> None:
    outputs, batch = random_case(8)
    config = ModelConfig(fusion=FusionConfig(folds=3), loss=LossConfig(name=name, diversity=0.1))
    low = change_outputs(outputs, lambda v: v.detach().bfloat16() if v.is_floating_point() else v)
    rounded = change_outputs(low, lambda v: v.float() if v.is_floating_point() else v)
    counts = torch.tensor([10000.0, 3.0, 1.0])
    with torch.autocast("cpu", torch.bfloat16):
        half = losses.loss_terms(low, batch, counts, config, 0.0)
    single = losses.loss_terms(rounded, batch, counts, config, 0.0)
    for term, value in half.items():
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(single[term]), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_terms_stay_on_the_device_of_their_inputs(name: str) -> None:
    outputs, batch = random_case(9)
    far = change_outputs(outputs, lambda v: v.detach().to("meta"))  # no other device mixes with it
    config = ModelConfig(
        fusion=FusionConfig(folds=3), loss=LossConfig(name=name, drw=0.5, margin=0.1, diversity=0.1)
    )
    terms = losses.loss_terms(
        far,
        losses.keep_labels_of(batch.to("meta"), losses.tail_rows(batch, COUNTS).to("meta")),
        COUNTS.to("meta"),
        config,
        1.0,
    )
    assert {str(value.device) for value in terms.values()} == {"meta"}


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("rows", [1, 5])
def test_a_real_network_trains_in_bfloat16_on_a_hard_batch(kind: str, rows: int) -> None:
    numbers = (Numeric(name="x", quantiles=(-1.0, 0.0, 1.0)),)
    schema = Schema(
        images=(Image(name="picture", height=8, width=8, channels=1),),
        tables=(Table(name="table", numeric=numbers),),
        classes=("a", "b", "c"),
        counts=(10000, 3, 1),
    )
    config = ModelConfig(
        dim=8, fusion=FusionConfig(kind=kind), loss=LossConfig(margin=0.3, drw=1.0, diversity=0.1)
    )
    network = Network(schema, config).train()
    batch = make_batch(
        [2] * rows, present=torch.tensor([[True, False]]).expand(rows, -1)
    )  # one class, the rarest, and no table at all
    batch.images["picture"] = torch.randint(0, 256, (rows, 1, 8, 8), dtype=torch.uint8)
    batch.numbers["table"], batch.categories["table"] = (
        torch.full((rows, 1), torch.nan),
        torch.zeros(rows, 0, dtype=torch.int64),
    )
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(batch)
    terms = losses.loss_terms(outputs, batch, network.counts_C, config, 1.0)
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any((g != 0).any() for g in gradients)
