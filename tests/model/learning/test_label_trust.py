"""The weights of training rows whose labels are doubted, and the loss with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.batch import Batch
from model.config import LossConfig, ModelConfig
from model.learning import losses
from model.learning.augment import mix_samples
from model.learning.label_trust import LabelTrust
from model.network import Network
from model.outputs import Outputs
from tests.model import samples

CLASSES, ROWS = 3, 300
WRONG = torch.arange(1, ROWS, 30)  # rows of class 1


def judged_rows() -> tuple[Tensor, Tensor, Tensor]:
    """Log posteriors, labels and ranks in a mixed order; the rows WRONG are labelled as class 2."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(ROWS) % CLASSES
    log_posterior_NC = torch.full((ROWS, CLASSES), -20.0)
    log_posterior_NC[torch.arange(ROWS), labels_N] = 0.0
    labels_N[WRONG] = 2
    ranks_N = torch.empty_like(labels_N)
    for c in range(CLASSES):
        rows = (labels_N == c).nonzero()[:, 0]
        ranks_N[rows] = torch.randperm(len(rows), generator=generator)
    order_N = torch.randperm(ROWS, generator=generator)
    return log_posterior_NC[order_N], labels_N[order_N], ranks_N[order_N]


def outputs_of(labels: list[int]) -> tuple[Outputs, Batch, Tensor]:
    schema = samples.schema(counts=(50, 50))
    torch.manual_seed(0)
    network = Network(schema, ModelConfig(dim=8))
    batch = samples.batch(schema, len(labels)).replace(
        labels_B=torch.tensor(labels), ranks_B=torch.arange(len(labels))
    )
    return network(batch), batch, network.counts_C


def test_every_row_gets_its_own_weight_whatever_the_order() -> None:
    log_posterior_NC, labels_N, ranks_N = judged_rows()
    trust = LabelTrust.of_rows(log_posterior_NC, labels_N, ranks_N, 1.0)
    schema = samples.schema(counts=(100, 90, 110))
    batch = samples.batch(schema, ROWS).replace(labels_B=labels_N, ranks_B=ranks_N)
    found_N = trust.weigh(batch).trust_B
    assert found_N is not None
    wrong_N = log_posterior_NC.argmax(1) != labels_N
    assert found_N[wrong_N].max() < 0.05 and found_N[~wrong_N].min() > 0.95
    mixed = LabelTrust.of_rows(log_posterior_NC.flip(0), labels_N.flip(0), ranks_N.flip(0), 1.0)
    assert torch.allclose(mixed.weights_R, trust.weights_R, atol=1e-6)
    assert torch.allclose(trust.counts_C, torch.tensor([100.0, 90.0, 100.0]), atol=1.0)


def test_a_class_that_the_heads_deny_altogether_keeps_half_of_its_rows() -> None:
    labels_N = torch.cat([torch.zeros(290), torch.ones(10)]).long()
    ranks_N = torch.cat([torch.arange(290), torch.arange(10)])
    log_posterior_NC = torch.tensor([[0.0, -20.0]]).repeat(300, 1)
    trust = LabelTrust.of_rows(log_posterior_NC, labels_N, ranks_N, 1.0)
    assert trust.weights_R[:290].min() > 0.99
    assert torch.allclose(trust.weights_R[290:], torch.full((10,), 0.5), atol=1e-3)
    log_posterior_NC[295:] = torch.tensor([-20.0, 0.0])  # they know the class: half are right
    trust = LabelTrust.of_rows(log_posterior_NC, labels_N, ranks_N, 1.0)
    assert trust.weights_R[290:295].max() < 0.05 and trust.weights_R[295:].min() > 0.95


def test_half_the_strength_takes_half_of_the_weight() -> None:
    rows = judged_rows()
    whole, half = (LabelTrust.of_rows(*rows, strength) for strength in (1.0, 0.5))
    assert torch.allclose(1 - half.weights_R, 0.5 * (1 - whole.weights_R), atol=1e-6)


@pytest.mark.parametrize("name", ["classification", "auxiliary", "subsets"])
def test_a_row_that_is_not_trusted_gives_no_loss(name: str) -> None:
    outputs, batch, counts_C = outputs_of([0, 1])
    distrusted = batch.replace(trust_B=torch.tensor([1.0, 0.0]))
    alone = batch.replace(labels_B=torch.tensor([0, -1]))
    all_rows, found, expected = (
        float(losses.loss_terms(outputs, rows, counts_C, ModelConfig(), 1.0)[name].detach())
        for rows in (batch, distrusted, alone)
    )
    assert found == pytest.approx(expected, rel=1e-5) and found < 0.9 * all_rows


def test_both_labels_of_a_blend_count_as_far_as_they_are_trusted() -> None:
    _, batch, counts_C = outputs_of([0, 1, 0, 1])
    trust_B = torch.tensor([1.0, 0.0, 0.5, 0.25])
    config = LossConfig(mix="mixup", mix_alpha=5.0)
    mixed = mix_samples(batch.replace(trust_B=trust_B), config, counts_C, 0, 0)
    assert mixed.partners_B is not None and mixed.partners_trust_B is not None
    assert mixed.shares_B is not None
    value = {0: 3.0, 1: 7.0}

    def loss_B(labels_B: Tensor) -> Tensor:
        return torch.tensor([value[label] for label in labels_B.tolist()])

    shares_B = mixed.shares_B
    expected_B = shares_B * trust_B * loss_B(mixed.labels_B) + (
        1 - shares_B
    ) * mixed.partners_trust_B * loss_B(mixed.partners_B)
    assert sorted(mixed.partners_trust_B.tolist()) == sorted(trust_B.tolist())
    assert torch.allclose(losses.mix_trusted(loss_B, mixed), expected_B)
