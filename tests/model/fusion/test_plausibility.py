"""Whether the cells of a table row belong together."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from model.batch import Batch
from model.config import FusionConfig
from model.fusion.mixture import subsets
from model.fusion.plausibility import Plausibility
from model.learning.losses import loss_terms, plausibility_loss
from model.learning.spoil import add_unrelated_cells, spoil_modalities
from model.network import Network
from model.outputs import SubsetAnswers
from model.schema import Categorical, Image, Numeric, Schema, Table
from tests.model.test_network import small

LEVELS = tuple(float(level) for level in torch.linspace(-2, 2, 17))
TABLE = Table(
    name="table",
    numeric=(
        Numeric(name="a", mean=0.0, std=1.0, quantiles=LEVELS, missing=0.1),
        Numeric(name="b", mean=5.0, std=0.0),
    ),
    categorical=(Categorical(name="c", vocabulary=("x", "y", "z"), missing=0.2),),
)
SCHEMA = Schema(
    images=(Image(name="image", height=4, width=4),), tables=(TABLE,), classes=("u", "v")
)


def batch_of(rows: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    numbers_BN = torch.randn(rows, 2, generator=generator)
    return Batch(
        images={"image": torch.zeros(rows, 3, 4, 4, dtype=torch.uint8)},
        numbers={"table": numbers_BN},
        categories={"table": torch.zeros(rows, 1, dtype=torch.long)},
        present_BM=torch.ones(rows, 2, dtype=torch.bool),
        labels_B=torch.zeros(rows, dtype=torch.long),
        ranks_B=torch.arange(rows),
    )


def facts_of(value: float) -> Tensor:
    """Returns what the network reads of a number of the first column."""
    return Plausibility(TABLE).describe(torch.tensor([[value, 5.0]]))[0, 0]


def test_a_number_is_described_by_its_place_in_the_training_values_and_beyond_them() -> None:
    assert facts_of(-2.0).tolist() == [-1.0, -2.0, 0.0, 0.0, 0.0]
    assert facts_of(1.0).tolist() == [0.5, 1.0, 0.0, 0.0, 0.0]
    beyond = facts_of(3.0)
    assert beyond[0] == 1.0 and beyond[2] == 0.0
    assert torch.isclose(beyond[3], torch.log1p(torch.tensor(20.0)))
    assert facts_of(float("nan")).tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]


def test_extreme_and_unseen_cells_have_finite_log_odds() -> None:
    numbers_BN = torch.tensor([[1e38, -1e38], [float("nan"), float("nan")]])
    odds_B = Plausibility(TABLE)(numbers_BN, torch.tensor([[99], [-1]]))
    assert odds_B.shape == (2,) and bool(odds_B.isfinite().all())


def test_unrelated_cells_are_drawn_anew_in_every_step_and_leave_the_row_alone() -> None:
    batch = batch_of(3000)
    first, second = (add_unrelated_cells(batch, SCHEMA, 0, step) for step in (1, 2))
    numbers_BN = first.unrelated_numbers["table"]
    assert torch.equal(first.numbers["table"], batch.numbers["table"])
    assert not torch.equal(numbers_BN, second.unrelated_numbers["table"])
    kept = (numbers_BN == batch.numbers["table"])[:, 0].float().mean()
    assert 0.13 < kept < 0.2  # half of the cells of a third of the rows
    assert 0.05 < numbers_BN[:, 0].isnan().float().mean() < 0.12
    outside = (numbers_BN[:, 0].abs() > 2.5).float().mean()
    assert 0.02 < outside < 0.1  # of a third that is drawn from normal distributions


def test_unrelated_cells_do_not_depend_on_the_number_of_workers() -> None:
    whole = batch_of(8)
    part = whole.select(slice(4, 8)).replace(start=4, total=8)
    expected = add_unrelated_cells(whole, SCHEMA, 3, 5).unrelated_numbers["table"][4:]
    numbers = add_unrelated_cells(part, SCHEMA, 3, 5).unrelated_numbers["table"]
    assert torch.equal(numbers.nan_to_num(9), expected.nan_to_num(9))


def test_it_learns_to_tell_related_cells_from_unrelated_ones() -> None:
    """Column b of a related row is column a; each column alone looks alike in both."""
    table = Table(
        name="table",
        numeric=tuple(Numeric(name=n, quantiles=LEVELS) for n in ("a", "b")),
    )
    torch.manual_seed(0)
    judge = Plausibility(table)
    optimiser = torch.optim.Adam(judge.parameters(), 1e-2)
    none_BK = torch.zeros(256, 0, dtype=torch.long)
    for _ in range(150):
        a_B, b_B = torch.randn(2, 256).clamp(-2, 2)
        related_B = judge(torch.stack([a_B, a_B], 1), none_BK)
        unrelated_B = judge(torch.stack([a_B, b_B], 1), none_BK)
        loss = torch.nn.functional.softplus(torch.stack([-related_B, unrelated_B])).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (related_B > 0).float().mean() > 0.9
    assert (unrelated_B < 0).float().mean() > 0.7


def test_the_loss_is_the_cross_entropy_over_tables_that_are_there_and_not_spoilt() -> None:
    batch = batch_of(3).replace(
        present_BM=torch.tensor([[True, True], [True, False], [True, True]]),
        spoilt_BM=torch.tensor([[False, False], [False, False], [False, True]]),
    )
    answers = SubsetAnswers(
        logits_BSEC=torch.zeros(3, 3, 1, 2),
        hidden_BSEH=torch.zeros(3, 3, 1, 2),
        trust_BM=torch.zeros(3, 2),
        odds_BM=torch.zeros(3, 2),
        members_BSM=subsets(2).expand(3, -1, -1),
        plausible_BT=torch.tensor([[2.0]]).expand(3, -1),
        unrelated_BT=torch.tensor([[1.0]]).expand(3, -1),
    )
    loss_B = plausibility_loss(answers, batch)
    table = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    torch.testing.assert_close(loss_B, torch.tensor([table, 0.0, 0.0]))


def test_rows_with_spoilt_cells_are_trusted_less_after_training() -> None:
    """The label has no relation to the cells, so only the plausibility can tell them apart."""
    table = Table(name="table", numeric=tuple(Numeric(name=n, quantiles=LEVELS) for n in "ab"))
    data = dataclasses.replace(SCHEMA, tables=(table,), counts=(64, 64))
    torch.manual_seed(0)
    network = Network(data, small(fusion=FusionConfig(kind="mixture"))).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(120):
        a_B = torch.randn(128).clamp(-2, 2)
        batch = batch_of(128).replace(
            numbers={"table": torch.stack([a_B, a_B], 1)},
            categories={"table": torch.zeros(128, 0, dtype=torch.long)},
            labels_B=torch.arange(128) % 2,
        )
        batch = add_unrelated_cells(batch, data, 0, step)
        batch = spoil_modalities(batch, data, 0.25, ("exchange",), 0, step)
        outputs = network(batch)
        optimiser.zero_grad()
        terms = loss_terms(outputs, batch, network.counts_C, network.config, progress=0.5)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    network.eval()
    a_B, b_B = torch.randn(2, 64).clamp(-2, 2)
    related_BM, unrelated_BM = (
        network(
            batch_of(64).replace(
                numbers={"table": torch.stack([a_B, second_B], 1)},
                categories={"table": torch.zeros(64, 0, dtype=torch.long)},
            )
        ).subsets.trust_BM
        for second_B in (a_B, b_B)
    )
    assert (related_BM[:, 1] > 0).float().mean() > 0.9
    assert (unrelated_BM[:, 1] < 0).float().mean() > 0.6
