"""The whole network: any modalities, missing content, limits of fusion, experts, saved weights."""

from __future__ import annotations

import copy
import dataclasses
import io
import sys

import pytest
import torch
from torch import Tensor

from model.config import (
    FUSIONS,
    ExpertsConfig,
    FusionConfig,
    ImageConfig,
    LossConfig,
    ModelConfig,
    TableConfig,
)
from model.encoders.image import ImageEncoder
from model.encoders.standardise import Standardise
from model.encoders.table import CategoryEmbedding, NumberEmbedding
from model.fusion import weights
from model.learning.losses import loss_terms
from model.network import Network
from model.schema import Numeric, Schema
from tests.model import samples

SMALL = ModelConfig(
    dim=16,
    image=ImageConfig(width=8),
    table=TableConfig(width=16, embedding_size=4),
    experts=ExpertsConfig(hidden=16),
)


def small(**sections: object) -> ModelConfig:
    return dataclasses.replace(SMALL, **sections)  # type: ignore[arg-type]


def built(data: Schema, config: ModelConfig = SMALL, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(data, config).eval()
    with (
        torch.no_grad()
    ):  # confidences that differ between samples and modalities, as after training
        network.confidence.weight_MH.normal_()
        network.concatenate.absent_MD.normal_()
    return network


SETS = {
    "image and table": samples.schema(),
    "image only": samples.schema(tables=()),
    "table only": samples.schema(images=()),
    "two images, two tables": samples.schema(
        (samples.image("front", 16), samples.image("side", 8, channels=1)),
        (samples.table("lab"), samples.table("history")),
    ),
    "numbers only": samples.schema((), (dataclasses.replace(samples.table(), categorical=()),)),
    "categories only": samples.schema((), (dataclasses.replace(samples.table(), numeric=()),)),
}


@pytest.mark.parametrize("data", SETS.values(), ids=SETS.keys())
def test_any_set_of_modalities_trains_and_reports_every_term(data: Schema) -> None:
    network = built(data).train()
    batch = samples.batch(data)
    terms = loss_terms(network(batch), batch, network.counts_C, network.config, progress=0.0)
    assert set(terms) == {
        "classification",
        "auxiliary",
        "confidence",
        "diversity",
        "subsets",
        "trust",
        "plausibility",
    }
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(8, 8, 1), (28, 28, 1), (48, 64, 3), (224, 224, 3), (9, 200, 3)],
)
def test_resnet_fits_its_input(height: int, width: int, channels: int) -> None:
    data = samples.schema(
        (dataclasses.replace(samples.image(channels=channels), height=height, width=width),), ()
    )
    network = built(data, small(image=ImageConfig(encoder="resnet", width=8)))
    last = network.encoders[0].body.layers(torch.zeros(1, channels, height, width))
    assert 2 <= min(last.shape[2:]) <= 5
    assert network(samples.batch(data, 2)).logits_BEC.shape == (2, 3, 5)


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("training", [False, True])
def test_content_of_a_missing_modality_cannot_change_the_output(kind: str, training: bool) -> None:
    data = SETS["two images, two tables"]
    network = built(data, small(fusion=FusionConfig(kind=kind))).train(training)
    batch = samples.batch(data)
    batch.present_BM[:6, 0] = batch.present_BM[3:9, 3] = False
    first = network(batch)
    images, numbers, categories = (
        {k: v.clone() for k, v in batch.images.items()},
        {k: v.clone() for k, v in batch.numbers.items()},
        {k: v.clone() for k, v in batch.categories.items()},
    )
    images["front"][:6] = 255 - images["front"][:6]
    numbers["history"][3:9] = 1e9
    categories["history"][3:9] = -1
    second = network(batch.replace(images=images, numbers=numbers, categories=categories))
    assert torch.equal(first.logits_BEC, second.logits_BEC)
    assert torch.equal(first.weights_BM, second.weights_BM)
    assert (first.weights_BM[:6, 0] == 0).all()
    assert (first.weights_BM[3:9, 3] == 0).all()


