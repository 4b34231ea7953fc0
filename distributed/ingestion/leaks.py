"""Signs that a data set leaks its answer.

They are columns that give the label away, and groups or images on both sides of a split.

Legend: P pairs of value and label, C classes, S splits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distributed.raw.cells import MISSING_WORDS
from distributed.shards.layout import REFUSED_SPLIT, TRAIN
from distributed.shards.sampling import IntArray
from model.schema import join_names

MIN_LEAK_ROWS = 20  # of fewer rows nothing is concluded
MIN_RECALL = 0.98  # by the value alone: from here on it determines the label
MIN_ONE_LABEL_SHARE = 0.25  # of the rows whose value occurs with a single label
CHANCE = 1e-6  # a value occurs with one label by chance, over all values
MAX_CLASS_SHARE = 0.95  # of a larger class, one label is expected
MIN_CLASS_ROWS = 5  # of smaller classes, a small training share is expected

FloatArray = NDArray[np.float64]


def label_leak(name: str, pairs: pa.Table, classes: int) -> str:
    """Returns a warning if the column's values give the label away, else "".

    pairs: value, label and number n of the training rows.
    """
    values_P = (
        pairs["value"]
        .combine_chunks()
        .dictionary_encode(null_encoding="encode")
        .indices.to_numpy(zero_copy_only=False)
    )
    labels_P, n_P = pairs["label"].to_numpy(), pairs["n"].to_numpy()
    total_C = np.bincount(labels_P, weights=n_P, minlength=classes)
    if n_P.sum() < MIN_LEAK_ROWS or np.count_nonzero(total_C) < 2:
        return ""
    right_P = n_P * _predicts_itself(values_P, n_P)
    right_C = np.bincount(labels_P, weights=right_P, minlength=classes)
    with_others_C = total_C >= 2
    recall = (
        float(np.mean(right_C[with_others_C] / total_C[with_others_C]))
        if with_others_C.any()
        else 0.0
    )
    if recall >= MIN_RECALL:
        return (
            f"{name} determines the label (its value alone gives {recall:.0%} of each class): "
            "--drop it unless it is known beforehand"
        )
    share = _one_label_share(values_P, labels_P, n_P, total_C)
    if share >= MIN_ONE_LABEL_SHARE:
        return (
            f"{name}: {share:.0%} of training rows have a value that occurs with one label only "
            "(--drop it if it follows from the label)"
        )
    return ""


def _predicts_itself(values_P: IntArray, n_P: IntArray) -> NDArray[np.bool_]:
    """Whether a row's label is the most frequent one among the *other* rows with its value.

    A value with a single row predicts nothing.
    """
    order = np.lexsort((-n_P, values_P))
    sorted_values, sorted_n = values_P[order], n_P[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = sorted_values[1:] != sorted_values[:-1]
    starts = np.flatnonzero(is_first)
    largest = sorted_n[starts]
    second = np.zeros_like(largest)
    has_second = np.diff(np.append(starts, len(order))) > 1
    second[has_second] = sorted_n[starts[has_second] + 1]
    value_number = np.cumsum(is_first) - 1
    rival_P = np.empty(len(n_P))
    rival_P[order] = np.where(is_first, second[value_number], largest[value_number])
    return n_P - 1 > rival_P


def _one_label_share(
    values_P: IntArray, labels_P: IntArray, n_P: IntArray, total_C: NDArray[np.number]
) -> float:
    """Returns the share of rows whose value occurs with one label, and not by chance."""
    has_one_label = np.bincount(values_P) == 1  # one pair of value and label
    share_P = (total_C / total_C.sum())[labels_P]
    log_chance_P = n_P * np.log(np.maximum(share_P, 1e-12))
    not_by_chance_P = log_chance_P < np.log(CHANCE / max(1, len(has_one_label)))
    sure_P = (
        has_one_label[values_P]
        & (n_P >= MIN_LEAK_ROWS)
        & not_by_chance_P
        & (share_P < MAX_CLASS_SHARE)
    )
    return float(n_P[sure_P].sum() / n_P.sum())


def missing_words(name: str, cells: pa.ChunkedArray) -> list[str]:
    """Returns warnings about words that are names here, but missing values among features.

    name: labels, groups or ids, whose column it is.
    """
    words = pc.value_counts(cells.filter(pc.is_in(cells, value_set=MISSING_WORDS))).to_pylist()
    return [
        f"{name}: {word['values']!r} is taken for a name (rows: {word['counts']}); "
        "if it means missing, leave those cells empty"
        for word in words
    ]


def crossing_groups(groups: IntArray, split: IntArray) -> str:
    """Returns a warning about groups in several splits, else "".

    groups: a number for every row.
    """
    kept = split != REFUSED_SPLIT
    pairs = np.unique(np.stack([groups[kept], split[kept]]), axis=1)
    group_numbers, splits = np.unique(pairs[0], return_counts=True)
    crossing = group_numbers[splits > 1]
    if not len(crossing):
        return ""
    rows = int(np.isin(groups[kept], crossing).sum())
    return (
        f"{len(crossing)} groups ({rows} rows) cross the given splits: validation and test see "
        "what training saw; --split makes clean ones"
    )


def scarce_in_train(classes: Sequence[str], totals_CS: IntArray, share: float) -> str:
    """Returns a warning about classes of which few rows train, else "".

    Of them much less than the requested share trains: their groups are few and one is large.
    """
    rows_C = totals_CS.sum(1)
    scarce_C = (rows_C >= MIN_CLASS_ROWS) & (totals_CS[:, TRAIN] < 0.5 * share * rows_C)
    if not scarce_C.any():
        return ""
    lines = [
        f"{classes[c]} ({totals_CS[c, TRAIN]} of {rows_C[c]} rows)"
        for c in np.flatnonzero(scarce_C).tolist()
    ]
    return (
        f"groups leave much less than {share:.0%} to training of {join_names(lines)}: "
        "another --seed cuts them otherwise"
    )


def identical_images(
    name: str, digests: pa.ChunkedArray, split: IntArray, labels: IntArray
) -> list[str]:
    """Returns warnings about one image in several splits, or with several labels."""
    used = pc.is_valid(digests).to_numpy(zero_copy_only=False) & (split != REFUSED_SPLIT)
    hashes = pc.fill_null(digests, 0).to_numpy()[used]
    split, labels = split[used], labels[used]
    _, image_of_row, times = np.unique(hashes, return_inverse=True, return_counts=True)
    if not np.any(times > 1):
        return []
    warnings = []
    for values, plural in ((split, "splits"), (labels, "labels")):
        low = np.full(len(times), np.iinfo(np.int64).max)
        high = np.full(len(times), -1)
        np.minimum.at(low, image_of_row, values)
        np.maximum.at(high, image_of_row, values)
        crossing = (low != high) & (times > 1)
        if not crossing.any():
            continue
        rows = int(crossing[image_of_row].sum())
        line = (
            f"{name}: {int(crossing.sum())} identical images ({rows} rows) are in several {plural}"
        )
        if plural == "splits":
            trained = np.zeros(len(times), dtype=bool)
            trained[image_of_row[split == TRAIN]] = True
            held_out = int((trained[image_of_row] & (split != TRAIN)).sum())
            line += f"; {held_out} of them in val or test with a twin in train (--group)"
        warnings.append(line)
    return warnings
