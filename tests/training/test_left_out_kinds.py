"""Images spoilt in a way that the training did not know: one kind is left out at a time."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import left_out_kinds
from distributed.wafers.options import WaferOptions
from distributed.wafers.shards import write_wafers
from model.learning.image_kinds import SPOILING

pytestmark = pytest.mark.slow

# What an image that says nothing may cost, against a record without the image.
MOST_POINTS_LOST = 3.0
MOST_LOG_LOSS_ADDED = 0.15


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("left out") / "wafers")
    options = WaferOptions(rows=1600, imbalance=10, size=16, val_rows=600, test_rows=0, shards=out)
    write_wafers(options)
    return out


def test_a_spoilt_image_leaves_what_the_table_says_though_training_left_its_kind_out(
    shards: str, tmp_path: Path
) -> None:
    settings = ["optim.epochs=12", "image.width=8", "table.width=32", "scaling.threads=1"]
    chosen = argparse.Namespace(data=shards, split="val", kinds="", set=settings)
    results = left_out_kinds.measure(chosen, str(tmp_path))
    whole, table = results["nothing changed"], results["without the image"]
    assert isinstance(whole, tuple)
    assert isinstance(table, tuple)
    assert whole[0] > table[0] + 5, "the image must tell something, or nothing is tested"
    for kind in SPOILING:
        found = results[kind]
        assert isinstance(found, dict)
        accuracy, log_loss = found["left out"]
        assert accuracy > table[0] - MOST_POINTS_LOST, (kind, results)
        assert log_loss < table[1] + MOST_LOG_LOSS_ADDED, (kind, results)
