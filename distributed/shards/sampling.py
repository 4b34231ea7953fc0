"""Decides which training rows are used, how often each is drawn in an epoch, and in what order.

Legend: R rows of a split, C classes, U row groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

# What a random stream is for, so that no two purposes share their numbers.
ORDER, DRAW, WINDOW, CUT, VIEW, FOLDS = range(6)


def random_generator(seed: int, purpose: int, *rest: int) -> np.random.Generator:
    """Returns a random stream that depends on its arguments only.

    It never depends on the number of workers or on what was drawn before.
    """
    return np.random.default_rng([seed, purpose, *rest])


def long_tail(counts_C: IntArray, ratio: float) -> IntArray:
    """Returns the class sizes of the largest exponential tail that the counts allow.

    The sizes are n_max * ratio^(-i / (C - 1)), i being the class's place by size; a ratio of 0
    leaves the counts as they are.
    """
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


def limit_counts(counts_C: IntArray, max_rows: int) -> IntArray:
    """Returns the counts scaled down to `max_rows` in all, by largest remainders.

    Every class keeps at least one row while `max_rows` allows it. 0: no limit.
    """
    if not max_rows or counts_C.sum() <= max_rows:
        return counts_C.copy()
    exact: NDArray[np.float64] = counts_C * (max_rows / counts_C.sum())
    target_C: IntArray = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(target_C - exact, kind="stable")
    target_C[by_remainder[: max_rows - int(target_C.sum())]] += 1
    for missing in np.flatnonzero((target_C == 0) & (counts_C > 0)):
        if target_C.max() > 1:
            target_C[target_C.argmax()] -= 1
            target_C[missing] = 1
    return target_C


def training_counts(counts: Sequence[int], ratio: float, max_rows: int) -> IntArray:
    """Returns the class counts of the rows that training really uses.

    counts: of the whole training split. ratio, max_rows: data.imbalance_ratio and data.max_rows.
    """
    return limit_counts(long_tail(np.asarray(counts, dtype=np.int64), ratio), max_rows)


@dataclass(frozen=True)
class Selection:
    """The rows in use.

    rows_R: their positions in the split's storage order.
    ranks_R: their ranks 0 .. n_c - 1 within their class.
    """

    rows_R: IntArray
    labels_R: IntArray
    ranks_R: IntArray
    counts_C: IntArray

    def __len__(self) -> int:
        return len(self.rows_R)


def select_all(labels_R: IntArray, ranks_R: IntArray, classes: int) -> Selection:
    """Returns every row of a split, with a label or without."""
    return Selection(
        rows_R=np.arange(len(labels_R)),
        labels_R=labels_R,
        ranks_R=ranks_R,
        counts_C=np.bincount(labels_R[labels_R >= 0], minlength=classes),
    )


def select_training_rows(
    labels_R: IntArray,
    ranks_R: IntArray,
    counts_C: IntArray,
    *,
    ratio: float = 0.0,
    max_rows: int = 0,
    seed: int = 0,
) -> Selection:
    """Returns the labelled rows that are left by the long-tail cut and by the row limit.

    The cut is a seeded choice within each class. The result depends on labels and ranks only,
    not on the order in which the rows are stored.
    """
    target_C = training_counts(counts_C.tolist(), ratio, max_rows)
    if ratio:
        starts_C = np.concatenate(([0], np.cumsum(counts_C)[:-1]))
        shuffled_ranks = np.concatenate(
            [random_generator(seed, CUT, c).permutation(int(n)) for c, n in enumerate(counts_C)]
        )
        places_R = np.minimum(starts_C[labels_R] + ranks_R, len(shuffled_ranks) - 1)
        ranks_R = np.where(labels_R >= 0, shuffled_ranks[places_R], ranks_R)
    rows_R = np.flatnonzero((labels_R >= 0) & (ranks_R < target_C[labels_R]))
    return Selection(rows_R, labels_R[rows_R], ranks_R[rows_R], target_C)


def limit_selection(selection: Selection, max_rows: int) -> Selection:
    """Returns the first rows of every class: at most `max_rows` in all, at least one of a class."""
    if len(selection) <= max_rows:
        return selection
    target_C = training_counts(selection.counts_C.tolist(), 0.0, max_rows)
    kept_R = selection.ranks_R < target_C[selection.labels_R]
    return Selection(
        selection.rows_R[kept_R], selection.labels_R[kept_R], selection.ranks_R[kept_R], target_C
    )


def class_shares(counts_C: IntArray, sampler: str, progress: float) -> NDArray[np.float64]:
    """Returns the share of an epoch's draws that each class gets.

    progress: of the training so far, 0 to 1; the progressive sampler depends on it.
    """
    instance = counts_C / counts_C.sum()
    balanced = (counts_C > 0) / np.count_nonzero(counts_C)
    shares: dict[str, NDArray[np.float64]] = {
        "instance": instance,
        "balanced": balanced,
        "sqrt": np.sqrt(counts_C) / np.sqrt(counts_C).sum(),
        "progressive": (1 - progress) * instance + progress * balanced,
    }
    return shares[sampler]


def draw_epoch(
    selection: Selection, sampler: str, *, seed: int, epoch: int, epochs: int
) -> IntArray:
    """Draws as many rows as the selection has, as indices into it, in storage order.

    Each class's quota is divided evenly among its rows: a row is drawn floor(quota / n_c) times
    or once more, and which rows get the extra draw is random in every epoch. The class
    frequencies are those of drawing with replacement, with less noise, and the rows of the tail
    are all used equally often.
    """
    size = len(selection)
    if sampler == "instance" or not size:
        return np.arange(size)
    progress = min(epoch / max(epochs - 1, 1), 1.0)
    rng = random_generator(seed, DRAW, epoch)
    exact_C = class_shares(selection.counts_C, sampler, progress) * size
    quota_C = np.floor(exact_C).astype(np.int64)
    # The rest goes by systematic sampling, so that every class's expected quota is its exact one.
    edges_C = np.floor(np.cumsum(exact_C - quota_C) + rng.random())
    quota_C += np.diff(edges_C, prepend=0.0).astype(np.int64)
    quota_C[quota_C.argmax()] += size - int(quota_C.sum())
    by_class = np.lexsort((rng.random(size), selection.labels_R))
    starts_C = np.concatenate(([0], np.cumsum(selection.counts_C)[:-1]))
    place_R = np.empty(size, dtype=np.int64)
    place_R[by_class] = np.arange(size) - starts_C[selection.labels_R[by_class]]
    whole_C, rest_C = np.divmod(quota_C, np.maximum(selection.counts_C, 1))
    times_R = whole_C[selection.labels_R] + (place_R < rest_C[selection.labels_R])
    return np.repeat(np.arange(size), times_R)


def shuffle_draws(draws: IntArray, *, seed: int, epoch: int) -> IntArray:
    """Returns the epoch's draws in a seeded order: that of a split in memory."""
    return draws[random_generator(seed, ORDER, epoch).permutation(len(draws))]


def order_by_row_group(draws: IntArray, row_groups: IntArray, *, seed: int, epoch: int) -> IntArray:
    """Returns the draws by row group, these in a seeded order, so that each is read once.

    It is a stream's order of the epoch before its windows are shuffled.
    """
    count = int(row_groups.max(initial=-1)) + 1
    positions_U = random_generator(seed, ORDER, epoch).permutation(count)
    return draws[np.argsort(positions_U[row_groups[draws]], kind="stable")]


def rank_slice(total: int, rank: int, world: int, paired: bool = False) -> tuple[int, int]:
    """Returns (low, high), the rows of a global batch of `total` rows that this worker gets.

    They are those of numpy.array_split; `paired` keeps rows 2i and 2i + 1 together where each
    worker can have a pair.
    """
    if paired and total >= 2 * world:
        low, high = rank_slice(total // 2, rank, world)
        return 2 * low, total if rank == world - 1 else 2 * high
    size, larger_slices = divmod(total, world)
    start = rank * size + min(rank, larger_slices)
    return start, start + size + (rank < larger_slices)
