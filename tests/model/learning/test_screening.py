"""Which columns of a wide table tell classes apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.learning.screening import telling_columns

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
