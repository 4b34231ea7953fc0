"""Small data sets of pictures and tables for benchmarks/portfolio.py.

Wafers of several sizes, imbalances and informativeness, and scikit-learn's digits: the upper half
as a picture, random projections of the lower half as a table, with a long tail of classes.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn import datasets

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.ingestion.options import IngestOptions
from distributed.ingestion.pipeline import ingest
from distributed.shards.manifest import has_manifest
from distributed.wafers.options import WaferOptions
from distributed.wafers.shards import write_wafers

# Rows of the table, imbalance, informativeness of the maps and of the readings.
WAFERS = {
    "wafers-400": (400, 50.0, 0.6, 0.7),
    "wafers-1500": (1500, 50.0, 0.6, 0.7),
    "wafers-even": (600, 5.0, 0.6, 0.7),
    "wafers-maps": (600, 20.0, 0.8, 0.3),
    "wafers-readings": (600, 20.0, 0.3, 0.9),
}
DIGITS = "digits"
IMBALANCE, ROWS, COLUMNS = 12.0, 1300, 12  # of the digits
UPPER = 5  # rows of a digit's 8 that are the picture
NOISE = 8.0  # standard deviation added to the projections


def write_data_sets(folder: Path) -> list[str]:
    """Writes those of the data sets that are missing; returns the folders of all."""
    for name, (rows, imbalance, maps, readings) in WAFERS.items():
        if not has_manifest(str(folder / name)):
            options = WaferOptions(
                rows=rows,
                val_rows=0,
                test_rows=1000,
                imbalance=imbalance,
                image_informative=maps,
                table_informative=readings,
                shards=str(folder / name),
            )
            write_wafers(options)
    if not has_manifest(str(folder / DIGITS)):
        table = folder / f"{DIGITS}.parquet"
        digits_table().to_parquet(table)
        ingest(IngestOptions(table=str(table), label="label", out=str(folder / DIGITS)))
    return [str(folder / name) for name in (*WAFERS, DIGITS)]


def digits_table() -> pd.DataFrame:
    """The digits with a long tail, as a table with a picture in each row."""
    rng = np.random.default_rng(0)
    digits = datasets.load_digits()
    classes = np.unique(digits.target)
    shares = IMBALANCE ** (-np.arange(len(classes)) / (len(classes) - 1))
    wanted = np.maximum(8, np.round(shares / shares.sum() * ROWS)).astype(int)
    kept = rng.permutation(
        np.concatenate(
            [
                rng.permutation(np.flatnonzero(digits.target == label))[:count]
                for label, count in zip(classes, wanted, strict=True)
            ]
        )
    )
    images, labels = digits.images[kept], digits.target[kept]
    lower = images[:, UPPER - 1 :].reshape(len(kept), -1)
    projections = lower @ rng.normal(size=(lower.shape[1], COLUMNS))
    projections += rng.normal(size=projections.shape) * NOISE
    table = pd.DataFrame(projections, columns=[f"p{column}" for column in range(COLUMNS)])
    table["picture"] = [_png(image[:UPPER]) for image in images]
    table["label"] = [f"digit {label}" for label in labels]
    return table


def _png(upper: np.ndarray) -> bytes:
    """The upper rows of a digit, four times enlarged, above black ones."""
    pixels = np.pad(upper, ((0, 8 - len(upper)), (0, 0))) * 15
    file = io.BytesIO()
    Image.fromarray(np.kron(pixels, np.ones((4, 4))).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
