"""Writes the rows of shards as the tables and picture files that other programs read.

The same rows, splits and columns that a training here reads, and the same bytes of every picture.
A cell that is empty stays empty. A value of a category that the training rows lack is written as
`unseen`, a record without a picture names the file `missing.png`, which is grey all over.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
from PIL import Image as pillow

from distributed.shards.layout import SPLITS
from distributed.shards.manifest import part_files, read_manifest
from model.schema import Image, Schema

LABEL = "label"
JPEG_START = b"\xff\xd8"


def write_tables(shards: str, folder: Path) -> None:
    """Writes train, val and test.parquet, the pictures, and description.json, written last."""
    manifest = read_manifest(shards)
    schema = manifest.schema
    for split in SPLITS:
        rows = ds.dataset(part_files(shards, split)).to_table().to_pandas()
        table = _cells(rows, schema)
        for image in schema.images:
            table[image.name] = _write_pictures(rows[f"image.{image.name}"], image, folder, split)
        table[LABEL] = [schema.classes[k] for k in rows["label"]]
        table.to_parquet(folder / f"{split}.parquet")
    description = {
        "label": LABEL,
        "classes": list(schema.classes),
        "counts": list(schema.counts),
        "images": [
            {"name": m.name, "height": m.height, "width": m.width, "channels": m.channels}
            for m in schema.images
        ],
        "numeric": [f"{t.name}_{c.name}" for t in schema.tables for c in t.numeric],
        "categorical": [f"{t.name}_{c.name}" for t in schema.tables for c in t.categorical],
    }
    (folder / "description.json").write_text(json.dumps(description, indent=1))


def _cells(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Returns the columns of all tables, categories by their names."""
    cells: dict[str, object] = {}
    for table in schema.tables:
        for number in table.numeric:
            cells[f"{table.name}_{number.name}"] = rows[f"{table.name}.{number.name}"].astype(float)
        for category in table.categorical:
            # By their ids: -1 is a missing cell, the id after the last is a value new to training.
            names = [*category.vocabulary, "unseen", None]
            ids = rows[f"{table.name}.{category.name}"]
            cells[f"{table.name}_{category.name}"] = [names[k] for k in ids]
    return pd.DataFrame(cells, index=rows.index)


def _write_pictures(encoded: pd.Series, image: Image, folder: Path, split: str) -> list[str]:
    """Writes every picture to a file of its own and returns their paths."""
    pictures = folder / "pictures" / image.name
    pictures.mkdir(parents=True, exist_ok=True)
    missing = pictures / "missing.png"
    if not missing.exists():
        mode = {1: "L", 3: "RGB"}[image.channels]
        grey = (128,) * image.channels
        pillow.new(mode, (image.width, image.height), grey).save(missing)
    paths = []
    for k, content in enumerate(encoded):
        if content is None:
            paths.append(str(missing))
            continue
        ending = "jpg" if content.startswith(JPEG_START) else "png"
        path = pictures / f"{split}-{k}.{ending}"
        path.write_bytes(content)
        paths.append(str(path))
    return paths
