"""The rows of a split are collected without a second copy of them."""

from __future__ import annotations

import torch

from distributed.training.scoring import CollectedRows


def batches() -> list[list[torch.Tensor]]:
    return [[torch.full((rows, 3), float(rows)), torch.arange(rows)] for rows in (4, 4, 2)]


def collected(expected: int) -> tuple[list[torch.Tensor], set[int]]:
    """The columns, and where the first of them was in memory after each batch."""
    rows, places = CollectedRows(expected), set()
    for batch in batches():
        rows.add(batch)
        places.add(rows.columns[0].data_ptr())
    return list(rows.taken()), places


def test_all_rows_are_there_in_order_whatever_number_was_expected() -> None:
    joined = [torch.cat(column) for column in zip(*batches(), strict=True)]
    for expected in (0, 3, 10, 99):
        columns, _ = collected(expected)
        assert all(map(torch.equal, columns, joined))
        assert [column.dtype for column in columns] == [torch.float32, torch.int64]


def test_the_expected_number_of_rows_is_never_copied() -> None:
    assert len(collected(10)[1]) == 1
    assert len(collected(4)[1]) > 1


def test_columns_are_given_up_one_by_one() -> None:
    rows = CollectedRows(10)
    rows.add(batches()[0])
    next(rows.taken())
    assert len(rows.columns) == 1
