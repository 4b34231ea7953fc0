"""Selects test rows whose classes follow another distribution. Legend: N rows, C classes."""

from __future__ import annotations

import numpy as np

from distributed.shards.sampling import IntArray, random_generator

SHIFT_STREAM = 7  # the random stream of the selection, beside those of shards/sampling.py
RULE = "a test distribution must be uniform, forward-K or backward-K with K of at least 1"


def shifted_rows(labels_N: IntArray, counts_C: IntArray, kind: str, seed: int) -> IntArray:
    """Returns the largest subset of rows whose class sizes follow a distribution, in row order.

    kind: uniform: all classes alike; forward-K: sizes fall by the factor K from the class with
    the most training rows to that with the fewest; backward-K: they rise; empty: all rows.
    counts_C: training rows of each class.

    The labels serve the selection, which is part of the test protocol; no decision of the model
    is made on them. Every class that has rows keeps at least one.
    """
    if not kind:
        return np.arange(len(labels_N))
    name, ratio = parse_shift(kind)
    available_C = np.bincount(labels_N[labels_N >= 0], minlength=len(counts_C))
    order = np.argsort(-counts_C, kind="stable")
    order = order[available_C[order] > 0]
    if not len(order):
        raise ValueError(f"a cut to {kind} needs labelled rows; got none")
    shape = ratio ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    if name == "backward":
        shape = shape[::-1]
    # The largest sizes of this shape that every class can fill.
    factor = (available_C[order] / shape).min()
    sizes = np.maximum(np.floor(factor * shape + 1e-9).astype(int), 1)
    selected = [
        random_generator(seed, SHIFT_STREAM, int(c)).permutation(np.flatnonzero(labels_N == c))[
            :size
        ]
        for c, size in zip(order, sizes)
    ]
    return np.sort(np.concatenate(selected))


def parse_shift(kind: str) -> tuple[str, float]:
    """Returns a test distribution's name and the ratio of its largest to its smallest class."""
    name, _, text = kind.partition("-")
    try:
        ratio = float(text) if name in ("forward", "backward") else {"uniform": 1.0}[kind]
    except (ValueError, KeyError):
        ratio = 0.0
    if not 1 <= ratio < np.inf:
        raise ValueError(f"{RULE}; got {kind!r}")
    return name, ratio