def test_one_column_changes_its_own_record_only() -> None:
    data = samples.schema()
    network = built(data)
    batch = samples.batch(data)
    before = network(batch).logits_BEC
    numbers = {"table": batch.numbers["table"].clone()}
    numbers["table"][4, 1] = torch.nan
    after = network(batch.replace(numbers=numbers)).logits_BEC
    changed = (before != after).any(-1).any(-1)
    assert changed.tolist() == [row == 4 for row in range(len(batch))]


def test_missing_and_unseen_categories_have_embeddings_of_their_own() -> None:
    data = samples.schema((), None)
    network = built(data)
    batch = samples.batch(data, 1)
    decided = {}
    for name, value in {"missing": -1, "known": 0, "unseen": 2, "far beyond": 99}.items():
        categories = {"table": batch.categories["table"].clone()}
        categories["table"][:, 0] = value
        decided[name] = network(batch.replace(categories=categories)).logits_BEC
    assert not torch.equal(decided["missing"], decided["known"])
    assert not torch.equal(decided["unseen"], decided["missing"])
    assert torch.equal(decided["unseen"], decided["far beyond"])


def test_an_unseen_category_adds_nothing_before_training() -> None:
    torch.manual_seed(0)
    weight = CategoryEmbedding([2, 0, 3], 4).table.weight
    torch.manual_seed(0)
    drawn = torch.nn.init.normal_(torch.nn.Embedding(11, 4).weight, std=0.5)
    unseen = torch.tensor([3, 5, 10])
    assert weight[unseen].abs().max() == 0
    drawn = drawn.detach().clone()
    drawn[unseen] = 0
    assert torch.equal(weight, drawn)


def test_infinite_temperature_is_concatenation() -> None:
    data = samples.schema()
    batch = samples.batch(data)
    batch.present_BM[:4, 0] = False
    weighted = built(data, small(fusion=FusionConfig(kind="confidence", temperature=1e9)))
    plain = built(data, small(fusion=FusionConfig(kind="uniform")))
    assert torch.allclose(weighted(batch).logits_BEC, plain(batch).logits_BEC, atol=1e-5)
    both = weighted(batch).fused_BZ[4:]
    assert torch.allclose(both, weighted(batch).embeddings_BMD[4:].flatten(1), atol=1e-5)


@pytest.mark.parametrize("normalise", ["sum", "max"])
def test_temperature_to_zero_picks_the_best_modality(normalise: str) -> None:
    data = samples.schema()
    batch = samples.batch(data)
    network = built(
        data,
        small(
            fusion=FusionConfig(
                kind="confidence",
                score="level",
                temperature=1e-3,
                normalise=normalise,
                shrinkage=0.0,
            )
        ),
    )
    outputs = network(batch)
    best_B = outputs.confidence_BM.argmax(1)
    sure_B = (outputs.confidence_BM[:, 0] - outputs.confidence_BM[:, 1]).abs() > 0.05
    assert sure_B.any()
    assert torch.allclose(
        outputs.weights_BM[sure_B],
        torch.nn.functional.one_hot(best_B, 2).float()[sure_B],
        atol=1e-6,
    )
    parts_BMD = outputs.fused_BZ.unflatten(1, (2, -1))[sure_B]
    kept_BD = parts_BMD[torch.arange(len(parts_BMD)), best_B[sure_B]]
    lost_BD = parts_BMD[torch.arange(len(parts_BMD)), 1 - best_B[sure_B]]
    scale = 2.0 if normalise == "sum" else 1.0
    own_BD = outputs.embeddings_BMD[sure_B][torch.arange(len(parts_BMD)), best_B[sure_B]]
    assert torch.allclose(kept_BD, scale * own_BD, atol=1e-4)
    assert lost_BD.abs().max() < 1e-4


