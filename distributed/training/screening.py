"""Leaves out the columns of wide tables that do not tell the classes apart (table.screen).

Legend: R rows, N numeric columns, K categorical columns, F both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from distributed.config import Config
from distributed.shards.batches import BatchSource, MemorySource, StreamSource
from distributed.shards.decode import Arrays
from distributed.shards.folds import stored_rows
from distributed.shards.memory import load_arrays
from model.encoders.table import TableEncoder
from model.learning.screening import telling_columns
from model.network import Network
from model.schema import Table

LEAST_COLUMNS = 50  # of a table that is screened
# From so many training rows on, in all or for each column, a network learns which columns matter.
MOST_ROWS, ROWS_A_COLUMN = 20_000, 10


def screen_columns(network: Network, train: BatchSource, shards: str, config: Config) -> None:
    """Leaves columns out in the encoders of wide tables, by the training rows.

    All workers find the same. A table of which no column tells the classes apart is used as it is.
    The tables of rows that are streamed are read once for it, without what data.corrupt changes.
    """
    assert isinstance(train, (MemorySource, StreamSource))
    selection = train.plan.selection
    is_labelled_R = selection.labels_R >= 0
    rows_R, labels_R = selection.rows_R[is_labelled_R], selection.labels_R[is_labelled_R]
    wide = [
        (table, encoder)
        for table, encoder in table_encoders(network)
        if len(table.columns) >= LEAST_COLUMNS
        and len(rows_R) < min(MOST_ROWS, ROWS_A_COLUMN * len(table.columns))
    ]
    if not config.table.screen or not wide:
        return
    if isinstance(train, MemorySource):
        arrays, modalities = train.arrays, train.schema.modalities
    else:
        tables = dataclasses.replace(train.schema, images=())
        arrays = load_arrays(shards, stored_rows("train", config), tables)
        modalities = tables.modalities
    for table, encoder in wide:
        present_R = arrays["present"][rows_R, modalities.index(table.name)]
        numbers_RN, ids_RK = _cells(arrays, table, rows_R)
        numbers_RN[~present_R], ids_RK[~present_R] = torch.nan, -1
        found_F = telling_columns(
            numbers_RN, ids_RK, torch.from_numpy(labels_R), config.table.screen
        )
        if found_F.any():
            encoder.use_columns(found_F)


def screening_note(network: Network) -> str:
    """Returns how many columns are used of the tables of which some are left out."""
    notes = []
    for table, encoder in table_encoders(network):
        used = int((encoder.used_F > 0).sum())
        if used < len(encoder.used_F):
            notes.append(
                f"{table.name}: {used} of {len(encoder.used_F)} columns are used, those that tell "
                "the classes of the training rows apart (table.screen)"
            )
    return "; ".join(notes)


def table_encoders(network: Network) -> Iterator[tuple[Table, TableEncoder]]:
    """Yields every table with its encoder."""
    encoders = network.encoders[len(network.schema.images) :]
    for table, encoder in zip(network.schema.tables, encoders, strict=True):
        assert isinstance(encoder, TableEncoder)
        yield table, encoder


def _cells(
    arrays: Arrays, table: Table, rows_R: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns copies of the numbers and of the ids of the categories of some rows."""
    numbers_RN = arrays[f"numbers/{table.name}"][rows_R]
    ids_RK = arrays[f"categories/{table.name}"][rows_R].astype(np.int64)
    return torch.from_numpy(numbers_RN), torch.from_numpy(ids_RK)
