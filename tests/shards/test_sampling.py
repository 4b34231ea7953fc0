"""The imbalance cut, the row limit and the samplers, against hand-computed numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from distributed.shards import sampling
from distributed.shards.epoch_plan import EpochPlan
from distributed.shards.sampling import (
    Selection,
    draw_epoch,
    limit_counts,
    long_tail,
    select_training_rows,
    training_counts,
)


def rows_of(counts: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels in mixed order, and ranks within each class."""
    labels_R = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    ranks_R = np.empty_like(labels_R)
    for c, n in enumerate(counts):
        ranks_R[labels_R == c] = np.random.default_rng(seed + c).permutation(n)
    return labels_R, ranks_R


def chosen(counts: list[int], **settings: float) -> Selection:
    labels_R, ranks_R = rows_of(counts)
    return select_training_rows(labels_R, ranks_R, np.array(counts), **settings)


def test_balanced_counts_are_cut_to_an_exponential_tail() -> None:
    assert long_tail(np.array([100] * 5), 100.0).tolist() == [100, 31, 10, 3, 1]


def test_the_cut_orders_classes_by_size_and_keeps_what_is_available() -> None:
    # 40 of the largest class would need 4 of the smallest: the whole tail is scaled so that every
    # class has enough.
    assert long_tail(np.array([20, 400, 100]), 4.0).tolist() == [20, 80, 40]
    assert long_tail(np.array([0, 400, 100]), 2.0).tolist() == [0, 200, 100]


def test_the_cut_has_the_ratio_asked_for_whatever_the_counts() -> None:
    counts_C = np.random.default_rng(0).integers(50, 5000, 12)
    for ratio in (1.0, 5.0, 20.0):
        target_C = long_tail(counts_C, ratio)
        assert (target_C <= counts_C).all()
        assert target_C.max() / target_C.min() == pytest.approx(ratio, rel=0.05)


def test_a_ratio_below_one_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"data\.imbalance_ratio must be 0 \(off\) or at least 1; got 0.5"
    ):
        long_tail(np.array([3, 4]), 0.5)


def test_the_row_limit_is_exact_stratified_and_keeps_every_class() -> None:
    assert limit_counts(np.array([600, 300, 99, 1]), 100).tolist() == [59, 30, 10, 1]
    assert limit_counts(np.array([5, 5]), 100).tolist() == [5, 5]
    assert limit_counts(np.array([5, 5, 5]), 2).sum() == 2
    assert limit_counts(np.array([3, 1, 1]), 2).tolist() == [1, 1, 0], "two rows, three classes"
    assert limit_counts(np.array([0, 9, 1]), 5).tolist() == [0, 4, 1], "an empty class stays so"
    assert limit_counts(np.array([10, 10, 1, 1, 1]), 6).tolist() == [1, 2, 1, 1, 1]


def test_training_counts_are_the_selected_rows() -> None:
    counts = [500, 200, 60, 10]
    selection = chosen(counts, ratio=10.0, max_rows=90, seed=3)
    assert (
        np.bincount(selection.labels_R, minlength=4).tolist()
        == training_counts(tuple(counts), 10.0, 90).tolist()
    )
    assert len(selection) == 90


def test_ranks_are_dense_again_after_a_cut() -> None:
    selection = chosen([300, 100, 40], ratio=20.0, seed=1)
    for c, n in enumerate(selection.counts_C):
        assert sorted(selection.ranks_R[selection.labels_R == c]) == list(range(n))


def test_the_cut_is_a_function_of_ranks_and_seed_not_of_storage() -> None:
    labels_R, ranks_R = rows_of([300, 100, 40])
    moved = np.random.default_rng(9).permutation(len(labels_R))
    counts_C = np.array([300, 100, 40])
    one = select_training_rows(labels_R, ranks_R, counts_C, ratio=20.0, seed=1)
    other = select_training_rows(labels_R[moved], ranks_R[moved], counts_C, ratio=20.0, seed=1)
    assert set(one.rows_R) == set(moved[other.rows_R])
    assert set(one.rows_R) != set(
        select_training_rows(labels_R, ranks_R, counts_C, ratio=20.0, seed=2).rows_R
    )


def test_the_row_limit_takes_the_lowest_ranks() -> None:
    labels_R, ranks_R = rows_of([80, 20])
    selection = select_training_rows(labels_R, ranks_R, np.array([80, 20]), max_rows=50)
    assert (ranks_R[selection.rows_R] < np.array([40, 10])[selection.labels_R]).all()
    assert (selection.ranks_R == ranks_R[selection.rows_R]).all()