def test_a_surplus_counts_from_chance_upwards_and_soon_in_full() -> None:
    confidence_BM = torch.tensor([[0.9, 0.1], [0.9, 0.6], [0.82, 0.244], [0.05, 0.02]])
    visible_BM = torch.ones_like(confidence_BM, dtype=torch.bool)
    scores_BM = weights.fusion_scores(
        confidence_BM, visible_BM, FusionConfig(score="surplus", half_weight_at=0.2), classes=10
    )
    weights_BM = weights.confidence_weights(scores_BM, visible_BM, 1.0)
    assert weights_BM[0, 1] < 1e-6, "chance is nothing"
    assert weights_BM[1, 1] == pytest.approx(0.5, abs=0.02), "both tell something"
    assert scores_BM[2, 1].exp() == pytest.approx(0.5, abs=1e-5), "half"
    assert weights_BM[3].tolist() == [0.5, 0.5], "two that tell nothing are alike"
    hard_BM = torch.tensor(
        [[0.06, 0.03]]
    )  # of 200 classes: far from certain, and both tell something
    alike_BM = weights.confidence_weights(
        weights.fusion_scores(hard_BM, visible_BM[:1], FusionConfig(), classes=200),
        visible_BM[:1],
        1.0,
    )
    assert alike_BM[0, 1] == pytest.approx(0.5, abs=0.03)
    scores_BM = weights.fusion_scores(
        confidence_BM, visible_BM & torch.tensor([False, True]), FusionConfig(), classes=10
    )
    assert scores_BM[0, 1].exp() > 0.9, "a modality that is not there is not the best one"


def test_a_share_is_in_proportion_and_a_level_exponential() -> None:
    confidence_BM = torch.tensor([[0.6, 0.2]])
    visible_BM = torch.ones_like(confidence_BM, dtype=torch.bool)
    share_BM = weights.confidence_weights(
        weights.fusion_scores(confidence_BM, visible_BM, FusionConfig(score="share"), 3),
        visible_BM,
        1.0,
    )
    assert share_BM.tolist()[0] == pytest.approx([0.75, 0.25])
    level_BM = weights.confidence_weights(
        weights.fusion_scores(confidence_BM, visible_BM, FusionConfig(score="level"), 3),
        visible_BM,
        0.4,
    )
    assert level_BM.tolist()[0] == pytest.approx(torch.tensor([1.5, 0.5]).softmax(0).tolist())


def test_an_embedding_is_standardised_and_one_row_trains() -> None:
    norm, present_B = Standardise(3), torch.ones(64, dtype=torch.bool)
    x_BD = torch.randn(64, 3) * torch.tensor([1e-2, 1.0, 1e2]) + 5
    out_BD = norm(x_BD, present_B)
    assert torch.allclose(out_BD.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(out_BD.var(0, correction=0)[1:], torch.ones(2), atol=1e-3)
    assert torch.isfinite(norm(x_BD[:1], present_B[:1])).all()
    assert list(norm.parameters()) == []
    twin = torch.nn.BatchNorm1d(3, affine=False)
    for k in range(4):
        y_BD = torch.randn(16, 3, generator=torch.Generator().manual_seed(k)) * 3 + 1
        own, its = y_BD.clone().requires_grad_(), y_BD.clone().requires_grad_()
        if k == 0:
            norm = Standardise(3)
        a_BD, b_BD = norm(own, present_B[:16]), twin(its)
        torch.testing.assert_close(a_BD, b_BD, atol=1e-5, rtol=1e-4)
        for out in (a_BD, b_BD):
            (out * y_BD.sin()).sum().backward()
        torch.testing.assert_close(own.grad, its.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, twin.running_var)


def test_absent_records_do_not_take_part_in_the_standardisation() -> None:
    x_BD = torch.randn(64, 3)
    present_B = torch.arange(64) < 6
    sparse, dense = Standardise(3), Standardise(3)
    out_BD = sparse(torch.where(present_B[:, None], x_BD, 100.0), present_B)
    torch.testing.assert_close(out_BD[:6], dense(x_BD[:6], present_B[:6]))
    torch.testing.assert_close(sparse.running_mean, dense.running_mean)
    kept = sparse.running_var.clone()
    assert torch.isfinite(sparse(x_BD, torch.zeros(64, dtype=torch.bool))).all()
    torch.testing.assert_close(sparse.running_var, kept)


def test_absent_images_do_not_enter_the_statistics_of_the_batch() -> None:
    data = samples.image(size=8)
    torch.manual_seed(0)
    sparse = ImageEncoder(data, SMALL.image, 8)
    dense = copy.deepcopy(sparse)
    x_BCHW = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    present_B = torch.arange(12) % 4 == 1
    embedding_BD, own_BD = (
        sparse(x_BCHW, present_B),
        dense(x_BCHW[present_B], torch.ones(3, dtype=torch.bool), all_present=True),
    )
    torch.testing.assert_close(embedding_BD[present_B], own_BD, atol=1e-5, rtol=1e-4)
    for encoder, out_BD in ((sparse, embedding_BD[present_B]), (dense, own_BD)):
        (out_BD * torch.arange(24.0).sin().view(3, 8)).sum().backward()
        assert encoder.training
    for (name, a), b in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3, msg=name)
    for (name, a), b in zip(sparse.named_buffers(), dense.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("images", [0, 1])
def test_a_batch_with_too_few_images_for_statistics_leaves_them_alone(images: int) -> None:
    encoder = ImageEncoder(samples.image(size=8), SMALL.image, 8)
    before = {name: value.clone() for name, value in encoder.body.named_buffers()}
    out_BD = encoder(
        torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8), torch.arange(12) < images
    )
    out_BD.sum().backward()
    assert torch.isfinite(out_BD).all()
    assert all(torch.equal(value, before[name]) for name, value in encoder.body.named_buffers())
    assert all(p.grad is not None for p in encoder.parameters()), (
        "every worker must have a gradient to average"
    )
    assert all(module.training for module in encoder.modules())


