"""Cuts training and validation rows anew, into folds: data.folds of them, one for validation.

Legend: R rows of both splits, C classes, F folds, G groups.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distributed.config import Config
from distributed.runtime.storage import filesystem
from distributed.shards import sampling
from distributed.shards.checksums import open_part
from distributed.shards.index import MAX_THREADS, SplitIndex, read_index
from distributed.shards.layout import GROUP, POOL
from distributed.shards.manifest import Manifest
from distributed.shards.sampling import IntArray, Selection

SEED = 0  # of the cut, which all configurations and seeds share


def stored_rows(split: str, config: Config) -> str:
    """Returns the name of the rows that a split is cut from: POOL where there are folds."""
    return POOL if config.data.folds > 1 and split != "test" else split


def count_stored_rows(manifest: Manifest, stored: str) -> int:
    """Returns how many rows a split or POOL has."""
    splits = ("train", "val") if stored == POOL else (stored,)
    return sum(manifest.rows[split] for split in splits)


@dataclasses.dataclass(frozen=True)
class FoldedRows:
    """The rows in use, and which of them a training has for what.

    rows_R: positions in POOL of all rows in use, whatever the fold.
    """

    rows_R: IntArray
    train: Selection
    val: Selection


def select_fold(shards: str, manifest: Manifest, config: Config) -> FoldedRows:
    """Returns the training and the validation rows of the fold data.fold.

    In use are the training rows that the settings leave, and all labelled validation rows.
    """
    data, index = config.data, read_index(shards, POOL)
    labels_R, ranks_R = index.labels_R.astype(np.int64), index.ranks_R.astype(np.int64)
    of_training = manifest.rows["train"]
    cut = sampling.select_training_rows(
        labels_R[:of_training],
        ranks_R[:of_training],
        _counts(labels_R[:of_training], len(manifest.schema.classes)),
        ratio=data.imbalance_ratio,
        max_rows=data.max_rows,
        seed=config.optim.seed,
    )
    known_R = of_training + np.flatnonzero(labels_R[of_training:] >= 0)
    rows_R = np.concatenate([cut.rows_R, known_R])
    groups_R = read_groups(index)
    fold_R = assign_folds(
        labels_R[rows_R], None if groups_R is None else groups_R[rows_R], data.folds
    )

    def selected(is_in_R: NDArray[np.bool_]) -> Selection:
        chosen_R = rows_R[is_in_R]
        return _select(chosen_R, labels_R[chosen_R], ranks_R[chosen_R], manifest)

    return FoldedRows(rows_R, selected(fold_R != data.fold), selected(fold_R == data.fold))


def _select(
    rows_R: IntArray, labels_R: IntArray, ranks_R: IntArray, manifest: Manifest
) -> Selection:
    """Returns rows with ranks of their own, in the order of their ranks in POOL."""
    counts_C = _counts(labels_R, len(manifest.schema.classes))
    order = np.lexsort((ranks_R, labels_R))
    starts_C = np.concatenate(([0], np.cumsum(counts_C)[:-1]))
    own_R = np.empty_like(ranks_R)
    own_R[order] = np.arange(len(order)) - starts_C[labels_R[order]]
    return Selection(rows_R, labels_R, own_R, counts_C)


def _counts(labels_R: IntArray, classes: int) -> IntArray:
    return np.bincount(labels_R[labels_R >= 0], minlength=classes)


def assign_folds(labels_R: IntArray, groups_R: IntArray | None, folds: int) -> IntArray:
    """Returns the fold of every row: classes are spread evenly, and no group is parted.

    groups_R: the number of every row's group; None: every row is its own group.
    """
    shuffled = sampling.random_generator(SEED, sampling.FOLDS).permutation(len(labels_R))
    fold_R = np.empty(len(labels_R), dtype=np.int64)
    if groups_R is None:
        by_class = shuffled[np.argsort(labels_R[shuffled], kind="stable")]
        # Dealt in turn over all classes, so that the folds are of one size too.
        fold_R[by_class] = np.arange(len(by_class)) % folds
        return fold_R
    counts_C = np.bincount(labels_R).clip(1)
    _, place_R = np.unique(groups_R[shuffled], return_inverse=True)
    order = np.argsort(place_R, kind="stable")
    rows_of_groups = np.split(shuffled[order], np.cumsum(np.bincount(place_R))[:-1])
    shares_FC = np.zeros((folds, len(counts_C)))
    sizes_F = np.zeros(folds)
    # Large groups first, which are hard to place; those of one size in a seeded order.
    for rows in sorted(rows_of_groups, key=lambda rows: (-len(rows), int(rows[0]))):
        share_C = np.bincount(labels_R[rows], minlength=len(counts_C)) / counts_C
        crowded_F = shares_FC @ share_C  # how much a fold has of the group's classes
        fold = int(np.lexsort((sizes_F, crowded_F))[0])
        fold_R[rows] = fold
        shares_FC[fold] += share_C
        sizes_F[fold] += len(rows)
    return fold_R


def read_groups(index: SplitIndex) -> IntArray | None:
    """Returns a number for the group of every row; None where the data has no groups.

    A row without the name of a group is a group of its own.
    """
    system, _ = filesystem(index.shards)

    def read_names(place: int) -> pa.ChunkedArray | None:
        with open_part(system, index.files[place], index.records[place]) as file:
            if GROUP not in file.schema_arrow.names:
                return None
            return file.read([GROUP], use_threads=False)[GROUP].cast(pa.large_string())

    with ThreadPoolExecutor(min(MAX_THREADS, len(index.files))) as pool:
        parts = list(pool.map(read_names, range(len(index.files))))
    chunks = [chunk for part in parts if part is not None for chunk in part.chunks]
    if any(part is None for part in parts):
        return None
    codes = pa.chunked_array(chunks).combine_chunks().dictionary_encode().indices
    numbers: IntArray = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = numbers < 0
    numbers[alone] = len(numbers) + np.flatnonzero(alone)
    return numbers
