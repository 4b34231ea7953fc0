"""The training loop: resuming, accumulation, workers, divergence, early stop, optimisers."""

from __future__ import annotations

import io
import math
import os
from typing import Any

import pytest
import torch

from distributed import config
from distributed.training import exchange, loop
from distributed.training.finish import frozen_features
from distributed.training.optimisation.divergence import Diverged
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.optimisation.training_state import TrainingState
from distributed.training.scoring import (
    Evaluator,
    Scores,
    compute_run_metrics,
)
from model.encoders.standardise import Standardise
from model.learning import losses
from model.network import Network
from tests.training import toy

TRUST = "loss.trust_labels=1"


def start(
    *sets: str, world: int = 1, rank: int = 0
) -> tuple[Network, toy.Toy, toy.Toy, config.Config]:
    chosen = {pair.partition("=")[0]: pair for pair in (*toy.SMALL, *sets)}
    settings = config.load_config(sets=list(chosen.values()))
    torch.manual_seed(settings.optim.seed)
    absent = float(settings.data.corrupt.partition(":")[2] or 0)  # a share of the pictures
    train = toy.Toy(toy.records(absent=absent), settings.data.batch_size, True, rank, world)
    val = toy.Toy(toy.records(seed=1), 50, False, rank, world)
    return Network(train.schema, settings.model), train, val, settings


def in_order(train: toy.Toy) -> toy.Toy:
    """The training rows, each once, as loss.trust_labels needs them."""
    return toy.Toy(train.records, 50, False, train.rank, train.world)


class KeepEpochs:
    """A report that keeps everything, with the state as it would come back from a file."""

    def __init__(self, stop_after: int = 0) -> None:
        self.metrics: list[dict[str, float]] = []
        self.states: list[dict[str, Any]] = []
        self.stop_after = stop_after

    def __call__(self, metrics: dict[str, float], state: dict[str, Any], scores: Scores) -> bool:
        self.metrics.append(metrics)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        self.states.append(torch.load(file, weights_only=True))
        return len(self.metrics) == self.stop_after


def evaluator_of(run: TrainingState) -> Evaluator:
    return Evaluator(run.device, compute_dtype(run.config, run.device), run.exchange)


def same_weights(a: Network, b: Network) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "extra",
    ["optim.name=adamw", "optim.name=sgd", "optim.name=sam", "optim.name=imbsam", TRUST],
)
def test_resuming_equals_no_interruption_to_the_bit(extra: str) -> None:
    def train_from(state: Any, report: KeepEpochs) -> TrainingState:
        network, train, val, settings = start(extra, "optim.epochs=3")
        rows = in_order(train)
        return loop.train_network(
            network, train, val, settings, report, state=state, train_rows=rows
        )

    uninterrupted = train_from(None, KeepEpochs())
    train_from(None, cut := KeepEpochs(stop_after=1))
    resumed = train_from(cut.states[-1], after := KeepEpochs())
    assert [m["epoch"] for m in after.metrics] == [2, 3]
    assert same_weights(uninterrupted.network, resumed.network)
    assert same_weights(uninterrupted.evaluated, resumed.evaluated)
    assert uninterrupted.best["epoch"] == resumed.best["epoch"]


@pytest.mark.parametrize("name", ["adamw", "sgd", "sam", "imbsam"])
def test_every_optimiser_learns(name: str) -> None:
    network, train, val, settings = start(
        f"optim.name={name}",
        f"optim.epochs={40 if name == 'sgd' else 16}",
        f"optim.lr={0.1 if name == 'sgd' else 0.01}",
    )
    recorded = KeepEpochs()
    loop.train_network(network, train, val, settings, recorded)
    assert recorded.metrics[-1]["loss"] < 0.8 * recorded.metrics[0]["loss"]
    assert recorded.metrics[-1]["val/balanced_accuracy"] > 0.6


