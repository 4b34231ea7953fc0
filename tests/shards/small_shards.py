"""Shards of 741 rows with all kinds of columns, written in a fraction of a second."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as pillow

from distributed.shards.manifest import Manifest, write_manifest
from model.schema import Categorical, Image, Numeric, Schema, Table

ROWS = {"train": 600, "val": 131, "test": 10}
SITES = ("arm", "leg", "back", "face")


def encoded(lot: np.random.Generator, kind: str, channels: int, height: int, width: int) -> bytes:
    shape = (height, width) if channels == 1 else (height, width, channels)
    out = io.BytesIO()
    pillow.fromarray(lot.integers(0, 256, shape, dtype=np.uint8)).save(out, kind)
    return out.getvalue()


def write_split(folder: Path, rows: int, parts: int, seed: int) -> tuple[int, ...]:
    """Parts with several row groups each; PNG and JPEG, an image or a whole table missing here and
    there."""
    folder.mkdir(parents=True)
    lot = np.random.default_rng(seed)
    labels = lot.choice(3, rows, p=[0.7, 0.22, 0.08]).astype(np.int32)
    ranks = np.empty(rows, np.int32)
    for c in range(3):
        ranks[labels == c] = lot.permutation(int((labels == c).sum()))
    age = np.where(lot.random(rows) < 0.2, np.nan, lot.normal(40, 10, rows)).astype(np.float32)
    site = lot.integers(-1, 5, rows).astype(np.int32)
    age[::10], site[::10] = np.nan, -1
    columns = {
        "id": [f"{folder.name}{i}" for i in range(rows)],
        "label": labels,
        "rank": ranks,
        "image.photo": pa.array(
            [
                None if i % 7 == 0 else encoded(lot, ("PNG", "JPEG")[i % 2], 3, 8, 12)
                for i in range(rows)
            ],
            pa.binary(),
        ),
        "image.xray": pa.array(
            [encoded(lot, ("JPEG", "PNG")[i % 2], 1, 6, 6) for i in range(rows)], pa.binary()
        ),
        "table.age": pa.array(age, mask=np.isnan(age) & (np.arange(rows) % 2 == 0)),
        "table.site": site,
    }
    table = pa.table(columns)
    edges = np.linspace(0, rows, parts + 1).astype(int)
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        pq.write_table(
            table.slice(low, high - low), folder / f"part-{i:05d}.parquet", row_group_size=40
        )
    return tuple(int(n) for n in np.bincount(labels, minlength=3))


def write_shards(folder: Path) -> str:
    """Two image modalities and a table; returns the folder."""
    counts = [
        write_split(folder / split, rows, 3 if split == "train" else 1, seed)
        for seed, (split, rows) in enumerate(ROWS.items())
    ]
    schema = Schema(
        images=(
            Image(name="photo", height=8, width=12),
            Image(name="xray", height=6, width=6, channels=1),
        ),
        tables=(
            Table(
                name="table",
                numeric=(Numeric(name="age", mean=40, std=10),),
                categorical=(Categorical(name="site", vocabulary=SITES),),
            ),
        ),
        classes=("a", "b", "c"),
        counts=counts[0],
    )
    write_manifest(Manifest(schema=schema, rows=ROWS), str(folder))
    return str(folder)
