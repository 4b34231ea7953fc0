"""Shards for users: what a folder holds, and its rows as a data frame."""

from __future__ import annotations

import pandas as pd
import pytest

from distributed import Shards
from distributed.shards.layout import SPLITS
from distributed.wafers.options import WaferOptions
from distributed.wafers.readings import READINGS, TOOLS
from distributed.wafers.table import WAFER_CLASSES, generate_table


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
