"""Opens Parquet files, which may come from anyone: none of them runs code."""

from __future__ import annotations

import base64
from typing import Any

import pyarrow.parquet as pq

# Column types whose values are pickled Python objects. Where Ray Data is loaded, it unpickles them
# as they are read.
PICKLED = (b"ray.data.arrow_pickled_object", b"arrow.py_extension_type")


def open_parquet(source: Any, **options: Any) -> pq.ParquetFile:  # pyarrow has no types
    """Opens a Parquet file; raises ValueError where a column holds pickled Python objects.

    source: an open file. options: of pyarrow's ParquetFile.
    """
    file = pq.ParquetFile(source, **options)
    schema = base64.b64decode((file.metadata.metadata or {}).get(b"ARROW:schema", b""))
    if any(name in schema for name in PICKLED):
        raise ValueError(
            "a Parquet file must hold plain values; got one with a column of pickled Python"
            " objects, which can run code when they are read: write it anew without"
        )
    return file
