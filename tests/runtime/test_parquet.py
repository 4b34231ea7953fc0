"""Parquet files of anyone: plain values are read, pickled objects are refused unread."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.runtime.parquet import open_parquet


def test_plain_values_are_read_with_the_options_of_pyarrow(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    for name, store_schema in (("with", True), ("without", False)):
        pq.write_table(table, tmp_path / name, store_schema=store_schema)
        with open(tmp_path / name, "rb") as source:
            assert open_parquet(source, pre_buffer=True).read() == table


@pytest.mark.parametrize("name", ["ray.data.arrow_pickled_object", "arrow.py_extension_type"])
def test_columns_of_pickled_objects_are_refused(tmp_path: Path, name: str) -> None:
    field = pa.field("a", pa.binary(), metadata={"ARROW:extension:name": name})
    pq.write_table(pa.table([pa.array([b"x"])], pa.schema([field])), tmp_path / "file")
    with (
        open(tmp_path / "file", "rb") as source,
        pytest.raises(
            ValueError, match="^a Parquet file must hold plain values; got one with a co"
        ),
    ):
        open_parquet(source)
