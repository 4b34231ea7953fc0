"""A training step never makes the host wait for the device, and compiles to one graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.optimisation.compiled import CompiledForward
from distributed.training.optimisation.step import train_step
from distributed.training.optimisation.training_state import TrainingState
from model.learning.optimisers import set_learning_rates
from tests.training.test_loop import start
from tests.training.waiting import HostWaits, no_waiting


def begun(*sets: str) -> tuple[TrainingState, list]:
    network, train, _, settings = start(*sets)
    run = loop.begin_training(network, train, settings, Exchange(), torch.device("cpu"))
    run.network.train()
    return run, [batch.to("cpu") for batch in train.batches(0)]


def tensors_of(run: TrainingState, batches: list) -> list[Tensor]:
    found = [*run.network.parameters(), *run.network.buffers()]
    if run.average is not None:
        found += [*run.average.parameters(), *run.average.buffers()]
    for batch in batches:
        batch.apply(lambda tensor: found.append(tensor) or tensor)
    return found


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("optim.name=sam",),
        ("optim.name=imbsam",),
        ("optim.name=sgd",),
        ("optim.accumulate=2",),
        ("loss.name=sade",),
        ("loss.name=vs",),
        ("loss.mix=mixup",),
        ("loss.mix=remix",),
        ("data.erase=0.3", "data.flip=both"),
        ("fusion.modality_dropout=0.3", "data.corrupt=photo=missing:0.4"),
        ("fusion.kind=gate",),
        ("fusion.kind=mixture",),
        ("fusion.kind=evidential",),
        ("optim.precision=bfloat16",),
    ],
)
def test_no_step_waits_for_the_device(
    sets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, batches = begun(*sets)
    group = run.config.optim.accumulate
    with no_waiting(tensors_of(run, batches), monkeypatch):
        for k in range(2):
            train_step(run, batches[k * group : (k + 1) * group])
    assert run.step == 2


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: (x * 2).cpu(),
        lambda x: x.to("cpu"),
        lambda x: (x + 1).tolist(),
        lambda x: (x > 0).nonzero(),
        lambda x: float(x.mean()),
        lambda x: x.clone().masked_select(x > 0),
        lambda x: torch.rand(3).to(x.device),
        lambda x: torch.rand(3).to(x),
        lambda x: torch.tensor([1.0], device=x.device),
    ],
)
def test_what_waits_is_noticed(
    use: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.ones(3)
    with no_waiting([tensor], monkeypatch):
        torch.rand(3).sum().item()  # on the host
        torch.rand(3).to(tensor.device, non_blocking=True)
        tensor.masked_fill(tensor > 0, 2.0)
        with pytest.raises(HostWaits):
            use(tensor)


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("fusion.kind=gate",),
        ("fusion.kind=mixture",),
        ("fusion.kind=late",),
        ("fusion.modality_dropout=0.3", "data.corrupt=photo=missing:0.4"),
        ("optim.precision=bfloat16",),
    ],
)
def test_the_network_compiles_to_one_graph_for_any_number_of_records(sets: tuple[str, ...]) -> None:
    run, batches = begun(*sets)
    graphs = 0

    def count_graph(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    run.forward = CompiledForward(run.network, backend=count_graph)  # fails where a graph breaks
    for batch in batches[:2]:
        train_step(run, [batch])
    for rows in (19, 17, 22):
        train_step(run, [batches[2].select(slice(0, rows)).to("cpu")])
    assert graphs == 1


def test_a_compiled_network_trains_as_the_plain_one() -> None:
    (plain, batches), (compiled, _) = begun(), begun()
    torch._dynamo.reset()
    compiled.forward = CompiledForward(compiled.network, backend="eager")
    for batch in batches[:2]:
        terms = [train_step(run, [batch]) for run in (plain, compiled)]
        assert all(torch.equal(terms[0][name], terms[1][name]) for name in terms[0])
    for ours, theirs in zip(plain.network.parameters(), compiled.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_learning_rates_that_are_on_the_device_stay_there() -> None:
    run, _ = begun("optim.lr=0.5", "optim.warmup=0.5")
    rates = [torch.tensor(9.0) for _ in run.optimiser.param_groups]
    for group, rate in zip(run.optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    set_learning_rates(run.optimiser, run.config.optim, 0, 8)
    assert [float(rate) for rate in rates] == [0.125] * len(rates)
    assert all(group["lr"] is rate for group, rate in zip(run.optimiser.param_groups, rates))
