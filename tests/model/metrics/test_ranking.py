"""The quick counts of a class are those of the weighted ones, to the bit."""

from __future__ import annotations

import pytest
import torch

from model.metrics.scoring import ScoredRows


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (60, 3), (500, 40), (2000, 7)])
@pytest.mark.parametrize("digits", [1, 3, 9])
def test_each_row_once_gives_the_same_bits_as_weights_do(
    rows: int, classes: int, digits: int
) -> None:
    draws = torch.Generator().manual_seed(rows + digits)
    scores_NC = torch.rand(rows, classes, generator=draws).round(decimals=digits)  # many ties
    labels_N = torch.randint(max(1, classes - 1), (rows,), generator=draws)  # one class is absent
    once = ScoredRows(
        scores_NC,
        labels_N,
        scores_NC.argmax(1),
        torch.ones(1, rows, dtype=torch.long),
        torch.zeros(classes, dtype=torch.long),
    )
    weighted = torch.stack([once._rank_class(c) for c in range(classes)], 2)
    assert torch.equal(once.ranking_2RC.nan_to_num(-1), weighted.nan_to_num(-1))
    assert weighted[0, 0, classes - 1].isnan()
