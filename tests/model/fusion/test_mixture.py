"""The mixture over subsets of the modalities: its weights, its answers, and what it learns from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from model.config import FusionConfig
from model.fusion import mixture
from model.learning.losses import loss_terms, subset_loss, trust_loss
from model.learning.spoil import add_unrelated_cells, spoil_modalities
from model.network import Network
from model.outputs import SubsetAnswers
from model.schema import Schema
from tests.model import samples
from tests.model.test_network import small

MIXTURE = small(fusion=FusionConfig(kind="mixture", reject_unfamiliar=False))
FOUR = samples.schema(
    (samples.image("front", 16), samples.image("side", 8)),
    (samples.table("lab"), samples.table("history")),
)


def built(data: Schema, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(data, MIXTURE).eval()
    assert network.mixture is not None
    with torch.no_grad():  # trust that differs between records, as after training
        network.mixture.score.weight.normal_()
        network.concatenate.absent_MD.normal_()
    return network


def set_trust(network: Network, trust_M: list[float]) -> None:
    assert network.mixture is not None
    with torch.no_grad():
        network.mixture.score.weight.zero_()
        network.mixture.score.bias.copy_(torch.tensor(trust_M))


def test_all_subsets_are_mixed_where_there_are_few_modalities() -> None:
    assert mixture.subsets(1).tolist() == [[True]]
    assert mixture.subsets(2).tolist() == [[True, True], [True, False], [False, True]]
    four = mixture.subsets(4)
    assert len({tuple(row) for row in four.tolist()}) == 15
    six = mixture.subsets(6)
    assert six[0].all()
    assert sorted(six.sum(1).tolist()) == [1] * 6 + [5] * 6 + [6]


@pytest.mark.parametrize("modalities", [1, 2, 3, 4, 5])
def test_weights_sum_to_one_over_the_subsets_of_what_a_record_has(modalities: int) -> None:
    torch.manual_seed(modalities)
    members_SM = mixture.subsets(modalities)
    visible_BM = torch.rand(50, modalities) < 0.6
    weights_BS = mixture.subset_weights(torch.randn(50, modalities), visible_BM, members_SM).exp()
    torch.testing.assert_close(weights_BS.sum(1), torch.ones(50))
    for visible_M, weights_S in zip(visible_BM, weights_BS, strict=True):
        if visible_M.any():
            outside_S = (members_SM & ~visible_M).any(1)
            assert (weights_S[outside_S] == 0).all()
    shares_BM = mixture.modality_weights(weights_BS.log(), visible_BM, members_SM)
    assert (shares_BM[~visible_BM] == 0).all()
    some_B = visible_BM.any(1)
    torch.testing.assert_close(shares_BM[some_B].sum(1), torch.ones(int(some_B.sum())))


def test_a_subset_counts_by_the_trust_in_its_members_and_the_distrust_in_the_others() -> None:
    trust = torch.tensor([[0.9, 0.2]])
    visible = torch.ones(1, 2, dtype=torch.bool)
    weights = mixture.subset_weights(trust.logit(), visible, mixture.subsets(2)).exp()
    expected = torch.tensor([[0.9 * 0.2, 0.9 * 0.8, 0.1 * 0.2]])
    torch.testing.assert_close(weights, expected / expected.sum())


def test_a_modality_without_trust_leaves_the_answer_without_it() -> None:
    data = FOUR
    network = built(data)
    batch = samples.batch(data)
    set_trust(network, [40.0, -40.0, 40.0, 40.0])
    untrusted = network(batch)
    present_BM = batch.present_BM.clone()
    present_BM[:, 1] = False
    absent = network(batch.replace(present_BM=present_BM))
    torch.testing.assert_close(
        untrusted.logits_BEC.softmax(-1), absent.logits_BEC.softmax(-1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(untrusted.weights_BM, absent.weights_BM, rtol=1e-4, atol=1e-5)


def test_the_mixture_lies_between_the_answers_that_it_mixes() -> None:
    network = built(FOUR)
    outputs = network(samples.batch(FOUR))
    assert outputs.subsets is not None
    answers_BSEC = outputs.subsets.logits_BSEC.softmax(-1)
    mixed_BEC = outputs.logits_BEC.softmax(-1)
    torch.testing.assert_close(outputs.logits_BEC.exp().sum(-1), torch.ones_like(mixed_BEC[..., 0]))
    assert (mixed_BEC <= answers_BSEC.amax(1) + 1e-6).all()
    assert (mixed_BEC >= answers_BSEC.amin(1) - 1e-6).all()


def test_a_low_temperature_decides_and_a_high_one_takes_every_subset_alike() -> None:
    data = samples.schema()
    trust_BM, visible_BM = torch.tensor([[1.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool)
    members_SM = mixture.subsets(2)
    cold = mixture.subset_weights(trust_BM / 0.01, visible_BM, members_SM).exp()
    torch.testing.assert_close(cold, torch.tensor([[0.0, 1.0, 0.0]]))
    warm = mixture.subset_weights(trust_BM / 1e6, visible_BM, members_SM).exp()
    torch.testing.assert_close(warm, torch.full((1, 3), 1 / 3), rtol=1e-3, atol=1e-3)
    batch = samples.batch(data)
    fusion = dataclasses.replace(MIXTURE.fusion, temperature=0.01)
    torch.manual_seed(0)
    network = Network(data, dataclasses.replace(MIXTURE, fusion=fusion)).eval()
    set_trust(network, [1.0, -1.0])
    torch.testing.assert_close(network(batch).weights_BM, torch.tensor([[1.0, 0.0]] * len(batch)))


def test_the_trust_gives_no_gradient_to_the_encoders() -> None:
    data = samples.schema()
    network = built(data).train()
    batch = samples.batch(data)
    batch = spoil_modalities(batch, data, 0.4, (), seed=0, step=0)
    answers = network(batch).subsets
    assert answers is not None
    trust_loss(answers, batch).sum().backward()
    assert network.mixture is not None
    for name, parameter in network.named_parameters():
        learns = name.startswith("mixture.")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


def test_an_answer_learns_from_subsets_without_absent_and_spoilt_members() -> None:
    members_SM = mixture.subsets(2)
    logits_BSEC = torch.randn(3, 3, 2, 4, requires_grad=True)
    answers = SubsetAnswers(
        logits_BSEC,
        torch.zeros(3, 3, 2, 5),
        torch.zeros(3, 2),
        torch.zeros(3, 2),
        members_SM.expand(3, -1, -1),
        torch.zeros(3, 0),
        None,
    )
    intact_BM = torch.tensor([[True, True], [True, False], [False, False]])
    counts_C = torch.ones(4)
    loss_B: Tensor = subset_loss(
        answers, intact_BM, torch.tensor([0, 1, 2]), counts_C, MIXTURE.loss, progress=0.0
    )
    loss_B.sum().backward()
    assert logits_BSEC.grad is not None
    learns_BS = (logits_BSEC.grad != 0).any(-1).any(-1)
    assert learns_BS.tolist() == [[True, True, True], [False, True, False], [False, False, False]]
    assert loss_B[2] == 0


def test_training_teaches_the_trust_to_find_noise() -> None:
    torch.manual_seed(0)
    data = samples.schema(counts=(40, 40))
    config = dataclasses.replace(
        MIXTURE, fusion=dataclasses.replace(MIXTURE.fusion, trust_weight=1.0)
    )
    network = Network(data, config).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    flat = samples.batch(data, 64).replace(labels_B=torch.arange(64) % 2)
    flat.images["photo"] = (
        flat.images["photo"] // 32 + 100 + 20 * flat.labels_B[:, None, None, None]
    )
    flat.images["photo"] = flat.images["photo"].to(torch.uint8)
    for step in range(80):
        batch = add_unrelated_cells(flat, data, seed=0, step=step)
        batch = spoil_modalities(batch, data, 0.25, ("exchange",), seed=0, step=step)
        outputs = network(batch)
        terms = loss_terms(outputs, batch, network.counts_C, config, progress=0.0)
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    network.eval()
    noise = flat.replace(images={"photo": torch.randint_like(flat.images["photo"], 0, 256)})
    clean_weight = network(flat).weights_BM[:, 0].mean()
    noise_weight = network(noise).weights_BM[:, 0].mean()
    assert clean_weight > 0.4
    assert noise_weight < 0.1
