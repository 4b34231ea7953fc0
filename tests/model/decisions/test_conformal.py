"""Facts about prediction sets: ranks by hand, shared thresholds, and coverage in every class."""

from __future__ import annotations

import pytest
import torch

from model.decisions.conformal import (
    class_thresholds,
    fit_pools,
    pool_classes,
    prediction_sets,
    rows_for_rank,
    threshold_between,
    threshold_rank,
)


@pytest.mark.parametrize(
    ("coverage", "one", "two"), [(0.9, 9, 19), (0.8, 4, 9), (0.5, 1, 3), (0.95, 19, 39)]
)
def test_the_fewest_rows_of_a_rank(coverage: float, one: int, two: int) -> None:
    for rank, rows in ((1, one), (2, two)):
        assert rows_for_rank(rank, coverage) == rows
        assert threshold_rank(rows, coverage) == rank
        assert threshold_rank(rows - 1, coverage) == rank - 1


def test_a_threshold_is_the_low_quantile_by_hand() -> None:
    true = torch.arange(1, 20) / 20  # 19 rows: the second smallest, for 2 / 20 = 1 - 0.9
    probabilities = torch.stack([true, 1 - true], 1)
    (pool, lonely) = fit_pools(probabilities, torch.zeros(19, dtype=torch.long), [50, 3], 0.9)
    assert pool.classes == (0,)
    assert pool.threshold == pytest.approx(2 / 20)
    assert (lonely.classes, lonely.lenders, lonely.rows) == ((1,), (0,), 19)


def test_between_two_rows_a_threshold_leaves_out_what_is_asked_for() -> None:
    true = torch.tensor([0.0, 0.01, 0.04] + [0.5] * 25, dtype=torch.float64)  # 28 rows
    # 2 / 29 lie below the second and 3 / 29 below the third; 1 - 0.9 is 0.9 of the way.
    assert threshold_between(true, 0.9) == pytest.approx(0.01 * 4**0.9)
    assert threshold_between(true[1:20], 0.9) == 0.04, "19 rows: the second, and nothing between"
    assert threshold_between(torch.zeros(28, dtype=torch.float64), 0.9) == 0
    assert 0 <= threshold_between(true[:9], 0.9) < 0.01
    assert threshold_between(torch.ones(1, dtype=torch.float64), 0.5) == 1


def test_a_pool_with_a_class_of_hardly_any_rows_stays_at_the_lower_row() -> None:
    for rows, between in (([30, 12, 11, 5, 19], True), ([30, 12, 12, 4, 19], False)):
        labels = torch.repeat_interleave(torch.arange(5), torch.tensor(rows))
        true = torch.arange(len(labels)) / 100
        pools = fit_pools(torch.stack([true] * 5, 1), labels, [500, 48, 46, 44, 5], 0.9)
        (pool,) = (pool for pool in pools if pool.classes == (1, 2, 3))
        assert pool.rows == 28
        assert (pool.threshold > 0.31 + 1e-6) is between, "the second of its rows is 0.31"


def test_classes_with_few_rows_share_with_their_neighbours_in_training_rows() -> None:
    training = [500, 300, 80, 60, 15, 10]  # two many-shot, two medium-shot, two few-shot classes
    shared = pool_classes([50, 30, 12, 8, 5, 6], training, 0.9)
    assert shared == [((0,), ()), ((1,), ()), ((2, 3), ()), ((4, 5), ())]
    # Few-shot classes have 9 rows for themselves, or join the pool of the medium-shot ones.
    assert pool_classes([50, 30, 12, 8, 4, 4], training, 0.9)[2:] == [((2, 3, 4, 5), ())]
    # A pool is full with 19 rows, and what is left of a group joins the last one.
    alike = [50, 48, 46, 44, 42]
    assert pool_classes([10, 10, 10, 10, 3], [500, 400, *alike[2:], 5, 5], 0.9)[0] == ((0, 1), ())
    lent = pool_classes([50, 30, 25, 25, 25, 2], training, 0.9)
    assert lent[-1] == ((5,), (4,)), "the nearest class lends its rows and keeps its own threshold"
    assert ((4,), ()) in lent


def test_no_set_is_empty() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    sets = prediction_sets(probabilities, (0.9, 0.25, 0.9))
    assert sets.tolist() == [[True, True, False], [False, False, True]]


def test_coverage_holds_in_every_class_and_pool_of_exchangeable_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [60, 28, 19, 5, 7]
    training = [600, 300, 190, 15, 12]
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))
    pooled = torch.tensor([0, 1, 2, 3, 3])  # classes 3 and 4 share a threshold
    hits, rows = torch.zeros(4), torch.zeros(4)
    for _ in range(400):
        logits = torch.randn(2 * len(labels), 5, generator=generator)
        both = labels.repeat(2)
        # Rare classes are recognised less well, as by a network trained on few rows.
        logits[torch.arange(len(both)), both] += torch.tensor([3.0, 2.0, 1.5, 1.0, 0.5])[both]
        p = logits.softmax(1)
        n = len(labels)
        pools = fit_pools(p[:n], labels, training, 0.9)
        assert {pool.classes for pool in pools} == {(0,), (1,), (2,), (3, 4)}
        limits = torch.tensor(class_thresholds(pools))
        inside = (p[n:].double() >= limits).gather(1, labels[:, None])[:, 0]
        hits.index_add_(0, pooled[labels], inside.float())
        rows.index_add_(0, pooled[labels], torch.ones(n))
    assert bool((hits / rows > 0.89).all()), hits / rows
    assert bool((hits / rows < 0.92).all()), hits / rows


def test_too_few_rows_in_all_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"coverage 0\.9 needs 9 labelled .* there are 8"):
        fit_pools(torch.full((8, 2), 0.5), torch.zeros(8, dtype=torch.long), [8, 8], 0.9)
