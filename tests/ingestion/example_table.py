"""A clean table with images, and an ingest within the test's own process: what the tests of ingest
share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from distributed.shards.layout import SPLITS
from distributed.shards.manifest import Manifest, part_files, read_manifest
from tests.conftest import script

ingest = script("ingest")

ROWS = 120


def png(seed: int, height: int = 12, width: int = 10) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ).save(buffer, "PNG")
    return buffer.getvalue()


def records(rows: int = ROWS) -> dict[str, list[Any]]:
    """A clean table: 3 classes (a: 60 %, b: 30 %, c: 10 %), groups of two rows, a number and a
    category."""
    rng = np.random.default_rng(0)
    return {
        "key": [f"r{i:04d}" for i in range(rows)],
        "y": [("a", "a", "a", "a", "a", "a", "b", "b", "b", "c")[i // 2 % 10] for i in range(rows)],
        "patient": [f"p{i // 2}" for i in range(rows)],
        "age": [round(float(v), 3) for v in rng.normal(50, 10, rows)],
        "site": rng.choice(["arm", "leg", "back"], rows).tolist(),
        "photo": [f"{i}.png" for i in range(rows)],
    }


def write_images(folder: Path, rows: int = ROWS) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(rows):
        (folder / f"{i}.png").write_bytes(png(i))


def write_csv(
    folder: Path, table: dict[str, list[Any]], name: str = "t.csv", **options: Any
) -> str:
    pd.DataFrame(table).to_csv(folder / name, index=False, **options)
    return str(folder / name)


def run(*words: object) -> Manifest:
    """Ingest within this process, on the Ray that is already there."""
    argv = [str(w) for w in words]
    assert ingest.main(argv) == 0
    return read_manifest(argv[argv.index("--out") + 1])


def rows_of(folder: Path, split: str = "") -> pd.DataFrame:
    found = [
        pq.read_table(f) for s in SPLITS if split in ("", s) for f in part_files(str(folder), s)
    ]
    return pa.concat_tables(found).to_pandas()


def make_shards(folder: Path) -> Path:
    """Files and CSV of the clean table, and its shards in out/."""
    write_images(folder / "images")
    table = write_csv(folder, records())
    run(
        "--table",
        table,
        "--label",
        "y",
        "--id",
        "key",
        "--group",
        "patient",
        "--image",
        f"photo={folder}/images",
        "--out",
        folder / "out",
    )
    return folder
