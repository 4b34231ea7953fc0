"""One batch of raw rows: images prepared, identity read, refused rows known; for ingest, and with encode_rows for prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw import columns, images
from distributed.raw.cells import (
    COMMA_READING,
    as_text,
    canonical_spellings,
    flatten_array,
    is_text,
)
from distributed.shards.manifest import Manifest
from model.schema import Table

if TYPE_CHECKING:
    import pandas as pd

# Columns of a prepared batch. Prefixes keep a user's column names apart from ours.
ID, LABEL, RANK, GROUP = "id", "label", "rank", "group"
SPLIT, REASON = "split", "reason"
CELL, IMAGE, DIGEST, SUMS, COLOUR, DEEP = "cell.", "image.", "digest.", "sums.", "colour.", "deep."
EMPTY_CELLS, NO_CLASS = (
    "empty cells of ",
    "labels that are no class",
)  # beside the names of columns in a count of cells
PREPARED = pa.list_(pa.int64())
REMOTE_THREADS = 16
EMPTY_ROW = "no image and no table value"


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """What to read of each row. images: source column and folder of every image modality."""

    label: str | None
    id: str | None
    group: str | None
    split: str | None
    features: tuple[str, ...]
    images: tuple[tuple[images.ImageSpec, str, str], ...]


def prepare_rows(batch: pa.Table, plan: RowPlan) -> pa.Table:
    """Identity as strings, raw feature cells, prepared images, and the reason of every refused row (null for a good one)."""
    rows = batch.num_rows
    reasons: list[str | None] = [None] * rows
    out: dict[str, pa.Array] = {}
    for name, source in (
        (ID, plan.id),
        (LABEL, plan.label),
        (GROUP, plan.group),
        (SPLIT, plan.split),
    ):
        if source is not None:
            out[name] = (
                identity_strings(batch[source]) if name != LABEL else class_names(batch[source])
            )
            if name != GROUP:
                _refuse(
                    reasons,
                    pc.is_null(out[name]),
                    f"{'id' if name == ID else name} is missing (column {source!r})",
                )
    filled = np.zeros(rows, dtype=bool)
    for name in plan.features:
        cells = flatten_array(batch[name])
        out[CELL + name] = cells
        filled |= ~as_text(cells).is_null().to_numpy(zero_copy_only=False)
    for spec, source, folder in plan.images:
        prepared = load_images(batch[source], spec, folder, reasons)
        filled |= np.array([p is not None for p in prepared])
        out[IMAGE + spec.name] = pa.array([p.data if p else None for p in prepared], pa.binary())
        out[DIGEST + spec.name] = pa.array([p.digest if p else None for p in prepared], pa.uint64())
        out[SUMS + spec.name] = pa.array([p.sums if p else None for p in prepared], PREPARED)
        out[COLOUR + spec.name] = pa.array(
            [bool(p and p.was_colour and spec.channels == 1) for p in prepared], pa.bool_()
        )
        out[DEEP + spec.name] = pa.array(
            [bool(p and p.was_deep and not spec.window) for p in prepared], pa.bool_()
        )
    _refuse(reasons, pa.array(~filled), EMPTY_ROW)
    out[REASON] = pa.array(reasons, pa.string())
    return pa.table(out)


def identity_strings(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Ids, labels, groups: strings, null where blank; words such as NA are names here."""
    array = flatten_array(array)
    if not is_text(array.type):
        return as_text(array).cast(pa.string())
    words = pc.utf8_trim_whitespace(array.cast(pa.string()))
    return pc.if_else(pc.is_in(words, value_set=pa.array(["", "nan", "NaN"])), None, words)


