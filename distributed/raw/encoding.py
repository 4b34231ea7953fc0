"""Turns raw rows and cells into shard columns, in the way that a manifest prescribes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw.cells import as_numbers, as_text, canonical_spellings
from distributed.raw.images import ImageSpec
from distributed.raw.readings import POINT_OR_COMMA_READING
from distributed.raw.rows import (
    CELL,
    ID,
    IMAGE,
    LABEL,
    RANK,
    REASON,
    RowPlan,
    class_names,
    prepare_rows,
)
from distributed.shards.manifest import Manifest
from model.schema import Categorical, Numeric, Table

# Keys of a count of cells, beside the names of columns.
EMPTY_CELLS = "empty cells of "  # before a column's name
NO_CLASS = "labels that are no class"

ROW = "row"  # column of the refused rows: their places in the batch


def encode_table_columns(
    cells: Mapping[str, pa.ChunkedArray | pa.Array],
    tables: Sequence[Table],
    readings: Mapping[str, str],
    unread: Counter[str] | None = None,
) -> dict[str, pa.Array]:
    """Returns the shard columns TABLE.COLUMN of raw cells.

    A column without cells is absent in every row.
    cells: by source column. readings: how text becomes the numbers of some columns.
    unread: counts the cells of each column that carry no information, and under EMPTY_CELLS and
    its name those that are empty.
    """
    rows = len(next(iter(cells.values()))) if cells else 0
    encoded = {}
    for table in tables:
        for column in table.columns:
            key = f"{table.name}.{column.name}"
            if column.name not in cells:
                encoded[key] = absent_column(rows, column)
                continue
            reading = readings.get(column.name, "")
            encoded[key], useless = encode_column(cells[column.name], column, reading)
            if unread is None:
                continue
            if useless:
                unread[column.name] += useless
            if column in table.numeric:
                empty = encoded[key].null_count - useless
            else:
                empty = pc.sum(pc.equal(encoded[key], -1)).as_py() or 0
            unread[EMPTY_CELLS + column.name] += empty
    return encoded


def encode_rows(
    table: pa.Table | pd.DataFrame,
    manifest: Manifest,
    image_dirs: Mapping[str, str] | str = ".",
    first: int = 0,
    commas: bool = False,
    unread: Counter[str] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Returns new raw rows as shard columns, and the refused ones with their reasons.

    The rows are prepared exactly as the manifest's training rows were. The columns are id, label,
    rank, image.NAME and TABLE.COLUMN; those of the refused rows are id, reason and row, the place
    among the rows that were given. The label may be absent (-1, like a class that training did not
    have), and so may a whole modality.

    image_dirs: the folder of each image column's paths, or one for all.
    first: the number of the first row, which is its id where the table has no ids.
    commas: numbers may have decimal commas, though those of the training rows had none.
    unread: counts cells as encode_table_columns does, and under NO_CLASS the labels that are no
    class.
    """
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    _check_columns(table, manifest)
    rows, schema = table.num_rows, manifest.schema
    plan = _encoding_plan(table, manifest, image_dirs)
    prepared = prepare_rows(table, plan)
    if plan.id is not None:
        ids = prepared[ID]
    else:
        numbers = pa.array([str(first + i) for i in range(rows)], pa.string())
        ids = pa.chunked_array([numbers])
    if plan.label is not None:
        labels = _class_codes(table[plan.label], schema.classes, unread)
    else:
        labels = pa.array(np.full(rows, -1, dtype=np.int32))
    encoded = {ID: ids, LABEL: labels, RANK: pa.array(np.zeros(rows, dtype=np.int32))}
    available = {spec.name for spec, _, _ in plan.images}
    for image in schema.images:
        key = IMAGE + image.name
        encoded[key] = prepared[key] if image.name in available else pa.nulls(rows, pa.binary())
    # Without any column, the ids tell how many rows there are.
    cells = {name: prepared[CELL + name] for name in plan.features} or {"": ids}
    readings = dict.fromkeys(plan.features, POINT_OR_COMMA_READING) if commas else {}
    readings |= manifest.prepare.get("readings", {})
    encoded |= encode_table_columns(cells, schema.tables, readings, unread)
    good = pc.is_null(prepared[REASON])
    refused = pa.table({ID: ids, REASON: prepared[REASON], ROW: pa.array(np.arange(rows))})
    return pa.table(encoded).filter(good), refused.filter(pc.invert(good))


