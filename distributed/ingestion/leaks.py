"""Signs that a data set leaks its answer: columns that give the label away, groups or images on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw.cells import MISSING_WORDS
from distributed.shards.layout import REFUSED_SPLIT, TRAIN
from model.schema import join_names

ENOUGH = 20  # rows below which nothing is said
DETERMINED = 0.98
ONE_WAY = 0.25  # share of the rows whose value occurs with a single label


def label_leak(name: str, pairs: pa.Table, n_classes: int) -> str:
    """A warning if the column's values give the label away (pairs: value, label, n over training rows), else ""."""
    values = (
        pairs["value"]
        .combine_chunks()
        .dictionary_encode(null_encoding="encode")
        .indices.to_numpy(zero_copy_only=False)
    )
    labels = pairs["label"].to_numpy()
    n = pairs["n"].to_numpy()
    total_C = np.bincount(labels, weights=n, minlength=n_classes)
    if n.sum() < ENOUGH or np.count_nonzero(total_C) < 2:
        return ""
    right = n * _left_out_is_right(values, n)
    some = total_C >= 2
    recall = (
        float(
            np.mean(np.bincount(labels, weights=right, minlength=n_classes)[some] / total_C[some])
        )
        if some.any()
        else 0.0
    )
    if recall >= DETERMINED:
        return f"{name} determines the label (its value alone gives {recall:.0%} of each class): --drop it unless it is known beforehand"
    share = _one_way(values, labels, n, total_C)
    if share >= ONE_WAY:
        return f"{name}: {share:.0%} of training rows have a value that occurs with one label only (--drop it if it follows from the label)"
    return ""


def _left_out_is_right(values: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Per (value, label): whether a row's label is the commonest among the *other* rows of its value; a value seen once tells nothing."""
    order = np.lexsort((-n, values))
    first = (
        np.r_[True, values[order][1:] != values[order][:-1]]
        if len(order)
        else np.zeros(0, dtype=bool)
    )
    starts = np.flatnonzero(first)
    best = n[order][starts]
    second = np.zeros_like(best)
    has_second = np.diff(np.r_[starts, len(order)]) > 1
    second[has_second] = n[order][starts[has_second] + 1]
    group = np.cumsum(first) - 1
    rival = np.empty(len(n))
    rival[order] = np.where(first, second[group], best[group])
    return n - 1 > rival


def _one_way(values: np.ndarray, labels: np.ndarray, n: np.ndarray, total_C: np.ndarray) -> float:
    """Share of rows whose value occurs with one label, and often enough that chance does not explain it."""
    single = np.bincount(values) == 1  # one (value, label) pair
    share = total_C / total_C.sum()
    unlikely = n * np.log(np.maximum(share[labels], 1e-12)) < np.log(1e-6 / max(1, len(single)))
    sure = single[values] & (n >= ENOUGH) & unlikely & (share[labels] < 0.95)
    return float(n[sure].sum() / n.sum())


def missing_words(what: str, cells: pa.ChunkedArray) -> list[str]:
    """Warnings about words that are names in a column of labels, groups or ids (what), and missing values in features."""
    words = pc.value_counts(cells.filter(pc.is_in(cells, value_set=MISSING_WORDS))).to_pylist()
    return [
        f"{what}: {w['values']!r} is taken for a name (rows: {w['counts']}); if it means missing, leave those cells empty"
        for w in words
    ]


def crossing_groups(groups: np.ndarray, split: np.ndarray) -> str:
    """groups: a number for every row."""
    kept = split != REFUSED_SPLIT
    pairs = np.unique(np.stack([groups[kept], split[kept]]), axis=1)
    _, times = np.unique(pairs[0], return_counts=True)
    if not np.any(times > 1):
        return ""
    crossing = np.unique(pairs[0])[times > 1]
    rows = int(np.isin(groups[kept], crossing).sum())
    return f"{len(crossing)} groups ({rows} rows) cross the given splits: validation and test see what training saw; --split makes clean ones"


def scarce_in_train(classes: Sequence[str], totals_CS: np.ndarray, share: float) -> str:
    """A warning about classes of which far fewer rows train than were asked for: their groups are few and one is large."""
    rows_C = totals_CS.sum(1)
    few = [c for c in np.flatnonzero((rows_C >= 5) & (totals_CS[:, TRAIN] < 0.5 * share * rows_C))]
    told = join_names([f"{classes[c]} ({totals_CS[c, TRAIN]} of {rows_C[c]} rows)" for c in few])
    return (
        f"groups leave much less than {share:.0%} to training of {told}: another --seed cuts them otherwise"
        if few
        else ""
    )


def identical_images(
    name: str, digests: pa.ChunkedArray, split: np.ndarray, labels: np.ndarray
) -> list[str]:
    """Warnings about one photograph in several splits, or with several labels."""
    there = pc.is_valid(digests).to_numpy(zero_copy_only=False) & (split != REFUSED_SPLIT)
    hashes = pc.fill_null(digests, 0).to_numpy()[there]
    split, labels = split[there], labels[there]
    _, codes, times = np.unique(hashes, return_inverse=True, return_counts=True)
    if not np.any(times > 1):
        return []
    found = []
    for values, what in ((split, "splits"), (labels, "labels")):
        low = np.full(len(times), np.iinfo(np.int64).max)
        high = np.full(len(times), -1)
        np.minimum.at(low, codes, values)
        np.maximum.at(high, codes, values)
        crossing = (low != high) & (times > 1)
        if not crossing.any():
            continue
        rows = int(crossing[codes].sum())
        line = f"{name}: {int(crossing.sum())} identical images ({rows} rows) are in several {what}"
        if what == "splits":
            learned = np.zeros(len(times), dtype=bool)
            learned[codes[split == TRAIN]] = True
            line += f"; {int((learned[codes] & (split != TRAIN)).sum())} of them in val or test with a twin in train (--group)"
        found.append(line)
    return found
