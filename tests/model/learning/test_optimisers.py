"""Parameter groups, SAM and ImbSAM on quadratics by hand, and the schedule."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.learning import optimisers
from model.network import Network
from model.schema import Categorical, Image, Numeric, Schema, Table


def settings(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(
        **{"name": "adamw", "lr": 0.1, "weight_decay": 0.5, "momentum": 0.9, **changes}
    )


def small_network() -> Network:
    numbers = (
        Numeric(name="x", quantiles=(-1.0, 0.0, 1.0)),
        Numeric(name="y", quantiles=(-1.0, 0.0, 1.0)),
    )
    table = Table(
        name="table", numeric=numbers, categorical=(Categorical(name="k", vocabulary=("a", "b")),)
    )
    schema = Schema(
        images=(Image(name="picture", height=8, width=8, channels=1),),
        tables=(table,),
        classes=("a", "b"),
        counts=(9, 3),
    )
    return Network(schema, ModelConfig(dim=8))


def test_only_weight_matrices_decay() -> None:
    network = small_network()
    names = {id(p): name for name, p in network.named_parameters()}
    kept, free = (
        {names[id(p)] for p in group} for group in optimisers.split_by_weight_decay(network)
    )
    assert kept | free == set(names.values())
    assert not kept & free
    assert {
        "experts.project.weight_EIO",
        "experts.classifier.weight_EHC",
        "auxiliary.weight_MFDC",
    } <= kept
    assert any(name.startswith("encoders.0.body") for name in kept)
    for name in kept:
        assert "bias" not in name
    for part in (
        "norm.scale_EH",
        "norm.shift_EH",
        "concatenate.absent_MD",
        "missing_ND",
        "fill_N",
        "categories.table.weight",
    ):
        assert any(part in name for name in free), part
    network.encoders.requires_grad_(False)
    groups = optimisers.build_optimiser(network, settings()).param_groups
    assert [g["weight_decay"] for g in groups] == [0.5, 0.0]
    assert not any(names[id(p)].startswith("encoders") for g in groups for p in g["params"])


def test_every_name_builds_its_optimiser() -> None:
    kinds = {
        name: type(optimisers.build_optimiser(nn.Linear(2, 2), settings(name=name))).__name__
        for name in optimisers.OPTIMISERS
    }
    assert kinds == {"adamw": "AdamW", "sgd": "SGD", "sam": "AdamW", "imbsam": "AdamW"}
    assert optimisers.build_optimiser(nn.Linear(2, 2), settings(name="sgd")).param_groups[0][
        "nesterov"
    ]
    assert not optimisers.build_optimiser(
        nn.Linear(2, 2), settings(name="sgd", momentum=0.0)
    ).param_groups[0]["nesterov"]


def bowl(w: Tensor, a: float, b: float) -> Tensor:
    return (a * w[0] ** 2 + b * w[1] ** 2) / 2


def test_sam_on_a_quadratic_by_hand() -> None:
    # L = (w0^2 + 3 w1^2) / 2 at (1, 2): gradient (1, 6), norm sqrt(37); at w + rho g / |g| the
    # gradient is (1, 6) + rho (1, 18) / sqrt(37).
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    bowl(w, 1, 3).backward()
    undo = optimisers.perturb([w], rho=0.5)
    assert w.tolist() == pytest.approx([1 + 0.5 / math.sqrt(37), 2 + 3 / math.sqrt(37)])
    w.grad = None
    bowl(w, 1, 3).backward()
    undo()
    assert w.tolist() == [1.0, 2.0]
    assert w.grad.tolist() == pytest.approx([1 + 0.5 / math.sqrt(37), 6 + 9 / math.sqrt(37)])
    torch.optim.SGD([w], lr=0.1).step()
    assert w.tolist() == pytest.approx(
        [1 - 0.1 - 0.05 / math.sqrt(37), 2 - 0.6 - 0.9 / math.sqrt(37)]
    )


def test_imbsam_perturbs_by_the_rare_part_and_keeps_the_frequent_part_where_it_is() -> None:
    # Rare part (w0^2)/2 * 4 with gradient (4, 0) at (1, 2): eps = (0.5, 0); frequent part
    # (2 w1^2 + 2 w0^2) / 2.
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    bowl(w, 4, 0).backward()
    undo = optimisers.perturb([w], rho=0.5)
    w.grad = None
    bowl(w, 4, 0).backward()
    undo()
    bowl(w, 2, 2).backward()
    assert w.grad.tolist() == pytest.approx([4 * 1.5 + 2 * 1.0, 2 * 2.0])


def test_perturbation_takes_one_norm_over_all_parameters_and_comes_back_to_the_bit() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    before = [p.detach().clone() for p in network.parameters()]
    network(torch.randn(5, 3)).square().sum().backward()
    undo = optimisers.perturb(network.parameters(), rho=0.25)
    moved = torch.cat(
        [(p - b).flatten() for p, b in zip(network.parameters(), before, strict=True)]
    )
    assert float(moved.detach().norm()) == pytest.approx(0.25, rel=1e-4)
    undo()
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


def test_no_gradient_and_a_zero_gradient_move_nothing() -> None:
    w = nn.Parameter(torch.ones(2))
    optimisers.perturb([w], 1.0)()
    w.grad = torch.zeros(2)
    undo = optimisers.perturb([w], 1.0)
    assert w.tolist() == [1.0, 1.0]
    undo()


def test_workers_that_averaged_their_gradients_move_as_one_worker_does() -> None:
    data = torch.randn(6, 3)
    network = nn.Linear(3, 1)

    def gradients(rows: Tensor) -> list[Tensor]:
        network.zero_grad()
        network(rows).square().mean().backward()
        return [p.grad.clone() for p in network.parameters()]

    halves = [gradients(data[:2]), gradients(data[2:])]
    whole = gradients(data)
    start = [p.detach().clone() for p in network.parameters()]
    moved = []
    for grads in (whole, [2 / 6 * a + 4 / 6 * b for a, b in zip(*halves, strict=True)]):
        for p, g in zip(network.parameters(), grads, strict=True):
            p.grad = g
        undo = optimisers.perturb(network.parameters(), 0.1)
        moved.append([p.detach() - s for p, s in zip(network.parameters(), start, strict=True)])
        undo()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*moved, strict=True))


def test_a_second_pass_leaves_batch_statistics_alone() -> None:
    norm = nn.BatchNorm1d(2, momentum=0.3)
    norm(torch.randn(8, 2))
    mean = norm.running_mean.clone()
    with optimisers.frozen_running_statistics(norm):
        norm(torch.randn(8, 2) + 5)
        assert torch.equal(norm.running_mean, mean)
    assert norm.momentum == 0.3
    norm(torch.randn(8, 2) + 5)
    assert not torch.equal(norm.running_mean, mean)


def test_learning_rate_rises_then_falls_as_a_cosine() -> None:
    scale = [optimisers.learning_rate_scale(step, 20, 0.2) for step in range(21)]
    assert scale[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert scale[12] == pytest.approx(0.5)  # half way through the cosine's 16 steps
    assert scale[4:] == sorted(scale[4:], reverse=True)
    assert scale[20] == pytest.approx(0.0)
    assert optimisers.learning_rate_scale(0, 1, 0.0) == 1.0
    assert optimisers.learning_rate_scale(30, 20, 0.2) == pytest.approx(0.0)