def test_unlabelled_rows_are_not_trained_on() -> None:
    labels_R, ranks_R = np.array([0, -1, 1, 0]), np.array([1, 9, 0, 0])
    for ratio in (0.0, 2.0):
        selection = select_training_rows(labels_R, ranks_R, np.array([2, 1]), ratio=ratio)
        assert selection.rows_R.tolist() == [0, 2, 3]
    assert len(sampling.select_all(labels_R, ranks_R, 2)) == 4


def eight_rows() -> Selection:
    labels_R, ranks_R = np.array([0, 1, 0, 2, 0, 0, 1, 0]), np.array([3, 0, 1, 0, 4, 0, 1, 2])
    return sampling.select_all(labels_R, ranks_R, 3)


def test_random_streams_are_those_of_their_seed_and_purpose() -> None:
    purposes = (sampling.ORDER, sampling.DRAW, sampling.WINDOW, sampling.CUT)
    drawn = [sampling.random_generator(5, purpose, 7).random() for purpose in purposes]
    assert drawn == [np.random.default_rng([5, number, 7]).random() for number in range(4)]


def test_the_cut_of_a_seed_stays_the_same() -> None:
    rows = eight_rows()
    selection = select_training_rows(
        rows.labels_R, rows.ranks_R, np.array([5, 2, 1]), ratio=3.0, seed=4
    )
    assert selection.rows_R.tolist() == [0, 2, 3, 6, 7]
    assert selection.ranks_R.tolist() == [1, 0, 0, 0, 2]
    assert selection.counts_C.tolist() == [3, 1, 1]


def test_a_limited_selection_has_the_lowest_ranks() -> None:
    rows = eight_rows()
    limited = sampling.limit_selection(rows, 4)
    assert limited.rows_R.tolist() == [1, 2, 3, 5]
    assert limited.labels_R.tolist() == [1, 0, 2, 0]
    assert limited.ranks_R.tolist() == [0, 1, 0, 0]
    assert limited.counts_C.tolist() == [2, 1, 1]
    assert sampling.limit_selection(rows, 8) is rows


@pytest.mark.parametrize(
    ("sampler", "epochs"),
    [
        ("balanced", ([0, 1, 3, 3, 5, 6, 6, 7], [0, 1, 3, 3, 4, 6, 6, 7])),
        ("sqrt", ([0, 1, 3, 4, 5, 6, 6, 7], [0, 1, 3, 4, 5, 6, 6, 7])),
        (
            "progressive",
            (
                [0, 1, 2, 3, 4, 5, 6, 7],
                [0, 1, 3, 4, 5, 6, 6, 7],
                [1, 1, 2, 3, 3, 4, 6, 7],
                [1, 2, 3, 3, 3, 5, 6, 6],
            ),
        ),
    ],
)
def test_the_draws_of_a_seed_stay_the_same(sampler: str, epochs: tuple[list[int], ...]) -> None:
    """A run that is resumed with a later version goes on with the rows it would have drawn."""
    for epoch, expected in enumerate(epochs):
        draws = draw_epoch(eight_rows(), sampler, seed=5, epoch=epoch, epochs=3)
        assert draws.tolist() == expected


def test_the_orders_of_a_seed_stay_the_same() -> None:
    draws = np.array([0, 0, 3, 5, 6])
    assert sampling.shuffle_draws(draws, seed=5, epoch=1).tolist() == [6, 0, 3, 5, 0]
    plan = EpochPlan(
        selection=eight_rows(), size=2, train=True, sampler="balanced", epochs=3, seed=5
    )
    assert plan.order(1).tolist() == [7, 0, 3, 4, 3, 1, 6, 6]
    row_groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    windows = [(rows.tolist(), ends) for rows, ends in plan.windows(1, 0, row_groups, 4)]
    assert windows == [([1, 4, 0, 6], (2, 4)), ([6, 3, 7, 3], (2, 4))]
    batches = dataclasses.replace(plan, size=1)
    windows_of = [[ends for _, ends in batches.windows(1, 0, row_groups, n)] for n in (0, 4)]
    assert windows_of == [[(1,)] * 8, [(1, 2, 3, 4)] * 2]
    later = [(rows.tolist(), ends) for rows, ends in plan.windows(1, 3, row_groups, 4)]
    assert later == [([7, 3], (2,))]


