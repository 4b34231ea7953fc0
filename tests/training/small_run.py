"""A small trained run with its shards and its raw table, written without Ray.

The tests of evaluate and predict start from it.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image as pillow

from distributed.ingestion.output import part_path, write_table
from distributed.raw.encoding import encode_rows
from distributed.shards.checksums import record_key
from distributed.shards.manifest import Manifest, write_manifest
from distributed.training.results import RunResult
from distributed.training.run import run_training
from distributed.training.spec import RunSpec
from model.fusion import cross_modal
from model.schema import Categorical, Image, Numeric, Schema, Table

CLASSES = ("common", "middling", "scarce")
SITES = ("arm", "leg", "back", "face")
SPLITS = {"train": (120, 40, 12), "val": (30, 15, 8), "test": (60, 25, 10)}
SIZE = 8
SETTINGS = {
    "dim": 16,
    "image.width": 8,
    "table.width": 16,
    "table.embedding_size": 4,
    "experts.hidden": 16,
    "optim.epochs": 12,
    "optim.ema": 0.0,
    "data.flip": "none",
    "optim.lr": 0.01,
    "data.batch_size": 32,
    "inference.batch_size": 32,
}


def raw(counts: tuple[int, ...], seed: int, prefix: str = "r") -> pd.DataFrame:
    """Class c has a bright stripe at its own place, a higher age and a favourite site.

    A few cells and images are missing.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    photos = []
    for label in labels:
        pixels = rng.integers(0, 130, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[:, 2 * label : 2 * label + 2] += 100
        file = io.BytesIO()
        pillow.fromarray(pixels).save(file, "PNG")
        photos.append(None if rng.random() < 0.05 else file.getvalue())
    rows = len(labels)
    sites = np.where(
        rng.random(rows) < 0.6, np.array(SITES)[labels], rng.choice(SITES, rows)
    ).astype(object)
    sites[rng.random(rows) < 0.05] = None
    return pd.DataFrame(
        {
            "id": [f"{prefix}{i:04d}" for i in range(rows)],
            "label": np.array(CLASSES, dtype=object)[labels],
            "photo": photos,
            "age": rng.normal(40 + 12 * labels, 10).round(2),
            "dose": rng.normal(5, 2, rows).round(3),
            "site": sites,
        }
    )


def schema(
    classes: tuple[str, ...] = CLASSES, sites: tuple[str, ...] = SITES, size: int = SIZE
) -> Schema:
    return Schema(
        images=(Image(name="photo", height=size, width=size, mean=(0.3,) * 3, std=(0.2,) * 3),),
        tables=(
            Table(
                name="table",
                numeric=(
                    Numeric(
                        name="age", mean=47.0, std=14.0, quantiles=(15.0, 38.0, 47.0, 58.0, 90.0)
                    ),
                    Numeric(name="dose", mean=5.0, std=2.0, quantiles=(-1.0, 3.5, 5.0, 6.5, 11.0)),
                ),
                categorical=(Categorical(name="site", vocabulary=sites, missing=0.05),),
            ),
        ),
        classes=classes,
        counts=tuple(SPLITS["train"][CLASSES.index(name)] for name in classes),
    )


def prepare(data_schema: Schema) -> dict[str, Any]:
    specs = [
        {
            "name": m.name,
            "column": m.name,
            "height": m.height,
            "width": m.width,
            "channels": 3,
            "fit": "pad",
            "max_pixels": 10_000,
        }
        for m in data_schema.images
    ]
    return {"label": "label", "id": "id", "images": specs}


def write_shards(folder: Path, data_schema: Schema | None = None, parts: int = 2) -> Path:
    """Writes the same rows whatever the schema, which numbers classes and categories."""
    data_schema = data_schema or schema()
    manifest = Manifest(
        schema=data_schema,
        rows={name: sum(counts) for name, counts in SPLITS.items()},
        prepare=prepare(data_schema),
    )
    records = {}
    for seed, (split, counts) in enumerate(SPLITS.items()):
        good, refused = encode_rows(raw(counts, seed, split), manifest)
        assert not refused.num_rows
        labels = good["label"].to_numpy()
        ranks = pd.Series(labels).groupby(labels).cumcount().to_numpy(dtype=np.int32)
        good = good.set_column(good.column_names.index("rank"), "rank", pa.array(ranks))
        (folder / split).mkdir(parents=True)
        for k, rows in enumerate(np.array_split(np.arange(good.num_rows), parts)):
            part = write_table(part_path(str(folder), split, k), good.take(rows), row_group=20)
            records[record_key(part.uri)] = part.record
    write_manifest(dataclasses.replace(manifest, parts=records), str(folder))
    return folder


def train(folder: Path, shards: Path, page: bool = False, **settings: Any) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_modal, "MIN_VALIDATION_ROWS", 50)  # the validation split is small
        return run_training(
            RunSpec(
                shards=str(shards),
                settings={**SETTINGS, **settings},
                out=str(folder),
                page=page,
            )
        )


def damage(folder: Path, epoch: int) -> None:
    """Cuts the file of an epoch's state short."""
    (file,) = folder.glob(f"epoch-{epoch:06d}-*.pt")
    file.write_bytes(file.read_bytes()[:100])