def test_accumulated_halves_equal_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Standardise, "forward", lambda self, x, present: x
    )  # a half has statistics of its own; the table network has no others
    sets = [
        "data.modalities=table",
        "optim.epochs=1",
        "optim.ema=0",
        "data.cell_dropout=0",
        "fusion.modality_dropout=0",
        "optim.warmup=0",
    ]
    networks = []
    for extra in (["data.batch_size=24"], ["data.batch_size=12", "optim.accumulate=2"]):
        _, train, val, settings = start(*sets, *extra)
        torch.manual_seed(0)
        train.schema = val.schema = train.schema.keep(("table",))
        for source in (train, val):
            source.records = source.records.replace(
                images={}, present_BM=source.records.present_BM[:, 1:]
            )
        network = Network(train.schema, settings.model)
        train.steps = 24 // settings.data.batch_size  # one optimiser step
        networks.append(loop.train_network(network, train, val, settings, KeepEpochs()).network)
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_a_loss_that_is_not_finite_stops_with_step_and_term() -> None:
    network, train, val, settings = start("optim.epochs=2", "fusion.kind=confidence")
    train.records.labels_B[:] = 0
    with torch.no_grad():
        network.auxiliary.weight_MFDC.fill_(float("inf"))
    with pytest.raises(
        Diverged, match=r"the loss term auxiliary is not finite at step 1 \(epoch 1\)"
    ):
        loop.train_network(network, train, val, settings, KeepEpochs())


def test_answers_that_are_not_finite_on_validation_are_a_divergence() -> None:
    network, train, val, settings = start(
        "optim.epochs=2", "optim.ema=0", "optim.lr=1e30", "data.batch_size=108"
    )  # one step an epoch
    with pytest.raises(Diverged, match=r"answers on validation are not finite \(epoch 1\)"):
        loop.train_network(network, train, val, settings, KeepEpochs())


def test_a_metric_that_should_be_low_picks_the_lowest() -> None:
    network, train, val, settings = start(
        "optim.epochs=6", "optim.metric=nll", "optim.ema=0", "optim.best_epoch_after=0"
    )
    run = loop.train_network(network, train, val, settings, recorded := KeepEpochs())
    assert run.best["epoch"] == 1 + min(range(6), key=lambda k: recorded.metrics[k]["val/nll"])
    assert run.best["score"] == -recorded.metrics[run.best["epoch"] - 1]["val/nll"]


def test_the_remembered_weights_are_those_that_were_scored() -> None:
    network, train, val, settings = start("optim.epochs=3", "optim.metric=nll")
    run = loop.train_network(network, train, val, settings, KeepEpochs())
    network.load_state_dict(run.best["weights"])
    again = compute_run_metrics(Evaluator(run.device).score(network, val), network)
    assert -run.best["score"] == pytest.approx(again["nll"], rel=1e-6)


@pytest.mark.parametrize(
    ("share", "patience", "best"),
    [(0.0, 0, 1), (0.33, 0, 4), (0.5, 0, 4), (0.9, 0, 6), (0.33, 9, 1)],
)
def test_the_first_epochs_give_way_to_one_that_counts(
    share: float, patience: int, best: int
) -> None:
    network, train, _, settings = start(
        "optim.epochs=6", f"optim.best_epoch_after={share}", f"optim.patience={patience}"
    )
    run = loop.begin_training(network, train, settings, exchange.Exchange(), torch.device("cpu"))
    for run.epoch, reached in enumerate([0.9, 0.5, 0.4, 0.7, 0.6, 0.1], start=1):
        run.remember(reached)
    assert run.best["epoch"] == best


def test_a_run_that_ends_before_any_epoch_counts_keeps_its_best() -> None:
    network, train, val, settings = start("optim.epochs=9", "optim.best_epoch_after=0.9")
    run = loop.train_network(
        network, train, val, settings, lambda metrics, state, scores: metrics["epoch"] == 4
    )
    assert run.epoch == 4
    assert 1 <= run.best["epoch"] <= 4


def test_patience_stops_early() -> None:
    network, train, val, settings = start("optim.epochs=30", "optim.patience=2", "optim.lr=0.0")
    recorded = KeepEpochs()
    run = loop.train_network(network, train, val, settings, recorded)
    assert run.epoch < 30 or run.best["epoch"] >= 28
    network, train, val, settings = start("optim.epochs=30", "optim.patience=2", "optim.ema=0")
    run = loop.train_network(network, train, val, settings, recorded := KeepEpochs())
    best = max(
        range(len(recorded.metrics)),
        key=lambda k: (recorded.metrics[k]["val/balanced_accuracy"], k),
    )
    assert run.best["epoch"] == best + 1
    first_epoch = next(
        m["epoch"] for m in recorded.metrics if m["val/balanced_accuracy"] == run.best["score"]
    )
    assert run.epoch in (30, first_epoch + 2)


