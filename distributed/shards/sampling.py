"""Which training rows are used, how often each is drawn and in what order: the cut, the row limit, the samplers.

Legend: R rows of a split, C classes, U storage units (row groups)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
ORDER, DRAW, WINDOW, CUT = range(
    4
)  # what a random stream is for, so that no two share their numbers


def random_generator(seed: int, purpose: int, *rest: int) -> np.random.Generator:
    """A random stream that depends on its arguments only, never on workers or on what was drawn before."""
    return np.random.default_rng([seed, purpose, *rest])


def long_tail(counts_C: IntArray, ratio: float) -> IntArray:
    """Class sizes n_max * ratio^(-i / (C - 1)), i the class's place by size: the largest exponential tail that the counts allow."""
    if 0 < ratio < 1:
        raise ValueError(f"data.imbalance_ratio must be 0 (off) or at least 1; got {ratio}")
    if not ratio:
        return counts_C.copy()
    used = np.flatnonzero(counts_C)
    order = used[np.argsort(-counts_C[used], kind="stable")]
    shape = float(ratio) ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    largest = (counts_C[order] / shape).min()
    target_C = np.zeros_like(counts_C)
    target_C[order] = np.maximum(np.floor(largest * shape + 1e-9), 1)
    return target_C


def limit_counts(counts_C: IntArray, most: int) -> IntArray:
    """The counts scaled down to `most` rows in all by largest remainders; every class keeps at least one row while `most` allows it."""
    if not most or counts_C.sum() <= most:
        return counts_C.copy()
    exact: NDArray[np.float64] = counts_C * (most / counts_C.sum())
    target_C: IntArray = np.floor(exact).astype(np.int64)
    target_C[np.argsort(target_C - exact, kind="stable")[: most - int(target_C.sum())]] += 1
    for missing in np.flatnonzero((target_C == 0) & (counts_C > 0)):
        if target_C.max() > 1:
            target_C[target_C.argmax()] -= 1
            target_C[missing] = 1
    return target_C


def training_counts(counts: tuple[int, ...], ratio: float, most: int) -> IntArray:
    """Class counts of the rows that training really uses, from those of the whole training split."""
    return limit_counts(long_tail(np.asarray(counts, dtype=np.int64), ratio), most)


@dataclass(frozen=True)
class Selection:
    """The rows in use: their positions in the split's storage order, labels, and ranks 0..n_c-1 within each class."""

    rows_R: IntArray
    labels_R: IntArray
    ranks_R: IntArray
    counts_C: IntArray

    def __len__(self) -> int:
        return len(self.rows_R)


def select_all(labels_R: IntArray, ranks_R: IntArray, classes: int) -> Selection:
    """Every row of a split, labelled or not."""
    counts_C = np.bincount(labels_R[labels_R >= 0], minlength=classes)
    return Selection(
        np.arange(len(labels_R)), labels_R.astype(np.int64), ranks_R.astype(np.int64), counts_C
    )


def select_training_rows(
    labels_R: IntArray,
    ranks_R: IntArray,
    counts_C: IntArray,
    *,
    ratio: float = 0.0,
    most: int = 0,
    seed: int = 0,
) -> Selection:
    """The labelled rows left by the cut (a seeded choice within each class) and by the row limit; a function of ranks, not of storage."""
    target_C = training_counts(tuple(int(n) for n in counts_C), ratio, most)
    labels_R, ranks_R = labels_R.astype(np.int64), ranks_R.astype(np.int64)
    if ratio:
        starts_C = np.concatenate(([0], np.cumsum(counts_C)[:-1]))
        shuffled_ranks = np.concatenate(
            [random_generator(seed, CUT, c).permutation(int(n)) for c, n in enumerate(counts_C)]
        )
        ranks_R = np.where(
            labels_R >= 0,
            shuffled_ranks[np.minimum(starts_C[labels_R] + ranks_R, len(shuffled_ranks) - 1)],
            ranks_R,
        )
    rows_R = np.flatnonzero((labels_R >= 0) & (ranks_R < target_C[labels_R]))
    return Selection(rows_R, labels_R[rows_R], ranks_R[rows_R], target_C)


