"""A SHARDS folder for users: what is in it, and its rows as a pandas data frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from distributed.runtime.storage import filesystem
from distributed.shards.checksums import open_part
from distributed.shards.decode import shard_columns
from distributed.shards.layout import SPLITS
from distributed.shards.manifest import Manifest, checked_parts, read_manifest
from model.schema import Numeric, Schema

MISSING = -1  # the id of a missing category and of a missing label


class Shards:
    """A SHARDS folder, as `ingest` writes it.

        shards = Shards("shards/wafers")
        shards.classes, shards.counts, shards.rows
        frame = shards.to_pandas("val")

    path: a folder or a URI (s3://, gs://).
    """

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self.manifest: Manifest = read_manifest(self.path)

    @property
    def schema(self) -> Schema:
        """The modalities with their columns and training statistics."""
        return self.manifest.schema

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities: images first, then tables."""
        return self.schema.modalities

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels."""
        return self.schema.classes

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of training rows of every class."""
        return dict(zip(self.schema.classes, self.schema.counts))

    @property
    def rows(self) -> Mapping[str, int]:
        """The number of rows in every split."""
        return dict(self.manifest.rows)

    def __repr__(self) -> str:
        rows = ", ".join(f"{split} {count:,}" for split, count in self.rows.items())
        modalities = ", ".join(self.modalities)
        return f"Shards({self.path!r}: {rows} rows; {len(self.classes)} classes; {modalities})"

    def to_pandas(self, split: str = "train", images: bool = False) -> pd.DataFrame:
        """Returns the rows of a split: id, label, and the table columns by their own names.

        Labels and categories are names, and missing where the row has none or one that training
        did not have. A column name that two modalities share is preceded by the modality's name.
        images: add a column of encoded PNG or JPEG bytes for every image modality.
        """
        schema = self.schema if images else _without_images(self.schema)
        names = shard_columns(schema)
        system, _ = filesystem(self.path)
        parts = []
        for path, record in checked_parts(self.path, split, self.manifest).items():
            with open_part(system, path, record) as part:
                parts.append(part.read(["id", "label", *names]))
        if not parts:
            raise ValueError(
                f"a split must have Parquet parts; {self.path} has none in {split}/; "
                f"valid: {', '.join(name for name in SPLITS if self.rows[name])}"
            )
        return _as_frame(pa.concat_tables(parts), schema)


def _without_images(schema: Schema) -> Schema:
    tables = tuple(table.name for table in schema.tables)
    return schema.keep(tables) if tables else Schema(classes=schema.classes)


def _as_frame(rows: pa.Table, schema: Schema) -> pd.DataFrame:
    """Returns shard columns with their own names, and categories and labels as words."""
    frame = {"id": rows["id"].to_pandas(), "label": _words(rows["label"], schema.classes)}
    for image in schema.images:
        frame[image.name] = rows[f"image.{image.name}"].to_pandas()
    own_names = [column.name for table in schema.tables for column in table.columns]
    for table in schema.tables:
        for column in table.columns:
            stored = f"{table.name}.{column.name}"
            shared = own_names.count(column.name) > 1 or column.name in frame
            values = rows[stored]
            frame[stored if shared else column.name] = (
                values.to_pandas()
                if isinstance(column, Numeric)
                else _words(values, column.vocabulary)
            )
    return pd.DataFrame(frame)


def _words(codes: pa.ChunkedArray, names: tuple[str, ...]) -> pd.Categorical:
    """Returns the names of these codes; missing where there is none of them."""
    numbers = codes.to_pandas().fillna(MISSING).to_numpy(np.int64)
    return pd.Categorical.from_codes(
        np.where(numbers < len(names), numbers, MISSING), categories=list(names)
    )