def test_patience_takes_a_tie_for_no_improvement() -> None:
    network, train, _, settings = start("optim.patience=3")
    run = loop.begin_training(network, train, settings, exchange.Exchange(), torch.device("cpu"))
    ended = []
    for run.epoch, reached in enumerate([0.1, 0.5, 0.5, 0.5, 0.5, 0.6], start=1):
        run.remember(reached)
        ended.append(loop.has_stopped_improving(run))
    assert ended == [False, False, False, False, True, False]
    assert run.best["epoch"] == 6


def test_bfloat16_is_a_choice() -> None:
    network, train, val, settings = start("optim.precision=bfloat16", "optim.epochs=4")
    recorded = KeepEpochs()
    loop.train_network(network, train, val, settings, recorded)
    assert recorded.metrics[-1]["loss"] < recorded.metrics[0]["loss"]
    assert compute_dtype(settings, torch.device("cpu")) is torch.bfloat16
    assert compute_dtype(config.Config(), torch.device("cpu")) is torch.float32


@pytest.mark.slow
def test_a_compiled_network_learns_what_the_plain_one_does() -> None:
    ends = []
    for compiled in ("true", "false"):
        network, train, val, settings = start("optim.epochs=1", f"optim.compile={compiled}")
        torch._dynamo.utils.counters.clear()
        loop.train_network(network, train, val, settings, recorded := KeepEpochs())
        ends.append(recorded.metrics[0]["loss"])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert graphs == (1 if compiled == "true" else 0)
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)


def one_of(rank: int, world: int, folder: str, sets: list[str], sick: int = -1) -> None:
    """A worker process of the tests below; `sick` is the rank whose own loss is not finite."""
    from distributed.training.exchange import WorkerExchange

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world
    )
    network, train, val, settings = start(*sets, world=world, rank=rank)
    if rank == sick:
        healthy = losses.loss_terms
        losses.loss_terms = lambda *a, **k: {
            name: value * math.inf for name, value in healthy(*a, **k).items()
        }
    recorded, message = KeepEpochs(), ""
    network = network if settings.optim.precision == "bfloat16" else network.double()
    try:
        loop.train_network(
            network,
            train,
            val,
            settings,
            recorded,
            exchange=WorkerExchange(settings.scaling.sync_batch_norm),
            train_rows=in_order(train),
        )
    except Diverged as error:
        message = str(error)
    best = recorded.states[-1]["best"]["weights"] if recorded.states else {}
    expected = Evaluator(torch.device("cpu"), exchange=WorkerExchange()).learn_cross_modal_model(
        network, val
    )
    assert expected is not None
    run = loop.begin_training(
        network,
        train,
        settings,
        WorkerExchange(settings.scaling.sync_batch_norm),
        torch.device("cpu"),
    )
    end = {
        "network": network.state_dict(),
        "best": best,
        "expected": expected.state_dict(),
        "metrics": recorded.metrics,
        "message": message,
    }
    torch.save(
        {**end, "features": frozen_features(run.network, val, evaluator_of(run))},
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()
    # Gloo's threads can outlive the group and end the process with SIGABRT while the interpreter
    # shuts down (pytorch/pytorch#179291). Everything that the test looks at is saved by now.
    os._exit(0)


def together(world: int, folder: Any, sets: list[str], sick: int = -1) -> list[dict[str, Any]]:
    """What every one of `world` worker processes ends with."""
    import torch.multiprocessing as mp

    mp.spawn(one_of, (world, str(folder), sets, sick), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["optim.name=imbsam", "loss.mix=remix", "optim.accumulate=2"],
        ["optim.accumulate=3"],
        ["fusion.kind=late"],
        ["data.corrupt=photo=missing:0.9"],
        [TRUST, "loss.mix=mixup"],
    ],
    ids=["default", "imbsam+remix, accumulated", "accumulated", "late", "few images", "trust"],
)
def test_one_worker_equals_two_and_three(extra: list[str], tmp_path: Any) -> None:
    sets = ["optim.epochs=2", "optim.warmup=0.2", *extra]
    network, train, val, settings = start(*sets)
    recorded = KeepEpochs()
    alone = loop.train_network(
        network.double(), train, val, settings, recorded, train_rows=in_order(train)
    )  # Adam makes rounding large where a gradient is nearly zero
    expected = Evaluator(torch.device("cpu")).learn_cross_modal_model(alone.network, val)
    assert expected is not None
    hidden, labels = frozen_features(alone.network, val, evaluator_of(alone))
    for world in (2, 3) if not extra else (2,):
        ranks = together(world, tmp_path, sets)
        assert torch.equal(ranks[1]["features"][1], labels), (
            "the second stage draws rows by their place"
        )
        assert torch.allclose(ranks[1]["features"][0], hidden, atol=1e-3)
        for name, value in alone.network.state_dict().items():
            assert torch.equal(ranks[0]["network"][name], ranks[1]["network"][name]), name
            assert torch.allclose(
                ranks[0]["network"][name].double(), value.double(), atol=1e-4, rtol=1e-4
            ), name
        for name in ("rows_MM", "count_MMC", "posterior_MMC"):  # of all workers' rows
            assert torch.allclose(
                ranks[0]["expected"][name], expected.state_dict()[name], atol=1e-3
            ), name
        for name, value in recorded.metrics[-1].items():
            if name.startswith(("loss", "val/")):
                assert ranks[0]["metrics"][-1][name] == pytest.approx(value, abs=2e-2), name


