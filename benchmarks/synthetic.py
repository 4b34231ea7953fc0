"""Writes shards of synthetic JPEG photographs with a small table, for the data benchmarks."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image as pillow

from distributed.ingestion.output import part_path, write_table
from distributed.shards.checksums import record_key
from distributed.shards.manifest import Manifest, write_manifest
from model.schema import Categorical, Image, Numeric, Schema, Table

SYNTHETIC_CLASSES = ("a", "b", "c", "d", "e", "f", "g")
SITES = ("arm", "leg", "back", "face")
HEAD_TO_TAIL = 50.0  # rows of the largest class for one row of the smallest
DISTINCT_IMAGES = 500
Int32Array = np.ndarray[tuple[int], np.dtype[np.int32]]


def photographs(count: int, size: int, rng: np.random.Generator) -> list[bytes]:
    """Returns JPEGs of blurred blobs with a little grain.

    At quality 90 they have about as many bytes for each pixel as photographs have.
    """
    files = []
    coarse_size = max(size // 8, 2)
    for _ in range(count):
        coarse = rng.integers(0, 256, (coarse_size, coarse_size, 3), dtype=np.uint8)
        blurred = pillow.fromarray(coarse).resize((size, size), pillow.Resampling.BICUBIC)
        smooth = np.asarray(blurred, dtype=np.float32)
        pixels = smooth + rng.normal(0, 6, smooth.shape)
        buffer = io.BytesIO()
        pillow.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def make_shards(folder: str, rows: int, size: int, *, parts: int = 8, seed: int = 0) -> int:
    """Writes train/ (a long tail of 7 classes) and small val/ and test/.

    size: side of an image in pixels. parts: files of train/. Returns the bytes of train/.
    """
    rng = np.random.default_rng(seed)
    images = photographs(DISTINCT_IMAGES, size, rng)
    class_counts: list[int] = []
    records = {}
    for split, n in {"train": rows, "val": 256, "test": 256}.items():
        labels, ranks = _labels_and_ranks(n, rng)
        class_counts = class_counts or np.bincount(labels).tolist()
        edges = np.linspace(0, n, (parts if split == "train" else 1) + 1).astype(int)
        Path(folder, split).mkdir(parents=True)
        for part, (low, high) in enumerate(zip(edges[:-1], edges[1:])):
            table = _table(split, low, high, labels, ranks, images, rng)
            written = write_table(part_path(folder, split, part), table)
            records[record_key(written.uri)] = written.record
    schema = _schema(size, tuple(class_counts))
    split_rows = {"train": rows, "val": 256, "test": 256}
    write_manifest(Manifest(schema=schema, rows=split_rows, parts=records), folder)
    return sum(os.path.getsize(path) for path in Path(folder, "train").iterdir())


def _labels_and_ranks(rows: int, rng: np.random.Generator) -> tuple[Int32Array, Int32Array]:
    """Returns long-tailed labels with every class among them, and each row's rank in its class."""
    classes = len(SYNTHETIC_CLASSES)
    share = HEAD_TO_TAIL ** -(np.arange(classes) / (classes - 1))
    labels = rng.choice(classes, rows, p=share / share.sum()).astype(np.int32)
    labels[:classes] = np.arange(classes)
    ranks = np.empty(rows, np.int32)
    for c in range(classes):
        ranks[labels == c] = rng.permutation(int((labels == c).sum()))
    return labels, ranks


def _table(
    split: str,
    low: int,
    high: int,
    labels: Int32Array,
    ranks: Int32Array,
    images: list[bytes],
    rng: np.random.Generator,
) -> pa.Table:
    """Returns the rows from low to high of a split, with random images and cells."""
    count = high - low
    files = [images[k] for k in rng.integers(0, len(images), count)]
    columns = {
        "id": [f"{split}{k}" for k in range(low, high)],
        "label": labels[low:high],
        "rank": ranks[low:high],
        "image.photo": pa.array(files, pa.binary()),
        "table.age": rng.normal(0, 1, count).astype(np.float32),
        "table.site": rng.integers(-1, 4, count).astype(np.int32),
    }
    return pa.table(columns)


def _schema(size: int, counts: tuple[int, ...]) -> Schema:
    return Schema(
        images=(Image(name="photo", height=size, width=size, mean=(0.5,) * 3, std=(0.25,) * 3),),
        tables=(
            Table(
                name="table",
                numeric=(Numeric(name="age", quantiles=(-2.0, -1.0, 0.0, 1.0, 2.0)),),
                categorical=(Categorical(name="site", vocabulary=SITES),),
            ),
        ),
        classes=SYNTHETIC_CLASSES,
        counts=counts,
    )
