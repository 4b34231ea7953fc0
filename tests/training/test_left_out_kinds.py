"""Images spoilt in a way that the training did not know: one kind is left out at a time."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import left_out_kinds
from distributed.wafers.options import WaferOptions
from distributed.wafers.shards import write_wafers
from model.learning.image_kinds import SPOILING

pytestmark = pytest.mark.slow

# What an image that says nothing may cost, against a record without the image.
MOST_POINTS_LOST = 3.0
MOST_LOG_LOSS_ADDED = 0.15


SEEDS = 3  # one network swings by more than the bounds
NOISE_IS_MISSED = (
    "noise that training has not known is not noticed by two of three networks: "
    "docs/results/quality.md"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """Accuracy and log-loss, mean over the seeds: by kind where it was left out, and untouched."""
    folder = tmp_path_factory.mktemp("left out")
    shards = str(folder / "wafers")
    write_wafers(
        WaferOptions(rows=1600, imbalance=10, size=16, val_rows=600, test_rows=0, shards=shards)
    )
    settings = ["optim.epochs=12", "image.width=8", "table.width=32", "scaling.threads=1"]
    found: dict[str, list[object]] = {}
    for seed in range(SEEDS):
        chosen = argparse.Namespace(
            data=shards, split="val", kinds="", set=[*settings, f"optim.seed={seed}"]
        )
        measured = left_out_kinds.measure(chosen, str(folder / f"seed {seed}"))
        for name in ("nothing changed", "without the image", *SPOILING):
            value = measured[name]
            found.setdefault(name, []).append(
                value["left out"] if isinstance(value, dict) else value
            )
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def test_the_image_tells_something(results: dict[str, NDArray[np.float64]]) -> None:
    assert results["nothing changed"][0] > results["without the image"][0] + 5


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.xfail(reason=NOISE_IS_MISSED, strict=True))
        if kind == "noise"
        else kind
        for kind in SPOILING
    ],
)
def test_a_spoilt_image_leaves_what_the_table_says_though_training_left_its_kind_out(
    results: dict[str, NDArray[np.float64]], kind: str
) -> None:
    accuracy, log_loss = results[kind]
    table_accuracy, table_log_loss = results["without the image"]
    assert accuracy > table_accuracy - MOST_POINTS_LOST, results
    assert log_loss < table_log_loss + MOST_LOG_LOSS_ADDED, results
