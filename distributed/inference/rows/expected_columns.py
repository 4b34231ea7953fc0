"""The columns that a checkpoint's predictions read, as a table for the user."""

from __future__ import annotations

import pandas as pd

from distributed.shards.manifest import Manifest


def expected_columns(manifest: Manifest) -> pd.DataFrame:
    """Returns the columns of the rows to predict: their modality, kind, and values."""
    prepare = manifest.prepare
    columns = [
        (image["column"], image["name"], "image", f"{image['height']}x{image['width']}")
        for image in prepare["images"]
    ]
    for table in manifest.schema.tables:
        columns += [
            (c.name, table.name, "number", f"{c.mean:g} ± {c.std:g}") for c in table.numeric
        ]
        columns += [
            (c.name, table.name, "category", ", ".join(c.vocabulary)) for c in table.categorical
        ]
    for kind in ("id", "label"):
        if prepare.get(kind):
            columns.append((prepare[kind], "", f"{kind}, optional", ""))
    return pd.DataFrame(columns, columns=["column", "modality", "kind", "values"])
