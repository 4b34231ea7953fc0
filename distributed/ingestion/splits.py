"""Divides rows into training, validation and test.

The splits are stratified by label, groups are never divided, and the same ids and seed give the
same splits on every machine.

Legend: R rows, U units (sets of rows that must stay together), C classes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from distributed.shards.layout import REFUSED_SPLIT, SPLITS, TEST, TRAIN, VAL
from distributed.shards.sampling import IntArray

HashArray = NDArray[np.uint64]


def hash_ids(ids: Iterable[str]) -> HashArray:
    """Returns 64 stable bits of each id. Python's own hash differs between processes."""
    data = b"".join(
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for name in ids
    )
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def reseed(hashes: HashArray, seed: int) -> HashArray:
    """Returns other hashes for every seed, by the finaliser of splitmix64."""
    step = np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    with np.errstate(over="ignore"):
        mixed = hashes + step
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def assign_splits(
    labels_R: IntArray,
    units_R: IntArray,
    order_U: HashArray,
    fractions: tuple[float, float, float],
) -> IntArray:
    """Returns the split of every row.

    units_R: 0 .. U - 1, groups or single rows. order_U: a hash for every unit.

    Each unit counts for the rarest class in it. Class by class, the units in the order of their
    hashes are laid end to end and cut at the fractions, at least one unit for every part where
    there are enough. Then no class that could have a training unit is left without one.
    """
    if not len(labels_R):
        return np.zeros(0, dtype=np.int64)
    counts_C = np.bincount(labels_R)
    n_units = int(units_R.max()) + 1
    rarity_C = np.empty(len(counts_C), dtype=np.int64)
    rarity_C[np.argsort(counts_C, kind="stable")] = np.arange(len(counts_C))
    primary_U = np.full(n_units, len(counts_C), dtype=np.int64)
    np.minimum.at(primary_U, units_R, rarity_C[labels_R])
    sizes_U = np.bincount(units_R, minlength=n_units)
    split_U = np.full(n_units, TRAIN, dtype=np.int64)
    ordered = np.lexsort((order_U, primary_U))
    bounds = np.searchsorted(primary_U[ordered], np.arange(len(counts_C) + 1))
    for begin, end in itertools.pairwise(bounds):
        of_class = ordered[begin:end]
        if len(of_class):
            split_U[of_class] = _cut(sizes_U[of_class], fractions)
    _reach_train(split_U, labels_R, units_R, order_U)
    return split_U[units_R]


def _cut(sizes_U: IntArray, fractions: tuple[float, float, float]) -> IntArray:
    """Returns the splits of the units of one class, in their order: train, val, then test.

    Of very few units the largest is for training, the next for test, and the third for
    validation.
    """
    wanted = [split for split in (TRAIN, TEST, VAL) if fractions[split] > 0]
    if len(sizes_U) <= len(wanted):
        few_U = np.empty(len(sizes_U), dtype=np.int64)
        few_U[np.argsort(-sizes_U, kind="stable")] = wanted[: len(sizes_U)]
        return few_U
    middles_U = (np.cumsum(sizes_U) - sizes_U / 2) / sizes_U.sum()
    cuts = np.cumsum(fractions[:2])
    split_U: IntArray = np.searchsorted(cuts, middles_U, side="right").astype(np.int64)
    for split in wanted:
        if np.any(split_U == split):
            continue
        donor = int(np.argmax(np.bincount(split_U, minlength=len(SPLITS))))
        units = np.flatnonzero(split_U == donor)[::-1]
        # The smallest unit: a large group would take most of the class with it.
        split_U[units[np.argmin(sizes_U[units])]] = split
    return split_U


def _reach_train(
    split_U: IntArray, labels_R: IntArray, units_R: IntArray, order_U: HashArray
) -> None:
    """Moves one unit of every class without training rows into training.

    Such a class has only units that count for rarer classes.
    """
    in_train_C = np.bincount(labels_R[split_U[units_R] == TRAIN], minlength=int(labels_R.max()) + 1)
    for label in np.flatnonzero((in_train_C == 0) & (np.bincount(labels_R) > 0)):
        units = np.unique(units_R[labels_R == label])
        split_U[units[np.argmin(order_U[units])]] = TRAIN


def rank_within_class(split_R: IntArray, labels_R: IntArray, hashes_R: HashArray) -> IntArray:
    """Returns the rank of every row in its class and split, by its hash; -1 for refused rows."""
    rows = len(split_R)
    order = np.lexsort((np.arange(rows), hashes_R, labels_R, split_R))
    keys = split_R[order] * (int(labels_R.max(initial=0)) + 2) + labels_R[order]
    is_first = np.ones(rows, dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, rows))
    rank_R = np.full(rows, -1, dtype=np.int64)
    rank_R[order] = np.arange(rows) - np.repeat(starts, sizes)
    rank_R[split_R == REFUSED_SPLIT] = -1
    return rank_R


def shuffled_positions(split_R: IntArray, order_R: HashArray) -> IntArray:
    """Returns the position of every row in its split, shuffled by the seeded hashes.

    The rows of a table that is sorted by class would train badly in their own order.
    """
    return rank_within_class(split_R, np.zeros_like(split_R), order_R)