def class_names(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Labels: true is True, from whatever kind of table."""
    return canonical_spellings(identity_strings(array))


def _refuse(reasons: list[str | None], where: pa.Array, why: str) -> None:
    for i in np.flatnonzero(where.to_numpy(zero_copy_only=False)):
        reasons[i] = reasons[i] or why


def load_images(
    cells: pa.ChunkedArray | pa.Array,
    spec: images.ImageSpec,
    folder: str,
    reasons: list[str | None],
) -> list[Any]:
    """Prepared images, None where a record has none; writes the reasons of refused rows."""
    reader = images.ImageFolder(folder)

    def one(i: int, cell: Any) -> images.PreparedImage | None:
        try:
            data = None if reasons[i] else reader.read(cell)
            return None if data is None else images.prepare_image(data, spec)
        except images.RowRefused as refused:
            reasons[i] = f"{spec.name}: {refused}"
            return None

    if reader.remote and not pa.types.is_binary(cells.type):
        with ThreadPoolExecutor(REMOTE_THREADS) as pool:
            return list(pool.map(one, range(len(cells)), cells.to_pylist()))
    return [
        one(i, cell.as_py()) for i, cell in enumerate(cells)
    ]  # one cell at a time: photographs are large


def image_columns(prepared: pa.Table, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    return {IMAGE + name: prepared[IMAGE + name] for name in names}


def table_columns(
    cells: Mapping[str, pa.ChunkedArray | pa.Array],
    tables: Sequence[Table],
    readings: Mapping[str, str],
    unread: Counter[str] | None = None,
) -> dict[str, pa.Array]:
    """Shard columns TABLE.COLUMN of raw cells by source name; a table with none of its columns there is absent.

    unread: counts the cells of each column that hold what tells nothing, and under EMPTY_CELLS and its name those that are empty.
    """
    out = {}
    rows = len(next(iter(cells.values()))) if cells else 0
    for table in tables:
        for column in (*table.numeric, *table.categorical):
            cell = cells.get(column.name)
            reading = readings.get(column.name, "")
            found, nothing = (
                (columns.absent_column(rows, column), 0)
                if cell is None
                else columns.encode_column(cell, column, reading)
            )
            out[f"{table.name}.{column.name}"] = found
            if unread is not None and nothing:
                unread[column.name] += nothing
            if unread is not None and cell is not None:
                blank = (
                    found.null_count - nothing
                    if column in table.numeric
                    else pc.sum(pc.equal(found, -1)).as_py()
                )
                unread[EMPTY_CELLS + column.name] += blank or 0
    return out


def encode_rows(
    table: pa.Table | pd.DataFrame,
    manifest: Manifest,
    image_dirs: Mapping[str, str] | str = ".",
    first: int = 0,
    commas: bool = False,
    unread: Counter[str] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """New raw rows as shard columns (id, label, rank, image.*, TABLE.*), and the refused ones (id, reason).

    Prepared exactly as the manifest's training rows were. image_dirs: the folder of each image column's paths, or one for all. The label
    may be absent (-1, like a class never seen), and so may a whole modality. first: number of the first row, the id where no column is.
    commas: numbers may have decimal commas, though those of the training rows had none. unread: counts the cells of each column that hold
    what tells nothing, as table_columns does, and under NO_CLASS the labels that are none of the classes.
    """
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    made = manifest.prepare
    _check_columns(table, manifest)
    folders = (
        image_dirs
        if isinstance(image_dirs, Mapping)
        else {i["column"]: image_dirs for i in made["images"]}
    )
    given = {
        name: made.get(name) if made.get(name) in table.column_names else None
        for name in (ID, LABEL)
    }
    features = tuple(
        c.name
        for t in manifest.schema.tables
        for c in (*t.numeric, *t.categorical)
        if c.name in table.column_names
    )
    specs = tuple(
        (image_spec_from_dict(i), i["column"], folders.get(i["column"], "."))
        for i in made["images"]
        if i["column"] in table.column_names
    )
    prepared = prepare_rows(
        table,
        RowPlan(label=None, id=given[ID], group=None, split=None, features=features, images=specs),
    )
    ids = (
        prepared[ID]
        if given[ID]
        else pa.chunked_array(
            [pa.array([str(first + i) for i in range(table.num_rows)], pa.string())]
        )
    )
    labels = pa.array(np.full(table.num_rows, -1, dtype=np.int32))
    if given[LABEL]:
        named = class_names(table[given[LABEL]])
        found = pc.index_in(
            named,
            value_set=canonical_spellings(pa.array(manifest.schema.classes, pa.string())),
            skip_nulls=True,
        )
        labels = pc.fill_null(found, -1).cast(pa.int32())
        if unread is not None and (strange := found.null_count - named.null_count):
            unread[NO_CLASS] += strange
    out = {ID: ids, LABEL: labels, "rank": pa.array(np.zeros(table.num_rows, dtype=np.int32))}
    present = {s.name for s, _, _ in specs}
    for image in manifest.schema.images:
        out[IMAGE + image.name] = (
            prepared[IMAGE + image.name]
            if image.name in present
            else pa.nulls(table.num_rows, pa.binary())
        )
    raw = {name: prepared[CELL + name] for name in features} or {"": ids}
    readings = (dict.fromkeys(features, COMMA_READING) if commas else {}) | made.get("readings", {})
    out.update(table_columns(raw, manifest.schema.tables, readings, unread))
    good = pc.is_null(prepared[REASON])
    refused = pa.table({ID: pc.fill_null(ids, ""), REASON: prepared[REASON]}).filter(
        pc.invert(good)
    )
    return pa.table(out).filter(good), refused


def _check_columns(table: pa.Table, manifest: Manifest) -> None:
    """A whole modality may be absent; half a table is a mistake."""
    there = set(table.column_names)
    found = [i["column"] in there for i in manifest.prepare["images"]]
    for modality in manifest.schema.tables:
        names = [c.name for c in (*modality.numeric, *modality.categorical)]
        lacking = [n for n in names if n not in there]
        if lacking and len(lacking) < len(names):
            raise ValueError(
                f"the table must have all columns of {modality.name!r} or none; it lacks {', '.join(lacking)} (a column may be empty)"
            )
        found.append(not lacking)
    if not any(found):
        wanted = [i["column"] for i in manifest.prepare["images"]]
        wanted += [c.name for t in manifest.schema.tables for c in (*t.numeric, *t.categorical)]
        raise ValueError(
            f"the table must have columns of at least one modality ({', '.join(wanted)}); it has {', '.join(sorted(there))}"
        )


def image_spec_from_dict(plain: Mapping[str, Any]) -> images.ImageSpec:
    """An image specification as schema.json holds it."""
    window = plain.get("window")
    names = ("name", "height", "width", "channels", "fit", "max_pixels")
    return images.ImageSpec(
        window=tuple(window) if window else None, **{n: plain[n] for n in names}
    )