def test_a_number_outside_the_training_range_is_taken_as_its_end() -> None:
    values = (
        torch.distributions.Exponential(1.0).sample((2000,)).sort().values
    )  # narrow bins where rows are many
    quantiles = tuple(torch.quantile(values, torch.linspace(0, 1, 33)).tolist())
    column = Numeric(
        name="dose", mean=float(values.mean()), std=float(values.std()), quantiles=quantiles
    )
    embed = NumberEmbedding((column,), "piecewise", 8)
    torch.nn.init.normal_(embed.fill_N)
    ends_2 = embed(torch.tensor([[quantiles[0]], [quantiles[-1]]]))
    torch.testing.assert_close(embed(torch.tensor([[-999.0], [1e6]])), ends_2)
    assert not torch.equal(embed(torch.tensor([[1.0]])), embed(torch.tensor([[1.1]])))
    assert embed(torch.tensor([[torch.nan]])).isfinite().all()


def test_experts_as_a_batch_equal_experts_alone() -> None:
    from model.learning.experts import Experts

    torch.manual_seed(0)
    together = Experts(32, 5, ExpertsConfig(count=4, hidden=16), LossConfig())
    z = torch.randn(9, 32)
    logits = together(z)[1]
    for e in range(4):
        single = Experts(32, 5, ExpertsConfig(count=1, hidden=16), LossConfig())
        single.load_state_dict(
            {name: value[e : e + 1] for name, value in together.state_dict().items()}
        )
        assert torch.allclose(single(z)[1][:, 0], logits[:, e], atol=1e-6)


def test_etf_directions_are_equiangular_and_fixed() -> None:
    network = built(samples.schema(), small(experts=ExpertsConfig(hidden=16, classifier="etf")))
    weight_HC = network.experts.classifier.weight_EHC[0]
    cosines = weight_HC.T @ weight_HC
    assert torch.allclose(cosines[~torch.eye(5, dtype=torch.bool)], torch.tensor(-1 / 4), atol=1e-5)
    assert "experts.classifier.weight_EHC" not in dict(network.named_parameters())


def test_a_margin_brings_a_cosine_classifier() -> None:
    network = built(samples.schema(), small(loss=LossConfig(margin=0.3, scale=8.0)))
    logits = network(samples.batch(samples.schema())).logits_BEC
    assert network.experts.classifier.kind == "cosine"
    assert logits.abs().max() <= 8.0 + 1e-5


@pytest.mark.parametrize("kind", ["confidence", "gate", "evidential"])
def test_saved_weights_give_bit_equal_logits(kind: str) -> None:
    data = samples.schema()
    config = small(fusion=FusionConfig(kind=kind))
    network, other = built(data, config), built(data, config, seed=1)
    batch = samples.batch(data)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(network(batch).logits_BEC, other(batch).logits_BEC)


