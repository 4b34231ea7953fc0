"""Which mirror images of pictures are of the same class, found out from training pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from distributed import IngestOptions, ingest
from distributed.ingestion.flips import allowed_flips, kept_shares
from distributed.shards.manifest import read_manifest

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


def test_a_picture_smaller_than_the_grid_says_nothing() -> None:
    x, labels = pictures("corners")
    assert allowed_flips(x[:, :, :5], labels) == "horizontal"


@pytest.mark.parametrize("size", [(24, 400), (64, 16), (12, 12)])
def test_ingest_writes_the_flips_of_every_image_into_the_schema_and_prints_them(
    tmp_path: Path, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """One image column shows the class by its bright side, the other one is missing everywhere but
    for a few rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    entries = []
    for row, label in enumerate(labels):
        picture = rng.integers(0, 40, size, dtype=np.uint8)
        half = np.s_[:, : size[1] // 2] if label else np.s_[:, size[1] // 2 :]
        picture[half] += np.uint8(150)
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "png")
        other = stream.getvalue() if row < 5 else None
        entries.append((f"class {label}", row, stream.getvalue(), other))
    pd.DataFrame(entries, columns=["label", "number", "sided", "rare"]).to_parquet(
        tmp_path / "rows.parquet"
    )
    result = ingest(
        IngestOptions(
            table=str(tmp_path / "rows.parquet"),
            label="label",
            image=("sided", "rare"),
            image_size=f"{size[0]}x{size[1]}",
            out=str(tmp_path / "shards"),
        )
    )
    images = read_manifest(str(tmp_path / "shards")).schema.images
    assert {image.name: image.flips for image in images} == {"sided": "none", "rare": "horizontal"}
    result.show()
    shown = capsys.readouterr().out
    assert "grey, pad, not flipped" in shown
    assert "grey, pad, flipped left to right" in shown