def limit_selection(selection: Selection, most: int) -> Selection:
    """The first rows of every class, at most so many and at least one of each class."""
    if len(selection) <= most:
        return selection
    target_C = training_counts(tuple(int(n) for n in selection.counts_C), 0.0, most)
    kept = selection.ranks_R < target_C[selection.labels_R]
    return Selection(
        selection.rows_R[kept], selection.labels_R[kept], selection.ranks_R[kept], target_C
    )


def class_shares(counts_C: IntArray, sampler: str, progress: float) -> NDArray[np.float64]:
    """Share of an epoch's draws that each class gets."""
    instance, even = counts_C / counts_C.sum(), (counts_C > 0) / np.count_nonzero(counts_C)
    root = np.sqrt(counts_C) / np.sqrt(counts_C).sum()
    shares: dict[str, NDArray[np.float64]] = {
        "instance": instance,
        "balanced": even,
        "sqrt": root,
        "progressive": (1 - progress) * instance + progress * even,
    }
    return shares[sampler]


def draw_epoch(
    selection: Selection, sampler: str, *, seed: int, epoch: int, epochs: int
) -> IntArray:
    """Indices into the selection, as many as it has rows, in storage order: each class's quota dealt evenly over its rows.

    A row comes up floor(quota / n_c) times or once more, by lot anew each epoch: the same class frequencies as drawing with
    replacement, with less noise, and the tail's rows are all used equally often.
    """
    size = len(selection)
    if sampler == "instance" or not size:
        return np.arange(size)
    progress = min(epoch / max(epochs - 1, 1), 1.0)
    lot = random_generator(seed, DRAW, epoch)
    exact_C = class_shares(selection.counts_C, sampler, progress) * size
    quota_C = np.floor(exact_C).astype(np.int64)
    # Left-over draws go by systematic sampling, so that every class's expected quota is its exact one.
    edges_C = np.floor(np.cumsum(exact_C - quota_C) + lot.random())
    quota_C += np.diff(edges_C, prepend=0.0).astype(np.int64)
    quota_C[quota_C.argmax()] += size - int(quota_C.sum())
    by_class = np.lexsort((lot.random(size), selection.labels_R))
    starts_C = np.concatenate(([0], np.cumsum(selection.counts_C)[:-1]))
    place_R = np.empty(size, dtype=np.int64)
    place_R[by_class] = np.arange(size) - starts_C[selection.labels_R[by_class]]
    whole_C, rest_C = np.divmod(quota_C, np.maximum(selection.counts_C, 1))
    return np.repeat(
        np.arange(size), whole_C[selection.labels_R] + (place_R < rest_C[selection.labels_R])
    )


def shuffle_draws(draws: IntArray, *, seed: int, epoch: int) -> IntArray:
    """The epoch's order in the memory regime: a seeded permutation of all draws."""
    return draws[random_generator(seed, ORDER, epoch).permutation(len(draws))]


def order_by_unit(draws: IntArray, units: IntArray, *, seed: int, epoch: int) -> IntArray:
    """The epoch's order in a stream before its windows are shuffled: storage units (row groups) in seeded order, each read once."""
    places = random_generator(seed, ORDER, epoch).permutation(int(units.max(initial=-1)) + 1)
    return draws[np.argsort(places[units[draws]], kind="stable")]


def rank_slice(total: int, rank: int, world: int, paired: bool = False) -> tuple[int, int]:
    """This worker's slice of a global batch of `total` rows: as numpy.array_split; `paired` keeps rows 2i and 2i + 1 together if it can."""
    if paired and total >= 2 * world:
        low, high = rank_slice(total // 2, rank, world)
        return 2 * low, total if rank == world - 1 else 2 * high
    small, larger = divmod(total, world)
    start = rank * small + min(rank, larger)
    return start, start + small + (rank < larger)