def forward_all(
    network: Network, data: Schema, rows: int, present: Tensor | None = None
) -> dict[str, Tensor]:
    batch = samples.batch(data, rows)
    if present is not None:
        batch.present_BM[:] = present
    outputs = network(batch)
    terms = loss_terms(outputs, batch, network.counts_C, network.config, progress=1.0)
    network.update_running_confidence(outputs, batch)
    return {
        **terms,
        "logits": outputs.logits_BEC,
        "confidence": outputs.confidence_BM,
        "shrunk": outputs.shrunk_BM,
        "w": outputs.weights_BM,
    }


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("counts", [(10_000, 1), (1, 1, 1), (100_000, 3, 10)])
def test_extreme_tails_stay_finite(counts: tuple[int, ...], rows: int, half: bool) -> None:
    data = samples.schema(counts=counts)
    network = built(data).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        terms = forward_all(network, data, rows)
    assert all(torch.isfinite(value).all() for value in terms.values())
    assert all(torch.isfinite(b).all() for b in network.buffers() if b.is_floating_point())


def test_a_record_without_any_modality_still_gets_finite_logits() -> None:
    data = samples.schema()
    terms = forward_all(built(data), data, 3, present=torch.tensor([False, False]))
    assert torch.isfinite(terms["logits"]).all()
    assert (terms["w"] == 0).all()


def test_eight_experts_and_folds_of_the_issue() -> None:
    data = samples.schema()
    config = small(experts=ExpertsConfig(count=8, hidden=16), fusion=FusionConfig(folds=5))
    outputs = built(data, config)(samples.batch(data))
    assert outputs.logits_BEC.shape == (12, 8, 5)
    assert outputs.auxiliary_BMFC.shape == (12, 2, 5, 5)


def test_user_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        Network(samples.schema(counts=(3,)), SMALL)
    with pytest.raises(ValueError, match="at least one image or table"):
        Network(samples.schema((), ()), SMALL)
    with pytest.raises(
        ValueError, match=r"fusion.kind must be one of mixture, confidence.*got 'sum'"
    ):
        Network(samples.schema(), small(fusion=FusionConfig(kind="sum")))
    with pytest.raises(
        ValueError,
        match="image.encoder must be one of auto, resnet, efficientnet_lite0, timm:NAME; got 'vgg'",
    ):
        Network(samples.schema(), small(image=ImageConfig(encoder="vgg")))


def test_a_missing_timm_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"image.encoder=timm:resnet18 needs the timm package: pip install timm"
    ):
        Network(samples.schema(), small(image=ImageConfig(encoder="timm:resnet18")))


def test_the_network_treats_an_unfamiliar_modality_as_absent_in_evaluation_only() -> None:
    data = samples.schema()
    network = built(data, small())
    batch = samples.batch(data)
    gone = batch.replace(present_BM=torch.tensor([[False, True]]).expand(12, 2))
    network.eval()
    expected, before = network(gone), network(batch)
    assert not network.has_novelty_limits
    network.novelty_gate.limit_M[0] = 1e-9
    assert network.has_novelty_limits
    terms = network(batch)
    assert torch.equal(terms.logits_BEC, expected.logits_BEC)
    assert not torch.equal(terms.logits_BEC, before.logits_BEC)
    assert terms.present_BM.all(), "it is still there"
    assert terms.unfamiliar_BM.tolist() == [[True, False]] * 12
    assert (terms.weights_BM[:, 0] == 0).all()
    network.novelty_gate.limit_M[1] = 1e-9
    nowhere = network(batch)
    assert nowhere.unfamiliar_BM.all()
    assert torch.equal(nowhere.logits_BEC, before.logits_BEC), (
        "nothing is familiar: all that is there"
    )
    network.accept_all_modalities()
    assert torch.equal(network(batch).logits_BEC, before.logits_BEC)
    network.novelty_gate.limit_M[0] = 1e-9
    assert not network.train()(batch).unfamiliar_BM.any()


@pytest.mark.parametrize("kind", ["uniform", "gate", "late", "evidential"])
def test_other_kinds_of_fusion_have_no_novelty_gate(kind: str) -> None:
    network = Network(samples.schema(), small(fusion=FusionConfig(kind=kind)))
    assert network.novelty_gate is None
