"""Test conditions as a protocol: which rows follow another class distribution."""

from __future__ import annotations

import numpy as np

from distributed.shards.sampling import IntArray, random_generator

CUT = 7  # the random stream of the cut, beside those of sampling.py
RULE = "a test distribution must be uniform, forward-K or backward-K with K of at least 1"


def shifted_rows(labels_N: IntArray, counts_C: IntArray, kind: str, seed: int) -> IntArray:
    """The largest subset of rows with class sizes as `kind` says: forward-K falls by K from the most trained class, backward-K rises.

    Labels serve the cut, which is a protocol, not a decision. Every class that has rows keeps at least one.
    """
    if not kind:
        return np.arange(len(labels_N))
    name, _, ratio = kind.partition("-")
    try:
        steep = float(ratio) if name in ("forward", "backward") else {"uniform": 1.0}[kind]
    except (ValueError, KeyError):
        steep = 0.0
    if not 1 <= steep < np.inf:
        raise ValueError(f"{RULE}; got {kind!r}")
    there_C = np.bincount(labels_N[labels_N >= 0], minlength=len(counts_C))
    order = np.argsort(-counts_C, kind="stable")
    order = order[there_C[order] > 0]
    if not len(order):
        raise ValueError(f"a cut to {kind} needs labelled rows; got none")
    shape = steep ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    shape = shape[::-1] if name == "backward" else shape
    sizes = np.maximum(np.floor((there_C[order] / shape).min() * shape + 1e-9).astype(int), 1)
    picked = [
        random_generator(seed, CUT, int(c)).permutation(np.flatnonzero(labels_N == c))[:n]
        for c, n in zip(order, sizes)
    ]
    return np.sort(np.concatenate(picked))
