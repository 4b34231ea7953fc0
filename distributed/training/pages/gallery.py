"""Picks rows of a split for a page, reads them again, and shows each as a card.

Legend: N rows, B picked rows, M modalities, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distributed.reporting.cards import (
    Answer,
    Card,
    Gallery,
    Picture,
    RowCell,
    Voice,
    picture_source,
)
from distributed.reporting.tables import format_number
from distributed.shards.index import read_index
from distributed.shards.single_rows import read_columns, read_places, storage_rows
from distributed.training.pages.splits import Decider, ScoredSplit
from model.batch import Batch
from model.explaining.occlusion import GRID, Contributions, explain
from model.learning.losses import mean_over_folds
from model.network import Network
from model.outputs import Outputs
from model.schema import Categorical, Numeric, Table

PICKED = 8  # rows of a gallery
OF_A_CLASS = 2  # of these at most, while other classes have any
CANDIDATES = 512  # rows that are ranked for it
ANSWERS = 3  # classes that a card names
FIRST_PASS = 0.1  # seconds that the first pass of a new shape takes longer
CELLS = 8  # table cells that a card shows
FILE = "file."  # before the name of an image modality: the column of its file names in the shards


@dataclass(frozen=True)
class Picks:
    """Rows of a split for one gallery, by place. title: of the section."""

    title: str
    caption: str
    places: list[int]


def pick_rows(split: ScoredSplit) -> list[Picks]:
    """Returns the worst mistakes, the most uncertain rows and the least familiar ones."""
    probabilities_NC, labels_N = split.probabilities_NC, split.scores.labels_N
    said_N = probabilities_NC.gather(1, split.decisions_N[:, None])[:, 0]
    true_N = probabilities_NC.gather(1, labels_N.clamp_min(0)[:, None])[:, 0]
    wrong_N = (labels_N >= 0) & (split.decisions_N != labels_N)
    entropy_N = torch.special.entr(probabilities_NC).sum(1)
    distance_N = split.scores.distance_NM.nan_to_num(nan=-math.inf).amax(1)
    return [
        Picks(
            "Worst mistakes",
            f"Rows of {split.title} that were decided wrongly with the most certainty, at most "
            f"{OF_A_CLASS} of a true class while there are others.",
            _top(torch.where(wrong_N, said_N - true_N, -math.inf), labels_N),
        ),
        Picks(
            "Most uncertain",
            f"Rows of {split.title} whose probabilities are spread over the most classes.",
            _top(entropy_N, None),
        ),
        Picks(
            "Least familiar",
            f"Rows of {split.title} with a modality farthest from the training rows, as a share of "
            "the distance from which on it counts as unlike training.",
            _top(distance_N, None),
        ),
    ]


def _top(values_N: Tensor, classes_N: Tensor | None) -> list[int]:
    """Returns the places of the largest finite values, at most OF_A_CLASS of a class first."""
    top = values_N.topk(min(CANDIDATES, len(values_N)))
    places = [int(n) for n, value in zip(top.indices, top.values) if math.isfinite(value)]
    if classes_N is None:
        return places[:PICKED]
    first: list[int] = []
    rest: list[int] = []
    taken: dict[int, int] = {}
    for place in places:
        label = int(classes_N[place])
        taken[label] = taken.get(label, 0) + 1
        (first if taken[label] <= OF_A_CLASS else rest).append(place)
    return [*first, *rest][:PICKED]


def build_galleries(
    split: ScoredSplit, network: Network, decider: Decider, seconds: float
) -> list[tuple[str, Gallery]]:
    """Returns the galleries of a split with their titles; those without any row are left out.

    seconds: how long the explanations may take; patches are coarser or left out where they would
    take longer.
    """
    picks = [picked for picked in pick_rows(split) if picked.places]
    # The place in the source: the workers of a run have gathered the rows in another order.
    wanted = np.array([place for picked in picks for place in picked.places], dtype=np.int64)
    if not len(wanted):
        return []
    rows, inverse = np.unique(wanted, return_inverse=True)
    cards = make_cards(split, rows, network, decider, seconds)
    shown = [cards[k] for k in inverse]
    galleries = []
    for picked in picks:
        galleries.append(
            (picked.title, Gallery(cards=shown[: len(picked.places)], caption=picked.caption))
        )
        shown = shown[len(picked.places) :]
    return galleries


@torch.inference_mode()
def make_cards(
    split: ScoredSplit,
    rows_B: np.ndarray[tuple[int], np.dtype[np.int64]],
    network: Network,
    decider: Decider,
    seconds: float,
) -> list[Card]:
    """Returns a card for each of these rows of the scores."""
    assert split.source is not None
    places_B = split.scores.places_N[torch.from_numpy(rows_B)].numpy()
    batch = read_places(split.source, places_B)
    names = ["id", *(FILE + image.name for image in network.schema.images)]
    index = read_index(split.shards, split.name)
    identity = read_columns(index, storage_rows(split.source, places_B), names).to_pydict()
    device = network.counts_C.device
    on_device = batch.to(device)

    def posterior(outputs: Outputs) -> Tensor:
        return decider.probabilities(outputs.logits_BEC.float().cpu())

    network.eval()
    started = time.process_time()
    outputs = network(on_device)
    grid = affordable_grid(time.process_time() - started, seconds)
    decided_B = split.decisions_N[torch.from_numpy(rows_B)].to(device)
    contributions = explain(network, on_device, posterior, decided_B, grid=grid)
    maker = CardMaker(network, batch, outputs, posterior(outputs), contributions, identity)
    return [maker.card(b) for b in range(len(batch))]


def affordable_grid(seconds_a_pass: float, seconds: float) -> int:
    """Returns how many patches a side can be left out one by one in this time; 0: none.

    seconds_a_pass: of the processor, for all rows once.
    """
    seconds_a_pass = max(0.0, seconds_a_pass - FIRST_PASS)
    return next((g for g in range(GRID, 2, -1) if g * g * seconds_a_pass <= seconds), 0)


@dataclass
class CardMaker:
    """Makes the cards of a batch."""

    network: Network
    batch: Batch
    outputs: Outputs
    probabilities_BC: Tensor
    contributions: Contributions
    identity: dict[str, list[str | None]]

    def card(self, b: int) -> Card:
        """Returns the card of one row."""
        classes = self.network.schema.classes
        label, decided = int(self.batch.labels_B[b]), int(self.contributions.classes_B[b])
        outcome = f"said {classes[decided]}"
        if label >= 0:
            right = "right" if label == decided else "wrong"
            outcome = f"true {classes[label]}, said {classes[decided]}: {right}"
        top = self.probabilities_BC[b].topk(min(ANSWERS, len(classes)))
        files = [str(v[b]) for k, v in self.identity.items() if k.startswith(FILE) and v[b]]
        return Card(
            title=", ".join([str(self.identity["id"][b]), *files]),
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
        alone_MC = mean_over_folds(self.outputs.auxiliary_BMFC)[b].float().softmax(-1).cpu()
        voices = []
        for m, modality in enumerate(schema.modalities):
            if not self.batch.present_BM[b, m]:
                voices.append(Voice(modality, "", None, None, "absent"))
                continue
            probability, c = alone_MC[m].max(0)
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
