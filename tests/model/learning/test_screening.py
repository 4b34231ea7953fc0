"""Which columns of a wide table tell classes apart."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from model.learning import screening
from model.learning.screening import _ranks, telling_columns

ROWS, COLUMNS = 200, 120


def noise(rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers and categories that say nothing of the labels of three classes."""
    generator = torch.Generator().manual_seed(1)
    numbers_RN = torch.randn(rows, COLUMNS, generator=generator)
    ids_RK = torch.randint(0, 4, (rows, COLUMNS), generator=generator)
    labels_R = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), rows, True, generator=generator)
    return numbers_RN, ids_RK, labels_R


def test_the_columns_that_differ_between_classes_are_found_whatever_their_kind() -> None:
    numbers_RN, ids_RK, labels_R = noise()
    is_rare_R = labels_R > 0
    numbers_RN[:, 3] += 1.5 * is_rare_R  # a shift
    numbers_RN[:, 5] *= torch.where(is_rare_R, 4, 1)  # only the spread
    numbers_RN[is_rare_R, 7] = torch.nan  # only that the value is missing
    ids_RK[is_rare_R, 2] = 3
    ids_RK[is_rare_R, 4] = -1
    found_F = telling_columns(numbers_RN, ids_RK, labels_R, 0.2)
    telling = {3, 5, 7, COLUMNS + 2, COLUMNS + 4}
    found = set(found_F.nonzero()[:, 0].tolist())
    assert telling <= found
    assert len(found - telling) <= 4


@pytest.mark.parametrize("kind", ["rare category", "rarely missing"])
def test_columns_with_rare_values_do_not_hide_the_others(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels_R = torch.multinomial(torch.tensor([0.9, 0.07, 0.03]), 300, True, generator=generator)
    numbers_RN = torch.randn(300, COLUMNS, generator=generator)
    numbers_RN[:, :10] += 1.2 * (labels_R > 0)[:, None]
    is_rare_RN = torch.rand(300, COLUMNS, generator=generator) < 0.01
    ids_RK = is_rare_RN.long() if kind == "rare category" else torch.zeros(300, 0).long()
    if kind == "rarely missing":
        more_RN = torch.randn(300, COLUMNS, generator=generator).masked_fill(is_rare_RN, torch.nan)
        numbers_RN = torch.cat([numbers_RN, more_RN], 1)
    found_F = telling_columns(numbers_RN, ids_RK, labels_R, 0.2)
    assert found_F[:10].sum() >= 8
    assert found_F[10:].sum() <= 6


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.6])
def test_ranks_are_those_of_the_values_that_are_there(missing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values_RN = torch.randint(0, 9, (80, 3), generator=generator).float()
    values_RN[torch.rand(80, 3, generator=generator) < missing] = torch.nan
    for values_R, ranks_R in zip(values_RN.T, _ranks(values_RN).T, strict=True):
        present_R = ~values_R.isnan()
        expected = stats.zscore(stats.rankdata(values_R[present_R].numpy()))
        assert ranks_R[present_R].numpy() == pytest.approx(expected, abs=1e-5)
        assert not ranks_R[~present_R].any()


def test_a_column_that_is_mostly_missing_is_found() -> None:
    numbers_RN, ids_RK, labels_R = noise(400)
    numbers_RN[torch.rand(400, COLUMNS, generator=torch.Generator().manual_seed(2)) < 0.6] = (
        torch.nan
    )
    numbers_RN[:, 8] += 3.0 * labels_R
    assert telling_columns(numbers_RN, ids_RK, labels_R, 0.2)[8]


def test_parts_of_many_columns_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers_RN, ids_RK, labels_R = noise()
    numbers_RN[:, :9] += labels_R[:, None]
    ids_RK[:, 2] = labels_R
    whole_F = telling_columns(numbers_RN, ids_RK, labels_R, 0.2)
    monkeypatch.setattr(screening, "CELLS_AT_ONCE", 7 * ROWS)
    assert whole_F.equal(telling_columns(numbers_RN, ids_RK, labels_R, 0.2))


def test_one_class_tells_nothing() -> None:
    numbers_RN, ids_RK, labels_R = noise()
    assert not telling_columns(numbers_RN, ids_RK, 0 * labels_R, 0.2).any()


@pytest.mark.parametrize("seed", range(5))
def test_columns_that_say_nothing_are_left_out(seed: int) -> None:
    numbers_RN, ids_RK, labels_R = noise()
    order_R = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    assert telling_columns(numbers_RN, ids_RK, labels_R[order_R], 0.2).sum() <= 4


def test_columns_without_values_or_with_one_value_are_left_out() -> None:
    numbers_RN, ids_RK, labels_R = noise()
    labels_R = labels_R.sort().values  # as the rows of a sorted table have them
    numbers_RN[:, 0] = torch.nan
    numbers_RN[:, 1] = 7.0
    numbers_RN[:, 2] = labels_R.float()
    ids_RK[:, 0] = -1
    ids_RK[:, 1] = 2
    found_F = telling_columns(numbers_RN, ids_RK, labels_R, 0.2)
    assert found_F[2]
    assert not found_F[[0, 1, COLUMNS, COLUMNS + 1]].any()


def test_a_table_of_one_kind_of_column_is_enough() -> None:
    numbers_RN, ids_RK, labels_R = noise()
    ids_RK[:, 9] = labels_R
    numbers_RN[:, 9] = labels_R.float()
    assert telling_columns(numbers_RN[:, :0], ids_RK, labels_R, 0.2)[9]
    assert telling_columns(numbers_RN, ids_RK[:, :0], labels_R, 0.2)[9]