@pytest.mark.parametrize(
    ("sampler", "shares"), [("balanced", [0.25] * 4), ("sqrt", [0.5477, 0.3162, 0.1, 0.0361])]
)
def test_class_frequencies_of_samplers(sampler: str, shares: list[float]) -> None:
    selection = chosen([2304, 768, 77, 10])
    seen_C = np.zeros(4)
    for epoch in range(20):
        draws = draw_epoch(selection, sampler, seed=0, epoch=epoch, epochs=20)
        assert len(draws) == len(selection)
        seen_C += np.bincount(selection.labels_R[draws], minlength=4)
    np.testing.assert_allclose(seen_C / seen_C.sum(), shares, atol=1e-3)


def test_a_class_without_rows_gets_no_draws() -> None:
    counts_C = np.array([4, 0, 2])
    assert sampling.class_shares(counts_C, "balanced", 0.0).tolist() == [0.5, 0.0, 0.5]
    assert sampling.class_shares(counts_C, "instance", 0.0).tolist() == [4 / 6, 0.0, 2 / 6]


def test_the_instance_sampler_draws_every_row_once_and_an_empty_selection_nothing() -> None:
    once = draw_epoch(eight_rows(), "instance", seed=0, epoch=0, epochs=1)
    assert once.tolist() == list(range(8))
    nothing = sampling.select_all(np.arange(0), np.arange(0), 3)
    assert draw_epoch(nothing, "balanced", seed=0, epoch=0, epochs=1).tolist() == []


def test_the_last_of_two_epochs_is_balanced() -> None:
    both = [
        draw_epoch(eight_rows(), sampler, seed=0, epoch=1, epochs=2).tolist()
        for sampler in ("progressive", "balanced")
    ]
    assert both[0] == both[1]


def test_progressive_goes_from_instance_to_balanced() -> None:
    selection = chosen([900, 90, 10])
    first, middle, last = (
        np.bincount(
            selection.labels_R[draw_epoch(selection, "progressive", seed=0, epoch=e, epochs=11)]
        )
        for e in (0, 5, 10)
    )
    assert first.tolist() == [900, 90, 10]
    np.testing.assert_allclose(middle, [616.7, 211.7, 171.7], atol=1)
    np.testing.assert_allclose(last, [333.3] * 3, atol=1)


def test_rows_of_a_class_are_used_evenly_and_by_lot() -> None:
    selection = chosen([900, 90, 10])
    times_R = np.bincount(
        draw_epoch(selection, "balanced", seed=0, epoch=0, epochs=1), minlength=1000
    )
    for c, low in enumerate((0, 3, 33)):
        assert set(times_R[selection.labels_R == c]) <= {low, low + 1}
    again_R = np.bincount(
        draw_epoch(selection, "balanced", seed=0, epoch=1, epochs=1), minlength=1000
    )
    assert (times_R != again_R).any()
    head = selection.labels_R == 0
    expected_both = times_R[head].mean() * again_R[head].mean()
    assert (times_R[head] * again_R[head]).mean() == pytest.approx(expected_both, abs=0.06)


def test_stream_order_reads_each_row_group_once() -> None:
    row_groups_R = np.repeat(np.arange(20), 50)
    order = sampling.order_by_row_group(
        np.repeat(np.arange(1000), 2), row_groups_R, seed=0, epoch=0
    )
    assert sorted(order) == sorted(np.repeat(np.arange(1000), 2))
    assert np.count_nonzero(np.diff(row_groups_R[order])) == 19
    assert (
        order
        != sampling.order_by_row_group(np.repeat(np.arange(1000), 2), row_groups_R, seed=0, epoch=1)
    ).any()


def test_bounds_are_those_of_array_split() -> None:
    for total in (0, 1, 7, 64):
        for world in (1, 3, 8):
            expected = np.array_split(np.arange(total), world)
            found = [np.arange(*sampling.rank_slice(total, rank, world)) for rank in range(world)]
            assert all((a == b).all() and len(a) == len(b) for a, b in zip(expected, found))


def test_pairs_stay_on_one_worker() -> None:
    for total in (2, 7, 64, 65):
        for world in (1, 2, 3, 8):
            edges = [sampling.rank_slice(total, rank, world, paired=True) for rank in range(world)]
            assert (edges[0][0], edges[-1][1]) == (0, total)
            assert all(a[1] == b[0] for a, b in zip(edges, edges[1:]))
            if total >= 2 * world:
                assert all(low % 2 == 0 and high > low for low, high in edges)
                assert (
                    max(high - low for low, high in edges) - min(high - low for low, high in edges)
                    <= 3
                )
    assert sampling.rank_slice(2, 0, 3, paired=True) == (0, 1), "no worker can have a pair"