def test_two_workers_in_bfloat16_train_as_one_does(tmp_path: Any) -> None:
    sets = ["optim.epochs=2", "optim.precision=bfloat16"]
    network, train, val, settings = start(*sets)
    loop.train_network(network, train, val, settings, recorded := KeepEpochs())
    ranks = together(2, tmp_path, sets)
    assert ranks[0]["metrics"][-1]["loss"] == pytest.approx(recorded.metrics[-1]["loss"], rel=0.05)


def test_workers_that_go_by_their_own_batch_statistics_end_with_the_same_network(
    tmp_path: Any,
) -> None:
    ends = {}
    for name in ("true", "false"):
        (tmp_path / name).mkdir()
        ends[name] = together(
            2, tmp_path / name, ["optim.epochs=3", f"scaling.sync_batch_norm={name}"]
        )
    one, other = ends["false"]
    for weights in ("network", "best"):
        for name, value in one[weights].items():
            assert torch.equal(value, other[weights][name]), name
    scored = [
        {n: v for n, v in end["metrics"][-1].items() if n.startswith(("loss", "val/"))}
        for end in (one, other)
    ]
    assert scored[0] == scored[1]
    assert one["metrics"][-1]["loss"] < 0.8 * one["metrics"][0]["loss"]
    moved = [
        n
        for n, value in one["network"].items()
        if not torch.allclose(value, ends["true"][0]["network"][n], atol=1e-6)
    ]
    assert any(n.endswith("running_var") for n in moved), "they were never their own"


def test_a_loss_that_is_not_finite_on_one_worker_stops_all_with_the_same_words(
    tmp_path: Any,
) -> None:
    messages = {rank["message"] for rank in together(2, tmp_path, ["optim.epochs=2"], sick=1)}
    assert len(messages) == 1
    assert "is not finite at step 1 (epoch 1)" in messages.pop()


class NormAct(torch.nn.BatchNorm2d):
    """As timm's BatchNormAct2d: normalises, drops and activates in one layer."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = torch.nn.Identity(), torch.nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", [NormAct, torch.nn.BatchNorm2d])
def test_a_global_batch_norm_does_all_that_its_layer_did(
    layer: type[torch.nn.BatchNorm2d], tmp_path: Any
) -> None:
    from distributed.training.workers.batch_norm import use_global_statistics

    own, shared = layer(3), layer(3)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        use_global_statistics(shared)
        for training in (True, False):
            results = []
            for norm in (own.train(training), shared.train(training)):
                x = torch.randn(
                    4, 3, 5, 5, generator=torch.Generator().manual_seed(0)
                ).requires_grad_()
                y = norm(x)
                (y * y.detach().sin()).sum().backward()
                results.append((y.detach(), x.grad))
            torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)
    finally:
        torch.distributed.destroy_process_group()
