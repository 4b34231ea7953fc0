"""Rows of a split as cards: read again, with what each modality said and each part contributed.

Legend: B rows, M modalities, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.raw.rows import FILE
from distributed.reporting.cards import (
    Answer,
    Card,
    Picture,
    RowCell,
    Voice,
    picture_source,
)
from distributed.reporting.tables import format_number
from distributed.shards.batches import BatchSource
from distributed.shards.index import read_index
from distributed.shards.sampling import IntArray
from distributed.shards.single_rows import read_columns, read_places, storage_rows
from distributed.training.pages.splits import Decider
from model.batch import Batch
from model.classifier import Classifier
from model.explaining.occlusion import GRID, Contributions, explain
from model.fusion.confidence import held_out_logits
from model.learning.losses import mean_over_folds
from model.outputs import Outputs
from model.schema import Categorical, Numeric, Table

ANSWERS = 3  # classes that a card names
FIRST_PASS = 0.1  # seconds that the first pass of a new shape takes longer
CELLS = 8  # table cells that a card shows


@dataclass(frozen=True)
class Records:
    """Rows of a split, read again. identity: ids and file names by column."""

    batch: Batch
    identity: dict[str, list[str | None]]

    def title(self, b: int) -> str:
        """The id of a row and the file names of its pictures."""
        files = [str(v[b]) for k, v in self.identity.items() if k.startswith(FILE) and v[b]]
        return ", ".join([str(self.identity["id"][b]), *files])


def read_records(
    shards: str, split: str, source: BatchSource, places_B: IntArray, network: Classifier
) -> Records:
    """Returns the rows of these places of a source, with their pixels."""
    names = ["id", *(FILE + image.name for image in network.schema.images)]
    rows_B = storage_rows(source, places_B)
    identity = read_columns(read_index(shards, split), rows_B, names).to_pydict()
    return Records(read_places(source, places_B), identity)


@torch.inference_mode()
def card_maker(
    records: Records,
    network: Classifier,
    decider: Decider,
    probabilities_BC: Tensor,
    said_B: Tensor,
    seconds: float,
    *,
    cross_fitted: bool = False,
) -> CardMaker:
    """Returns what makes the cards of some rows.

    probabilities_BC: the answers on the cards. said_B: the class that is explained.
    cross_fitted: the rows are training rows, for which a modality speaks by the classifier that
        has not learned from them.
    """
    device = network.counts_C.device
    on_device = records.batch.to(device)

    def posterior(outputs: Outputs) -> Tensor:
        return decider.probabilities(outputs.logits_BEC.float().cpu())

    network.eval()
    started = time.process_time()
    outputs = network(on_device)
    grid = affordable_grid(time.process_time() - started, seconds)
    contributions = explain(network, on_device, posterior, said_B.to(device), grid=grid)
    alone_BMC = mean_over_folds(outputs.auxiliary_BMFC)
    if cross_fitted:
        alone_BMC = held_out_logits(outputs.auxiliary_BMFC, on_device.ranks_B)
    alone_BMC = alone_BMC.float().softmax(-1).cpu()
    return CardMaker(network, records, outputs, alone_BMC, probabilities_BC, contributions)


def affordable_grid(seconds_a_pass: float, seconds: float) -> int:
    """Returns how many patches a side can be left out one by one in this time; 0: none.

    seconds_a_pass: of the processor, for all rows once.
    """
    seconds_a_pass = max(0.0, seconds_a_pass - FIRST_PASS)
    return next((g for g in range(GRID, 2, -1) if g * g * seconds_a_pass <= seconds), 0)


@dataclass
class CardMaker:
    """Makes the cards of a batch."""

    network: Classifier
    records: Records
    outputs: Outputs
    alone_BMC: Tensor
    probabilities_BC: Tensor
    contributions: Contributions

    @property
    def batch(self) -> Batch:
        return self.records.batch

    def cards(self) -> list[Card]:
        """Returns the cards of all rows."""
        return [self.card(b) for b in range(len(self.batch))]

    def card(self, b: int) -> Card:
        """Returns the card of one row."""
        classes = self.network.schema.classes
        label, decided = int(self.batch.labels_B[b]), int(self.contributions.classes_B[b])
        outcome = f"said {classes[decided]}"
        if label >= 0:
            right = "right" if label == decided else "wrong"
            outcome = f"true {classes[label]}, said {classes[decided]}: {right}"
        top = self.probabilities_BC[b].topk(min(ANSWERS, len(classes)))
        return Card(
            title=self.records.title(b),
            outcome=outcome,
            pictures=self._pictures(b),
            answers=[
                Answer(classes[c], float(p), c == label)
                for c, p in zip(top.indices.tolist(), top.values)
            ],
            voices=self._voices(b),
            cells=self._cells(b),
        )

    def _pictures(self, b: int) -> list[Picture]:
        pictures = []
        for m, image in enumerate(self.network.schema.images):
            if not self.batch.present_BM[b, m]:
                continue
            patches_BGG = self.contributions.patches.get(image.name)
            pictures.append(
                Picture(
                    name=image.name,
                    source=picture_source(self.batch.images[image.name][b].numpy()),
                    patches=[] if patches_BGG is None else patches_BGG[b].tolist(),
                )
            )
        return pictures

    def _voices(self, b: int) -> list[Voice]:
        """What each modality says alone, when all classes count alike, and its fusion weight."""
        schema = self.network.schema
        voices = []
        for m, modality in enumerate(schema.modalities):
            if not self.batch.present_BM[b, m]:
                voices.append(Voice(modality, "", None, None, "absent"))
                continue
            probability, c = self.alone_BMC[b, m].max(0)
            weight = float(self.outputs.weights_BM[b, m])
            is_unlike = bool(self.outputs.unfamiliar_BM[b, m])
            said = schema.classes[int(c)]
            note = f"{said} (unlike training)" if is_unlike else ""
            voices.append(Voice(modality, said, float(probability), weight, note))
        return voices

    def _cells(self, b: int) -> list[RowCell]:
        """The cells that contribute most."""
        images = len(self.network.schema.images)
        cells = [
            cell
            for m, table in enumerate(self.network.schema.tables, images)
            if self.batch.present_BM[b, m]
            for cell in self._table_cells(b, table)
        ]
        return sorted(cells, key=lambda cell: -abs(cell.contribution or 0.0))[:CELLS]

    def _table_cells(self, b: int, table: Table) -> list[RowCell]:
        values = [
            *self.batch.numbers[table.name][b].tolist(),
            *self.batch.categories[table.name][b].tolist(),
        ]
        shares = self.contributions.columns[table.name][b].tolist()
        return [
            RowCell(column.name, cell_text(column, value), None if math.isnan(share) else share)
            for column, value, share in zip(table.columns, values, shares, strict=True)
        ]


def cell_text(column: Numeric | Categorical, value: float) -> str:
    """Returns what a cell holds as the reader knows it."""
    if isinstance(column, Numeric):
        return "missing" if math.isnan(value) else format_number(value)
    if value < 0:
        return "missing"
    vocabulary: Sequence[str] = column.vocabulary
    return vocabulary[int(value)] if value < len(vocabulary) else "not in training"
