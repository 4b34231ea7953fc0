"""Reads single rows of a split again, without reading the others: for pages and explanations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from distributed.runtime.storage import filesystem
from distributed.shards.batches import BatchSource, MemorySource, StreamSource
from distributed.shards.checksums import open_part
from distributed.shards.index import SplitIndex
from distributed.shards.sampling import IntArray
from model.batch import Batch, join_batches

GROUPS_READ = 8  # row groups in memory while rows of a stream are read, at most


def read_places(source: BatchSource, places_B: IntArray, *, pixels: bool = True) -> Batch:
    """Returns single rows of a source as one batch, in the order given.

    places_B: among the rows of the source, in its order for evaluation. pixels: of every image,
    instead of what the frozen part of an encoder gave for it. A stream reads the row groups that
    hold the rows, a few at a time.
    """
    assert isinstance(source, (MemorySource, StreamSource))
    order = np.argsort(places_B, kind="stable")
    whole = source.plan.selection
    chosen = places_B[order]
    selection = dataclasses.replace(
        whole,
        rows_R=whole.rows_R[chosen],
        labels_R=whole.labels_R[chosen],
        ranks_R=whole.ranks_R[chosen],
    )
    size = len(chosen) if isinstance(source, MemorySource) else min(len(chosen), GROUPS_READ)
    plan = dataclasses.replace(
        source.plan,
        selection=selection,
        size=size,
        buffer=size,
        train=False,
        paired=False,
        rank=0,
        world=1,
    )
    changes: dict[str, Any] = {"frozen": {}} if pixels and isinstance(source, MemorySource) else {}
    read = join_batches(list(dataclasses.replace(source, plan=plan, **changes).batches(0)))
    return read.select(torch.from_numpy(np.argsort(order, kind="stable")))


def storage_rows(source: BatchSource, places_B: IntArray) -> IntArray:
    """Returns where in the split the rows of these places are stored."""
    assert isinstance(source, (MemorySource, StreamSource))
    return source.plan.selection.rows_R[places_B]


def read_columns(index: SplitIndex, rows_B: IntArray, names: Sequence[str]) -> pa.Table:
    """Returns these columns of single rows of a split, in the order given.

    Columns that the shards lack are left out. One row group is in memory at a time.
    """
    system, _ = filesystem(index.shards)
    group_B = index.row_groups(rows_B)
    pieces: list[pa.Table] = []
    order: list[IntArray] = []
    for group in np.unique(group_B):
        file = int(index.file_U[group])
        own = np.flatnonzero(group_B == group)
        with open_part(system, index.files[file], index.records[file]) as part:
            available = [name for name in names if name in part.schema_arrow.names]
            number = int(index.group_U[group])
            table = part.read_row_group(number, columns=available, use_threads=False)
        pieces.append(table.take(rows_B[own] - index.starts_U[group]))
        order.append(own)
    return pa.concat_tables(pieces).take(np.argsort(np.concatenate(order), kind="stable"))
