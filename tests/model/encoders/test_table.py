"""The two networks of the table encoder, table.encoder=mlp and tabm."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig, TableConfig
from model.encoders.table import SUBMODELS, TableEncoder, TabM
from model.network import Network
from tests.model import samples

TABLE = samples.table()
ROWS = 12


def encoder(kind: str) -> TableEncoder:
    torch.manual_seed(0)
    return TableEncoder(TABLE, TableConfig(encoder=kind, width=16, embedding_size=4), 8)


def content() -> tuple[Tensor, Tensor]:
    batch = samples.batch(samples.schema(), ROWS)
    return batch.numbers[TABLE.name], batch.categories[TABLE.name]


@pytest.mark.parametrize("kind", ["mlp", "tabm"])
def test_the_content_of_an_absent_row_has_no_influence(kind: str) -> None:
    table = encoder(kind).eval()
    numbers, categories = content()
    present = torch.arange(ROWS) != 3
    before = table(numbers, categories, present)
    numbers[3], categories[3] = 7.0, 1
    torch.testing.assert_close(table(numbers, categories, present), before, rtol=0, atol=0)
    numbers[4] = 7.0
    assert not torch.equal(table(numbers, categories, present)[4], before[4])


def test_tabm_begins_as_different_networks_that_share_most_weights() -> None:
    table = encoder("tabm")
    body = table.body
    assert isinstance(body, TabM)
    inputs = torch.randn(ROWS, 4 * (len(TABLE.numeric) + len(TABLE.categorical)))
    hidden_BKH = body.body(body.view(inputs))
    assert hidden_BKH.shape[1] == SUBMODELS
    pairs = torch.cdist(hidden_BKH[0], hidden_BKH[0])[~torch.eye(SUBMODELS, dtype=torch.bool)]
    assert pairs.min() > 0.01
    one = sum(weight.numel() for weight in encoder("mlp").body.parameters())
    assert sum(weight.numel() for weight in body.body.parameters()) < SUBMODELS * one / 2


def test_tabm_says_the_same_of_a_row_in_training_and_at_test() -> None:
    """There is no randomness in the network, so that a resumed training is equal bit for bit."""
    body = encoder("tabm").body
    inputs = torch.randn(ROWS, 4 * 4)
    torch.testing.assert_close(body.train()(inputs), body.eval()(inputs), rtol=0, atol=0)


def test_every_network_of_tabm_learns_from_the_loss_of_the_whole_model() -> None:
    schema = samples.schema()
    config = ModelConfig(table=TableConfig(encoder="tabm", width=16, embedding_size=4))
    network = Network(schema, dataclasses.replace(config, dim=8), pretrained=False).train()
    network(samples.batch(schema, ROWS)).logits_BEC.square().sum().backward()
    body = network.encoders[-1].body
    assert isinstance(body, TabM)
    for parameter in (body.out.weight, body.out.bias):
        assert parameter.grad is not None
        assert (parameter.grad.flatten(1).abs().sum(1) > 0).all()
        assert len(parameter.grad) == SUBMODELS
