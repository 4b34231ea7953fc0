"""The running average: what it follows, what it leaves alone, and what it becomes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model.learning.weight_average import WeightAverage


def test_it_follows_weights_and_float_buffers_and_copies_whole_numbers() -> None:
    network = nn.BatchNorm1d(1)
    average = copy.deepcopy(network)
    averaging = WeightAverage(average, network)
    with torch.no_grad():
        network.weight.fill_(11.0)
        network.running_mean.fill_(10.0)
        network.num_batches_tracked.fill_(7)
    averaging.set_share(decay=0.99, step=0)  # the decay is 1/10 at first
    averaging.update()
    assert average.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    assert average.running_mean.item() == pytest.approx(9.0)
    assert average.num_batches_tracked.item() == 7
    averaging.set_share(decay=0.5, step=1000)  # later it is the configured one
    averaging.update()
    assert average.weight.item() == pytest.approx(0.5 * 10 + 0.5 * 11)


def test_the_average_of_constant_weights_is_those_weights() -> None:
    network, average = nn.Linear(3, 2), nn.Linear(3, 2)
    averaging = WeightAverage(average, network)
    for step in range(400):
        averaging.set_share(0.9, step)
        averaging.update()
    for name, value in network.state_dict().items():
        assert torch.allclose(average.state_dict()[name], value, atol=1e-6), name


def test_frozen_weights_are_left_alone() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    average = copy.deepcopy(network)
    averaging = WeightAverage(average, network)
    before = copy.deepcopy(average.state_dict())
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    averaging.set_share(0.5, 1000)
    averaging.update()
    for name, value in average.state_dict().items():
        moved = 0.5 if name.startswith("1.") else 0.0
        assert torch.allclose(value, before[name] + moved), name
