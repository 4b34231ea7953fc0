"""Leaves out the columns of wide tables that do not tell the classes apart (table.screen).

Legend: R rows, F columns.
"""

from __future__ import annotations

import numpy as np
import torch

from distributed.config import Config
from distributed.shards.batches import BatchSource, MemorySource
from model.encoders.table import TableEncoder
from model.learning.screening import telling_columns
from model.network import Network

LEAST_COLUMNS = 50  # of a table that is screened
ROWS_A_COLUMN = 10  # training rows from which a network learns by itself which columns matter
MOST_CELLS = 2_000_000  # that are looked at; of more rows an even share


def screen_columns(network: Network, train: BatchSource, config: Config) -> None:
    """Leaves columns out in the encoders of wide tables, by the training rows.

    Rows that do not lie in memory are too many for it to matter. All workers find the same. A table
    of which no column tells the classes apart is used as it is.
    """
    if not config.table.screen or not isinstance(train, MemorySource):
        return
    selection = train.plan.selection
    labelled_R = selection.rows_R[selection.labels_R >= 0]
    labels_R = selection.labels_R[selection.labels_R >= 0]
    for table, encoder in zip(
        network.schema.tables, network.encoders[len(network.schema.images) :]
    ):
        assert isinstance(encoder, TableEncoder)
        columns = len(table.columns)
        if columns < LEAST_COLUMNS or len(labelled_R) >= ROWS_A_COLUMN * columns:
            continue
        step = -(-len(labelled_R) * columns // MOST_CELLS)
        rows_R = labelled_R[::step]
        found_F = telling_columns(
            torch.from_numpy(train.arrays[f"numbers/{table.name}"][rows_R]),
            torch.from_numpy(train.arrays[f"categories/{table.name}"][rows_R].astype(np.int64)),
            torch.from_numpy(labels_R[::step]),
            config.table.screen,
        )
        if found_F.any():
            encoder.use_columns(found_F)


def screening_note(network: Network) -> str:
    """Returns how many columns are used of the tables that were screened."""
    notes = []
    for table, encoder in zip(
        network.schema.tables, network.encoders[len(network.schema.images) :]
    ):
        assert isinstance(encoder, TableEncoder)
        used = int((encoder.used_F > 0).sum())
        if used < len(encoder.used_F):
            notes.append(
                f"{table.name}: {used} of {len(encoder.used_F)} columns are used, those that tell "
                "the classes of the training rows apart (table.screen)"
            )
    return "; ".join(notes)
