"""Train, validation and test: stratified by label, groups never cut, the same on every machine for the same ids and seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from distributed.shards.layout import REFUSED_SPLIT, TEST, TRAIN, VAL

IntArray = NDArray[np.int64]
HashArray = NDArray[np.uint64]


def hash_ids(ids: Iterable[str]) -> HashArray:
    """64 stable bits of each id: Python's own hash differs between processes."""
    data = b"".join(
        hashlib.blake2b(i.encode("utf-8", "surrogatepass"), digest_size=8).digest() for i in ids
    )
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def reseed(hashes: HashArray, seed: int) -> HashArray:
    """Another order of the same ids for every seed (the splitmix64 finaliser)."""
    step = np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
    with np.errstate(over="ignore"):
        mixed = hashes + step
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def assign_splits(
    labels: IntArray, units: IntArray, order: HashArray, fractions: tuple[float, float, float]
) -> IntArray:
    """The split of every row. units: 0..U-1, rows that must stay together (groups, or single rows); order: a hash for every unit.

    Each unit counts for the rarest class in it. Class by class, the units in the order of their hashes are laid end to end and cut at the
    fractions, at least one unit to every part where there are enough; then no class that could be is left without a training unit.
    """
    if not len(labels):
        return np.zeros(0, dtype=np.int64)
    counts_C = np.bincount(labels)
    n_units = int(units.max()) + 1
    rarity = np.empty(len(counts_C), dtype=np.int64)
    rarity[np.argsort(counts_C, kind="stable")] = np.arange(len(counts_C))
    primary_U = np.full(n_units, len(counts_C), dtype=np.int64)
    np.minimum.at(primary_U, units, rarity[labels])
    sizes_U = np.bincount(units, minlength=n_units)
    split_U = np.full(n_units, TRAIN, dtype=np.int64)
    ordered = np.lexsort((order, primary_U))
    bounds = np.searchsorted(primary_U[ordered], np.arange(len(counts_C) + 1))
    for begin, end in itertools.pairwise(bounds):
        mine = ordered[begin:end]
        if len(mine):
            split_U[mine] = _cut(sizes_U[mine], fractions)
    _reach_train(split_U, labels, units, order)
    return split_U[units]


def _cut(sizes: IntArray, fractions: tuple[float, float, float]) -> IntArray:
    """Splits of the units of one class, in their order: train, val, test one after the other."""
    wanted = [s for s in (TRAIN, TEST, VAL) if fractions[s] > 0]
    if len(sizes) <= len(wanted):  # the largest trains; two units: train and test; three: one each
        found = np.empty(len(sizes), dtype=np.int64)
        found[np.argsort(-sizes, kind="stable")] = wanted[: len(sizes)]
        return found
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    split = np.searchsorted(np.cumsum(fractions[:2]), middles, side="right").astype(np.int64)
    for s in wanted:
        if not np.any(split == s):
            counts = np.bincount(split, minlength=3)
            donor = int(np.argmax(counts))
            theirs = np.flatnonzero(split == donor)[::-1]
            split[theirs[np.argmin(sizes[theirs])]] = (
                s  # the smallest: a large group would take most of the class along
            )
    return split


def _reach_train(split_U: IntArray, labels: IntArray, units: IntArray, order: HashArray) -> None:
    """A class all of whose units count for rarer classes may have missed training: moves one of its units there."""
    in_train = np.bincount(labels[split_U[units] == TRAIN], minlength=int(labels.max()) + 1)
    for label in np.flatnonzero((in_train == 0) & (np.bincount(labels) > 0)):
        mine = np.unique(units[labels == label])
        split_U[mine[np.argmin(order[mine])]] = TRAIN


def rank_within_class(split: IntArray, labels: IntArray, hashes: HashArray) -> IntArray:
    """Rank of every row within its class and split by the hash of its id; -1 for refused rows."""
    order = np.lexsort((np.arange(len(split)), hashes, labels, split))
    keys = split[order] * (int(labels.max(initial=0)) + 2) + labels[order]
    starts = (
        np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        if len(keys)
        else np.zeros(0, dtype=np.int64)
    )
    within = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    found = np.full(len(split), -1, dtype=np.int64)
    found[order] = within
    found[split == REFUSED_SPLIT] = -1
    return found


def shuffled_positions(split: IntArray, order: HashArray) -> IntArray:
    """Place of every row in its split's parts: shuffled by the seeded hash, for a table sorted by class would train badly."""
    return rank_within_class(split, np.zeros_like(split), order)
