"""Which mirror images of pictures are of the same class, found out from training pictures."""

from __future__ import annotations

import numpy as np
import pytest

from distributed.ingestion.flips import allowed_flips, kept_shares

SIZE, ROWS = 16, 240


def pictures(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of three classes: blobs of three sizes, bright corners, or bright upper edges."""
    rng = np.random.default_rng(seed)
    labels = np.arange(ROWS) % 3
    x = 0.1 * rng.random((ROWS, 1, SIZE, SIZE)).astype(np.float32)
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    for picture, label in zip(x, labels):
        if kind == "blobs":
            picture[0, np.hypot(rows, columns) < 2 + 2 * label] = 1
        elif kind == "corners":
            picture[0, : SIZE // 2, 5 * label : 5 * label + 5] = 1
        elif kind == "edges":
            picture[0, 5 * label : 5 * label + 3] = 1
    return x, labels


@pytest.mark.parametrize(
    ("kind", "flips"),
    [("blobs", "both"), ("corners", "none"), ("edges", "horizontal"), ("noise", "horizontal")],
)
def test_only_flips_that_keep_the_class_are_allowed(kind: str, flips: str) -> None:
    x, labels = pictures(kind)
    if kind == "corners":  # the middle class is not changed by a mirror
        x, labels = x[labels != 1], labels[labels != 1]
    assert allowed_flips(x, labels) == flips


def test_a_few_rows_or_one_class_say_nothing() -> None:
    x, labels = pictures("corners")
    assert allowed_flips(x[:9], labels[:9]) == "horizontal"
    assert allowed_flips(x, np.zeros(ROWS, np.int64)) == "horizontal"
    assert allowed_flips(x[:0], labels[:0]) == "horizontal"


def test_no_change_keeps_everything() -> None:
    x, labels = pictures("edges")
    assert kept_shares(x, labels, [lambda images: images]) == [1.0]
