"""SCALE.md holds what cluster/scale.py computes, and that can be checked by hand."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cluster import measure, scale
from cluster.scale import Plan

ROOT = Path(__file__).resolve().parents[2]
MEASURED = json.loads(scale.INPUTS.read_text())
PAGE = (ROOT / "cluster" / "SCALE.md").read_text()


def test_page_holds_the_table_that_the_script_prints() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cluster/scale.py"), "plan"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in PAGE
    smaller = scale.table(Plan(side=224, row_bytes=31400), MEASURED).splitlines()
    assert sum(line in PAGE for line in smaller) >= 9


def test_page_quotes_the_measured_inputs() -> None:
    quoted = [float(word.replace(",", "")) for word in re.findall(r"\d[\d,.]*\d|\d", PAGE)]
    for name in (
        "decode_64",
        "decode_96",
        "decode_128",
        "decode_224",
        "step_gflop_224",
        "step_gflop_448",
        "default_gflop_224",
        "default_gflop_448",
        "index_bytes_a_row",
    ):
        assert any(abs(number - MEASURED[name]) <= 0.01 * MEASURED[name] for number in quoted), name


@pytest.mark.parametrize("tflops", [3, 10, 30, 100])
def test_page_names_the_first_bottleneck(tflops: int) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {tflops} TFLOP/s |")]
    for cpus, cell in zip((8, 16, 24), row.split("|")[2:5]):
        caps = scale.limits(Plan(gpu_tflops=tflops, cpus_per_gpu=cpus), MEASURED)
        first = min(caps, key=lambda name: caps[name])
        assert cell.strip() == f"{first.split(' (')[0]}, {caps[first]:,.0f}"


def test_halving_by_hand() -> None:
    assert scale.rungs(20, 2) == [7, 14, 20]
    assert scale.search_epochs(Plan()) == pytest.approx(200 * 7 + 200 / 2 * 7 + 200 / 4 * 6)
    assert scale.rungs(3, 2) == [1, 2, 3]


def test_limits_by_hand() -> None:
    measured = {"decode_224": 1000.0, "step_gflop_224": 2.0, "parameters": 0.0}
    plan = Plan(
        side=224,
        row_bytes=50e3,
        gpus=16,
        gpus_per_node=8,
        cpus_per_gpu=4,
        gpu_tflops=1.0,
        node_gbytes=1.0,
        store_gbytes=3.0,
    )
    assert list(scale.limits(plan, measured).values()) == pytest.approx(
        [64_000, 8_000, 40_000, 60_000]
    )


def test_photographs_are_jpegs_of_a_photographs_size() -> None:
    files = measure.photographs(128, count=3)
    assert all(Image.open(io.BytesIO(file)).size == (128, 128) for file in files)
    assert all(0.1 < len(file) / 128**2 < 2 for file in files)


@pytest.mark.slow
def test_a_training_step_costs_what_the_page_says() -> None:
    result = measure.measure_model(224)
    for name in ("step_gflop_224", "default_gflop_224"):
        assert result[name] == pytest.approx(MEASURED[name], rel=0.2)
    assert result["parameters"] == pytest.approx(MEASURED["parameters"], rel=0.2)
