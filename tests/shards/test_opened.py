"""Shards for users: what a folder holds, and its rows as a data frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed import Shards
from distributed.shards.layout import SPLITS
from distributed.shards.manifest import Manifest, write_manifest
from distributed.wafers.options import WaferOptions
from distributed.wafers.readings import READINGS, TOOLS
from distributed.wafers.table import WAFER_CLASSES, generate_table
from model.schema import Image, Numeric, Schema, Table
from tests.shards.small_shards import ROWS, SITES


def test_a_folder_tells_what_it_holds(wafer_shards: str) -> None:
    shards = Shards(wafer_shards)
    assert shards.path == wafer_shards
    assert shards.modalities == ("map", "table")
    assert shards.classes == tuple(sorted(WAFER_CLASSES))
    assert sum(shards.rows.values()) == 600
    assert sum(shards.counts.values()) == shards.rows["train"]
    assert shards.schema.tables[0].name == "table"
    assert repr(shards).startswith(f"Shards({wafer_shards!r}: train ")
    assert repr(shards).endswith("rows; 9 classes; map, table)")


def test_the_rows_are_those_of_the_table(wafer_shards: str) -> None:
    shards = Shards(wafer_shards)
    frame = pd.concat([shards.to_pandas(split) for split in SPLITS]).set_index("id")
    table = generate_table(WaferOptions(rows=600, imbalance=20, size=16)).set_index("id")
    table = table.loc[frame.index]
    assert set(frame) == {"label", "recipe", *READINGS, *TOOLS}
    assert frame["label"].tolist() == table["label"].tolist()
    for name in READINGS:
        assert frame[name].to_numpy() == pytest.approx(
            table[name].to_numpy(float), rel=1e-6, nan_ok=True
        )
    for name in ("recipe", *TOOLS):
        assert frame[name].isna().tolist() == table[name].isna().tolist()
        present = frame[name].notna()
        assert frame[name][present].tolist() == table[name][present].tolist()


def test_images_come_where_they_are_wanted(wafer_shards: str) -> None:
    frame = Shards(wafer_shards).to_pandas("val", images=True)
    pictures = frame["map"].dropna()
    assert len(pictures) > 0.9 * len(frame)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_an_unknown_split_is_refused(wafer_shards: str) -> None:
    with pytest.raises(ValueError, match="a split must be one of train, val, test; got 'dev'"):
        Shards(wafer_shards).to_pandas("dev")


def test_the_words_of_labels_and_categories_are_missing_where_there_are_none(shards: str) -> None:
    raw = pq.read_table(f"{shards}/val").to_pydict()
    opened = Shards(shards)
    frame = opened.to_pandas("val")
    assert list(frame) == ["id", "label", "age", "site"]
    assert frame["id"].tolist() == raw["id"]
    assert frame["label"].tolist() == ["abc"[code] for code in raw["label"]]
    named = [SITES[code] if 0 <= code < len(SITES) else None for code in raw["table.site"]]
    assert [None if pd.isna(word) else word for word in frame["site"]] == named
    assert frame["site"].cat.categories.tolist() == list(SITES)
    assert frame["age"].to_numpy() == pytest.approx(np.array(raw["table.age"], float), nan_ok=True)
    assert (opened.rows, opened.counts["a"]) == (ROWS, opened.schema.counts[0])
    assert repr(opened).endswith("train 600, val 131, test 10 rows; 3 classes; photo, xray, table)")
    assert len(opened.to_pandas()) == ROWS["train"]


def test_images_come_as_the_bytes_of_the_shards(shards: str) -> None:
    frame = Shards(shards).to_pandas("test", images=True)
    assert list(frame) == ["id", "label", "photo", "xray", "age", "site"]
    raw = pq.read_table(f"{shards}/test").to_pydict()
    assert frame["photo"].tolist() == raw["image.photo"]


def write_part(folder: Path, schema: Schema, columns: dict[str, list[object]]) -> Shards:
    """A SHARDS folder whose only rows are these of its training split."""
    (folder / "train").mkdir()
    pq.write_table(pa.table(columns), folder / "train" / "part-00000.parquet")
    rows = {"train": len(columns["id"]), "val": 0, "test": 0}
    write_manifest(Manifest(schema=schema, rows=rows), str(folder))
    return Shards(str(folder))


def test_a_name_that_two_columns_share_has_its_modality_before_it(tmp_path: Path) -> None:
    numbers = (Numeric(name="x"), Numeric(name="y"), Numeric(name="label"))
    tables = (Table(name="one", numeric=numbers), Table(name="two", numeric=numbers[:1]))
    names = ("one.x", "one.y", "one.label", "two.x")
    columns = {name: [float(place)] for place, name in enumerate(names)}
    shards = write_part(
        tmp_path, Schema(tables=tables, classes=("a",)), {"id": ["r"], "label": [0], **columns}
    )
    frame = shards.to_pandas()
    assert list(frame) == ["id", "label", "one.x", "y", "one.label", "two.x"]
    assert frame.iloc[0, 2:].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_folder_of_images_alone_has_ids_and_labels(tmp_path: Path) -> None:
    schema = Schema(images=(Image(name="photo", height=1, width=1),), classes=("a", "b"))
    columns = {"id": ["r", "s", "t"], "label": [1, -1, None], "image.photo": [b"1", None, b"2"]}
    shards = write_part(tmp_path, schema, columns)
    frame = shards.to_pandas()
    assert list(frame) == ["id", "label"]
    assert [word for word in frame["label"] if not pd.isna(word)] == ["b"]
    assert frame["label"].isna().tolist() == [False, True, True]
    with pytest.raises(ValueError) as caught:
        shards.to_pandas("val")
    assert str(caught.value) == (
        f"a split must have Parquet parts; {tmp_path} has none in val/; valid: train"
    )
