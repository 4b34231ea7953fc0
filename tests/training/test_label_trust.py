"""A training that doubts labels: which rows count less, and from when on."""

from __future__ import annotations

import torch

from distributed import config
from distributed.training import loop
from model.network import Network
from tests.training import toy

COUNTS = (120, 60, 30)
WRONG = torch.tensor([5, 40, 77, 101, 130, 150, 171, 190])  # places of rows


def trained(wrong: bool, trust: float) -> tuple[torch.Tensor | None, list[float]]:
    """The weights of the rows in the last epoch, in the order of the rows, and the losses."""
    rows = toy.records(COUNTS)
    labels_N = rows.labels_B.clone()
    if wrong:
        labels_N[WRONG] = (labels_N[WRONG] + 1) % len(COUNTS)
    ranks_N = torch.empty_like(labels_N)
    for c in range(len(COUNTS)):
        ranks_N[labels_N == c] = torch.arange(int((labels_N == c).sum()))
    rows = rows.replace(labels_B=labels_N, ranks_B=ranks_N)
    counts = tuple(torch.bincount(labels_N).tolist())
    sets = [*toy.SMALL, "optim.epochs=10", f"loss.trust_labels={trust:g}"]
    settings = config.load_config(sets=[s for s in sets if s != "optim.epochs=3"])
    train = toy.Toy(rows, settings.data.batch_size, True, counts=counts)
    in_order = toy.Toy(rows, 50, False, counts=counts)
    losses: list[float] = []

    def report(metrics: dict[str, float], *_: object) -> None:
        losses.append(metrics["loss"])

    torch.manual_seed(0)
    network = Network(train.schema, settings.model)
    run = loop.train_network(network, train, in_order, settings, report, train_rows=in_order)
    return None if run.trust is None else run.trust.weigh(rows).trust_B, losses


def test_wrong_labels_count_less_and_right_ones_go_on_counting() -> None:
    weights_N, _ = trained(wrong=True, trust=1.0)
    assert weights_N is not None
    right_N = torch.ones(sum(COUNTS), dtype=torch.bool)
    right_N[WRONG] = False
    assert weights_N[WRONG].mean() < 0.7
    assert weights_N[right_N].mean() > 0.95


def test_where_all_labels_are_right_all_rows_count() -> None:
    weights_N, _ = trained(wrong=False, trust=1.0)
    assert weights_N is not None and weights_N.min() > 0.9


def test_the_first_epoch_trusts_every_label_and_without_the_setting_all_do() -> None:
    weights_N, plain = trained(wrong=True, trust=0.0)
    _, doubting = trained(wrong=True, trust=1.0)
    assert weights_N is None
    assert doubting[0] == plain[0] and doubting[-1] < plain[-1]
