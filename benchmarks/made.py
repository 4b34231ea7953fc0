"""Shards of made-up JPEG photographs and a small table, for the data benchmarks."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as pillow

from distributed.shards.manifest import Manifest, write_manifest
from model.schema import Categorical, Image, Numeric, Schema, Table

CLASSES = ("a", "b", "c", "d", "e", "f", "g")
SITES = ("arm", "leg", "back", "face")


def photographs(count: int, size: int, lot: np.random.Generator) -> list[bytes]:
    """Blurred blobs with a little grain: about the bytes a pixel of a photograph at quality 90."""
    found = []
    for _ in range(count):
        coarse = pillow.fromarray(
            lot.integers(0, 256, (max(size // 8, 2), max(size // 8, 2), 3), dtype=np.uint8)
        )
        smooth = np.asarray(
            coarse.resize((size, size), pillow.Resampling.BICUBIC), dtype=np.float32
        )
        picture, out = (
            (smooth + lot.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8),
            io.BytesIO(),
        )
        pillow.fromarray(picture).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def make_shards(folder: str, rows: int, size: int, *, parts: int = 8, seed: int = 0) -> int:
    """Writes train/ (a long tail of 7 classes) and small val/ and test/; returns the encoded bytes of train/."""
    lot = np.random.default_rng(seed)
    pool = photographs(500, size, lot)
    share = 50.0 ** -(np.arange(len(CLASSES)) / (len(CLASSES) - 1))
    counts: tuple[int, ...] = ()
    for split, n in {"train": rows, "val": 256, "test": 256}.items():
        labels = lot.choice(len(CLASSES), n, p=share / share.sum()).astype(np.int32)
        labels[: len(CLASSES)] = np.arange(len(CLASSES))
        ranks = np.empty(n, np.int32)
        for c in range(len(CLASSES)):
            ranks[labels == c] = lot.permutation(int((labels == c).sum()))
        counts = counts or tuple(int(k) for k in np.bincount(labels))
        edges = np.linspace(0, n, (parts if split == "train" else 1) + 1).astype(int)
        Path(folder, split).mkdir(parents=True)
        for i, low in enumerate(edges[:-1]):
            some = slice(low, edges[i + 1])
            columns = {
                "id": [f"{split}{k}" for k in range(low, edges[i + 1])],
                "label": labels[some],
                "rank": ranks[some],
                "image.photo": pa.array(
                    [pool[k] for k in lot.integers(0, len(pool), edges[i + 1] - low)], pa.binary()
                ),
                "table.age": lot.normal(0, 1, edges[i + 1] - low).astype(np.float32),
                "table.site": lot.integers(-1, 4, edges[i + 1] - low).astype(np.int32),
            }
            path = Path(folder, split, f"part-{i:05d}.parquet")
            pq.write_table(
                pa.table(columns),
                path,
                row_group_size=1024,
                compression="none",
                use_dictionary=False,
            )
    schema = Schema(
        images=(Image(name="photo", height=size, width=size, mean=(0.5,) * 3, std=(0.25,) * 3),),
        tables=(
            Table(
                name="table",
                numeric=(Numeric(name="age", quantiles=(-2.0, -1.0, 0.0, 1.0, 2.0)),),
                categorical=(Categorical(name="site", vocabulary=SITES),),
            ),
        ),
        classes=CLASSES,
        counts=counts,
    )
    write_manifest(Manifest(schema=schema, rows={"train": rows, "val": 256, "test": 256}), folder)
    return sum(os.path.getsize(path) for path in Path(folder, "train").iterdir())
