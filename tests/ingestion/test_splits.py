"""Splits: stratified, groups whole, every class in train, the same for the same ids and seed."""

from __future__ import annotations

import numpy as np
import pytest

from distributed.ingestion import splits
from distributed.ingestion.leaks import scarce_in_train
from distributed.ingestion.summary import IngestReport
from distributed.shards.layout import REFUSED_SPLIT, TEST, TRAIN, VAL

SHARES = (0.7, 0.1, 0.2)


def hashes(n: int, seed: int = 0) -> np.ndarray:
    return splits.reseed(splits.hash_ids(str(i) for i in range(n)), seed)


def alone(
    labels: np.ndarray, seed: int = 0, shares: tuple[float, float, float] = SHARES
) -> np.ndarray:
    return splits.assign_splits(labels, np.arange(len(labels)), hashes(len(labels), seed), shares)


def test_every_class_has_its_shares() -> None:
    labels = np.repeat([0, 1, 2], [1000, 100, 50])
    split = alone(labels)
    for label, n in enumerate((1000, 100, 50)):
        counts = np.bincount(split[labels == label], minlength=3)
        assert np.abs(counts - n * np.array(SHARES)).max() <= 1


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (4, [2, 1, 1]), (10, [7, 1, 2])],
)
def test_small_classes_reach_train_first_then_test_then_val(n: int, expected: list[int]) -> None:
    labels = np.array([0] * 200 + [1] * n)
    assert np.bincount(alone(labels)[200:], minlength=3).tolist() == expected


def test_no_test_share_means_no_test_rows() -> None:
    split = alone(np.repeat([0, 1], [50, 3]), shares=(0.8, 0.2, 0.0))
    assert set(split) == {TRAIN, VAL}


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_group_of_a_class_is_not_what_fills_an_empty_part(seed: int) -> None:
    sizes = np.array([6, 5, 7, 5, 70])  # patients with the rare disease
    labels = np.array([0] * 400 + [1] * sizes.sum())
    units = np.concatenate([np.arange(400), 400 + np.repeat(np.arange(5), sizes)])
    split = splits.assign_splits(labels, units, hashes(405, seed), SHARES)
    assert np.bincount(split[labels == 1], minlength=3).min() > 0
    assert np.mean(split[labels == 1] == TRAIN) > 0.7


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_every_class_reaches_train(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(6, 2000, p=[0.5, 0.3, 0.1, 0.06, 0.03, 0.01])
    units = np.unique(rng.integers(0, 300, 2000), return_inverse=True)[1]
    split = splits.assign_splits(labels, units, hashes(units.max() + 1, seed), SHARES)
    assert all(len(set(split[units == u])) == 1 for u in range(units.max() + 1))
    assert set(labels[split == TRAIN]) == set(labels)
    assert np.abs(np.bincount(split) / 2000 - SHARES).max() < 0.05


def test_a_class_whose_groups_all_count_for_rarer_classes_still_reaches_train() -> None:
    # Class 1 lies only in groups that hold the rarer classes 2 and 3 as well.
    labels = np.array([0] * 300 + [1, 1, 1, 2] * 3 + [1, 3] * 3)
    units = np.concatenate(
        [np.arange(300), 300 + np.repeat(np.arange(3), 4), 303 + np.repeat(np.arange(3), 2)]
    )
    for seed in range(20):
        split = splits.assign_splits(labels, units, hashes(306, seed), SHARES)
        assert set(labels[split == TRAIN]) == {0, 1, 2, 3}


def test_the_seed_decides_and_nothing_else() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 500)
    assert np.array_equal(alone(labels, 1), alone(labels, 1))
    assert not np.array_equal(alone(labels, 1), alone(labels, 2))
    shuffled = np.random.default_rng(1).permutation(500)
    again = splits.assign_splits(labels[shuffled], np.arange(500), hashes(500, 1)[shuffled], SHARES)
    assert np.array_equal(
        again, alone(labels, 1)[shuffled]
    )  # the order of the rows does not matter


def test_hashes_are_those_of_every_machine() -> None:
    by_b2sum = [
        "40f89e395b66422f",
        "f04dbbe25e2ba039",
        "e4a6a0577479b2b4",
    ]  # printf ID | b2sum -l 64
    assert splits.hash_ids(["a", "ä", ""]).tolist() == [
        int.from_bytes(bytes.fromhex(h), "little") for h in by_b2sum
    ]
    assert splits.hash_ids([]).tolist() == []


def test_ranks_count_within_class_and_split_in_the_order_of_the_hash() -> None:
    split = np.array([0, 0, 0, 1, REFUSED_SPLIT, 0])
    labels = np.array([1, 1, 0, 1, -1, 1])
    order = np.array([9, 2, 5, 1, 0, 4], dtype=np.uint64)
    assert splits.rank_within_class(split, labels, order).tolist() == [2, 0, 0, 0, -1, 1]
    assert splits.shuffled_positions(split, order).tolist() == [3, 0, 2, 0, -1, 1]
    assert (
        splits.assign_splits(np.zeros(0, int), np.zeros(0, int), order[:0], SHARES).tolist() == []
    )
    assert TEST == 2


def test_a_split_without_rows_is_told() -> None:
    report = IngestReport()
    report.add_classes(["a", "b"], np.array([0, 1, 0, 1]), np.array([TRAIN, TRAIN, TEST, TEST]))
    assert report.warnings[0].startswith("no row is in val, without which nothing can be trained")
    report = IngestReport()
    report.add_classes(["a", "b"], np.array([0, 1, 0]), np.array([TRAIN, TRAIN, VAL]))
    assert (report.warnings, report.notes[-2:]) == (
        [],
        ["classes without val rows: b", "no row is in test"],
    )


def test_classes_that_hardly_train_are_told() -> None:
    totals = np.array([[70, 10, 20], [15, 70, 8], [1, 1, 1]])
    told = scarce_in_train(["a", "b", "c"], totals, 0.7)
    assert (
        told == "groups leave much less than 70% to training of b (15 of 93 rows):"
        " another --seed cuts them otherwise"
    )
    assert scarce_in_train(["a"], totals[:1], 0.7) == ""
