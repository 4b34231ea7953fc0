"""A training step never makes the host wait, compiles to one graph, and fits a CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.optimisation import step
from distributed.training.optimisation.compiled import CompiledForward
from distributed.training.optimisation.training_state import TrainingState
from model import copying
from model.batch import Batch
from model.learning.label_trust import LabelTrust
from model.learning.optimisers import set_learning_rates
from tests.training import toy
from tests.training.stand_in_gpu import DEVICE, HostWaits, NotInGraph, StandInGpu
from tests.training.test_loop import start


def begun(*sets: str, device: torch.device | str = "cpu") -> tuple[TrainingState, list[Batch]]:
    """A training before its first step, and its batches, on the CPU also for another device."""
    network, train, _, settings = start(*sets)
    run = loop.begin_training(network, train, settings, Exchange(), torch.device(device))
    run.network.train()
    if settings.loss.trust_labels:
        rows_C = run.network.counts_C.long()
        weights_R = torch.full((sum(toy.COUNTS),), 0.5, device=device)
        run.trust = LabelTrust(weights_R, rows_C, 0.5 * run.network.counts_C)
    return run, [batch.to("cpu") for batch in train.batches(0)]


def lasting_tensors(run: TrainingState) -> dict[str, Tensor]:
    """The tensors of a training that its steps share, such as weights and optimiser states."""
    found: dict[str, Tensor] = {}
    for part, network in (("network", run.network), ("average", run.average)):
        if network is not None:
            pairs = [*network.named_parameters(), *network.named_buffers()]
            found |= {f"{part}.{name}": tensor for name, tensor in pairs}
    if run.averaging is not None:
        found["share"] = run.averaging.share
    if run.trust is not None:
        found["trusted rows"] = run.trust.counts_C
    for k, state in enumerate(run.optimiser.state.values()):
        found |= {f"{name} {k}": value for name, value in state.items() if value is not None}
    for k, group in enumerate(run.optimiser.param_groups):
        found[f"rate {k}"] = group["lr"]
    return found


def tensors_of(batches: list[Batch]) -> dict[str, Tensor]:
    """The records, as those of each step would be copied to the place that a graph reads."""
    found: list[Tensor] = []
    for batch in batches:
        batch.apply(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return {f"batch {k}": tensor for k, tensor in enumerate(found)}


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("optim.name=sam", "loss.name=sade"),
        ("optim.name=imbsam", "loss.name=vs"),
        ("optim.name=sgd", "optim.accumulate=2", "fusion.kind=gate"),
        ("optim.name=sgd", "optim.momentum=0", "optim.ema=0", "loss.name=class_balanced"),
        ("loss.mix=mixup", "fusion.kind=evidential", "loss.name=influence"),
        ("loss.mix=remix", "fusion.kind=late", "loss.trust_labels=0.5"),
        ("data.erase=0.3", "data.flip=both", "fusion.modality_dropout=0.3"),
        ("table.encoder=tabm", "loss.name=focal", "loss.focal_gamma=2"),
        ("loss.name=smoothing",),
        ("optim.precision=bfloat16",),
    ],
)
def test_no_step_waits_and_a_cuda_graph_can_hold_what_follows_augmentation(
    sets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = StandInGpu()
    recorded: list[list[str]] = []
    update = step.update_weights

    def recording(run: TrainingState, batches: list[Batch]) -> dict[str, Tensor]:
        with gpu.recording(lasting | tensors_of(batches)) as operations:
            terms = update(run, batches)
        recorded.append(operations)
        return terms

    with gpu:
        run, batches = begun(*sets, device=DEVICE)
        group = run.config.optim.accumulate
        with gpu.watching():
            batches = [batch.apply(Tensor.pin_memory).to(DEVICE) for batch in batches]
            step.train_step(run, batches[:group])  # the optimiser makes its states
            lasting = lasting_tensors(run)
            monkeypatch.setattr(step, "update_weights", recording)
            for _ in range(2):
                step.train_step(run, batches[-group:])
    assert run.step == 3
    assert recorded[0] == recorded[1]  # every operation, shape and number of the host


def test_no_step_waits_where_pictures_are_missing() -> None:
    gpu = StandInGpu()
    with gpu:
        run, batches = begun("data.corrupt=photo=missing:0.4", device=DEVICE)
        with gpu.watching():
            batches = [batch.apply(Tensor.pin_memory).to(DEVICE) for batch in batches[:2]]
            for batch in batches:
                step.train_step(run, [batch])
    assert batches[0].rows_M[0].device == DEVICE  # type: ignore[union-attr]


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
        lambda x: torch.equal(x, x),
        lambda x: torch.rand(3).to(x.device),
        lambda x: torch.rand(3).to(x.device, non_blocking=True),  # from memory that is not pinned
        lambda x: torch.rand(3).pin_memory().to(x),
        lambda x: x.copy_(torch.rand(3)),
        lambda x: torch.tensor([1.0], device=x.device),
    ],
)
def test_what_waits_is_noticed(use: Callable[[Tensor], object]) -> None:
    gpu = StandInGpu()
    with gpu:
        tensor = torch.ones(3).to(DEVICE)
        with gpu.watching():
            torch.rand(3).sum().item()  # on the host
            copying.put(torch.rand(3), DEVICE)
            copying.put_numbers([1.0], DEVICE)
            tensor.masked_fill(tensor > 0, 2.0)
            with pytest.raises(HostWaits):
                use(tensor)


@pytest.mark.parametrize(
    "use",
    [
        lambda x, old: x + old,
        lambda x, old: copying.put(torch.rand(3), DEVICE) + x,
        lambda x, old: x + torch.rand(3),
    ],
)
def test_what_a_cuda_graph_cannot_hold_is_noticed(
    use: Callable[[Tensor, Tensor], object],
) -> None:
    gpu = StandInGpu()
    with gpu:
        tensor, old = torch.ones(3).to(DEVICE), torch.ones(3).to(DEVICE)
        with gpu.watching(), gpu.recording({"x": tensor}) as operations:
            for number in (1.0, 1.0, 2.0):
                tensor.add(number)
            first, second, other = operations
            assert first == second != other
            with pytest.raises(NotInGraph):
                use(tensor, old)


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("fusion.kind=gate",),
        ("fusion.kind=mixture",),
        ("fusion.kind=late",),
        ("table.encoder=tabm",),
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
        step.train_step(run, [batch])
    for rows in (19, 17, 22):
        step.train_step(run, [batches[2].select(slice(0, rows)).to("cpu")])
    assert graphs == 1


def test_a_compiled_network_trains_as_the_plain_one() -> None:
    (plain, batches), (compiled, _) = begun(), begun()
    torch._dynamo.reset()
    compiled.forward = CompiledForward(compiled.network, backend="eager")
    for batch in batches[:2]:
        terms = [step.train_step(run, [batch]) for run in (plain, compiled)]
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


def test_a_state_that_was_saved_on_a_gpu_continues_on_a_cpu() -> None:
    (saved, batches), (run, _), (same, _) = begun(), begun(), begun()
    step.train_step(saved, [batches[0]])
    state = saved.state_dict()
    same.load_state_dict(copy.deepcopy(state))
    for group in state["optimiser"]["param_groups"]:
        group |= {"lr": torch.tensor(group["lr"]), "capturable": True}
    run.load_state_dict(state)
    for each in (run, same):
        step.train_step(each, [batches[1]])
    for ours, theirs in zip(run.network.parameters(), same.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
