"""Picks rows of a split for a page: the worst mistakes, the most uncertain, the least familiar.

Legend: N rows, B picked rows, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distributed.reporting.cards import (
    Card,
    Gallery,
)
from distributed.shards.sampling import IntArray
from distributed.training.pages.record_cards import card_maker, read_records
from distributed.training.pages.splits import Decider, PageSplit
from model.classifier import Classifier

PICKED = 8  # rows of a gallery
OF_A_CLASS = 2  # of these at most, while other classes have any
CANDIDATES = 512  # rows that are ranked for it


@dataclass(frozen=True)
class Picks:
    """Rows of a split for one gallery, by place. title: of the section."""

    title: str
    caption: str
    places: list[int]


def pick_rows(split: PageSplit) -> list[Picks]:
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
    split: PageSplit, network: Classifier, decider: Decider, seconds: float
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


def make_cards(
    split: PageSplit,
    rows_B: IntArray,
    network: Classifier,
    decider: Decider,
    seconds: float,
) -> list[Card]:
    """Returns a card for each of these rows of the scores."""
    assert split.source is not None
    chosen_B = torch.from_numpy(rows_B)
    records = read_records(
        split.shards, split.name, split.source, split.scores.places_N[chosen_B].numpy(), network
    )
    probabilities_BC = split.probabilities_NC[chosen_B]
    return card_maker(
        records, network, decider, probabilities_BC, split.decisions_N[chosen_B], seconds
    ).cards()