def _encoding_plan(
    table: pa.Table, manifest: Manifest, image_dirs: Mapping[str, str] | str
) -> RowPlan:
    """Returns what to read of new rows: what the training rows had and the table has."""
    prepare, available = manifest.prepare, set(table.column_names)
    features = [column.name for t in manifest.schema.tables for column in t.columns]
    specs = []
    for plain in prepare["images"]:
        source = plain["column"]
        folder = image_dirs.get(source, ".") if isinstance(image_dirs, Mapping) else image_dirs
        if source in available:
            specs.append((image_spec_from_dict(plain), source, folder))
    return RowPlan(
        label=prepare.get(LABEL) if prepare.get(LABEL) in available else None,
        id=prepare.get(ID) if prepare.get(ID) in available else None,
        group=None,
        split=None,
        features=tuple(name for name in features if name in available),
        images=tuple(specs),
    )


def _class_codes(
    cells: pa.ChunkedArray, classes: Sequence[str], unread: Counter[str] | None
) -> pa.Array:
    """Returns the class of every row, -1 where the label is missing or no class."""
    names = class_names(cells)
    vocabulary = canonical_spellings(pa.array(classes, pa.string()))
    codes = pc.index_in(names, value_set=vocabulary, skip_nulls=True)
    no_class = codes.null_count - names.null_count
    if unread is not None and no_class:
        unread[NO_CLASS] += no_class
    return pc.fill_null(codes, -1).cast(pa.int32())


def _check_columns(table: pa.Table, manifest: Manifest) -> None:
    """Raises ValueError where part of a modality's columns is missing, or all modalities are."""
    available = set(table.column_names)
    image_sources = [image["column"] for image in manifest.prepare["images"]]
    is_complete = [source in available for source in image_sources]
    for modality in manifest.schema.tables:
        names = [column.name for column in modality.columns]
        missing = [name for name in names if name not in available]
        if missing and len(missing) < len(names):
            raise ValueError(
                f"the table must have all columns of {modality.name!r} or none; "
                f"it lacks {', '.join(missing)} (a column may be empty)"
            )
        is_complete.append(not missing)
    if not any(is_complete):
        cells = [column.name for t in manifest.schema.tables for column in t.columns]
        raise ValueError(
            "the table must have columns of at least one modality "
            f"({', '.join([*image_sources, *cells])}); it has {', '.join(sorted(available))}"
        )


def image_spec_from_dict(plain: Mapping[str, Any]) -> ImageSpec:
    """Returns an image specification from its form in schema.json."""
    window = plain.get("window")
    return ImageSpec(
        name=plain["name"],
        height=plain["height"],
        width=plain["width"],
        channels=plain["channels"],
        fit=plain["fit"],
        window=tuple(window) if window else None,
        max_pixels=plain["max_pixels"],
    )


def encode_column(
    array: pa.Array | pa.ChunkedArray, column: Numeric | Categorical, reading: str = ""
) -> tuple[pa.Array, int]:
    """Returns cells as a shard column, and the number of non-empty cells that could not be used.

    Those are text that is not a number, or a category outside the vocabulary. The shard column is
    float32 with nulls, or int32 ids with -1 for missing and len(vocabulary) for unseen.
    """
    if isinstance(column, Numeric):
        numbers, empty, _ = as_numbers(array, reading)
        values = numbers.astype(np.float32)
        missing = np.isnan(values)
        return pa.array(values, mask=missing), int((missing & ~empty).sum())
    texts = as_text(array)
    vocabulary = canonical_spellings(pa.array(column.vocabulary, pa.large_string()))
    ids = pc.index_in(texts, value_set=vocabulary, skip_nulls=True)
    unseen = ids.null_count - texts.null_count
    ids = pc.fill_null(ids, len(column.vocabulary))
    return pc.if_else(pc.is_null(texts), -1, ids).cast(pa.int32()), unseen


def absent_column(rows: int, column: Numeric | Categorical) -> pa.Array:
    """Returns the shard column of a modality that none of the rows has."""
    if isinstance(column, Numeric):
        return pa.nulls(rows, pa.float32())
    return pa.array(np.full(rows, -1, dtype=np.int32))
