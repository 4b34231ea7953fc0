"""Counts over predicted rows, which add up over batches, tasks and processes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

from model.fusion.cross_modal import CrossModalStats

Number = TypeVar("Number", int, float)
Confusion = Counter[tuple[int, int]]  # rows by true class and decided class


class PlainTotals(TypedDict):
    """PredictionTotals as JSON can hold them."""

    rows: int
    predicted: int
    abstained: int
    class_rows: list[int]
    weight_sums: list[float]
    unfamiliar_rows: list[int]
    rows_without_familiar: int
    agreement: dict[str, list[float]] | None
    refused: dict[str, int]
    unread: dict[str, int]
    blank: int
    label_rows: list[int]
    confusion: list[tuple[int, int, int]]
    set_rows: list[int]
    set_hits: list[int]
    set_sizes: list[int]
    costs: list[float]


@dataclass
class PredictionTotals:
    """Counts over the rows of some batches; the totals of several parts can be added."""

    rows: int = 0
    predicted: int = 0
    abstained: int = 0
    class_rows: list[int] = field(default_factory=list)  # rows predicted as each class
    weight_sums: list[float] = field(default_factory=list)  # of the fusion weights
    # Rows in which a modality is unlike anything in training, for each modality.
    unfamiliar_rows: list[int] = field(default_factory=list)
    rows_without_familiar: int = 0  # rows in which that holds for every present modality
    # Of the modalities with each other, over predicted rows.
    agreement: CrossModalStats | None = None
    refused: Counter[str] = field(default_factory=Counter)  # refused rows by kind of reason
    # Cells of each table column that hold something the model cannot use.
    unread: Counter[str] = field(default_factory=Counter)
    blank: int = 0  # predicted rows without any modality
    label_rows: list[int] = field(default_factory=list)  # predicted rows with the label, by class
    confusion: Confusion = field(default_factory=Counter)  # of labelled rows that have a class
    set_rows: list[int] = field(default_factory=list)  # rows by the size of their prediction set
    # Of labelled rows of each class: those whose set holds the label, and the sizes of the sets.
    set_hits: list[int] = field(default_factory=list)
    set_sizes: list[int] = field(default_factory=list)
    # Over labelled rows: the costs of the decisions, and of the most probable classes.
    costs: list[float] = field(default_factory=list)

    def add(self, other: PredictionTotals) -> None:
        """Adds the counts of further rows."""
        self.rows += other.rows
        self.predicted += other.predicted
        self.abstained += other.abstained
        self.class_rows = _sum_lists(self.class_rows, other.class_rows)
        self.weight_sums = _sum_lists(self.weight_sums, other.weight_sums)
        self.unfamiliar_rows = _sum_lists(self.unfamiliar_rows, other.unfamiliar_rows)
        self.rows_without_familiar += other.rows_without_familiar
        if self.agreement and other.agreement:
            self.agreement = self.agreement + other.agreement
        else:
            self.agreement = self.agreement or other.agreement
        self.refused += other.refused
        self.unread += other.unread
        self.blank += other.blank
        self.label_rows = _sum_lists(self.label_rows, other.label_rows)
        self.confusion += other.confusion
        self.set_rows = _sum_lists(self.set_rows, other.set_rows)
        self.set_hits = _sum_lists(self.set_hits, other.set_hits)
        self.set_sizes = _sum_lists(self.set_sizes, other.set_sizes)
        self.costs = _sum_lists(self.costs, other.costs)

    def to_plain(self) -> PlainTotals:
        """Returns the totals as JSON can hold them."""
        agreement = None
        if self.agreement:
            sums = self.agreement.state_dict()
            agreement = {name: tensor.tolist() for name, tensor in sums.items()}
        return PlainTotals(
            rows=self.rows,
            predicted=self.predicted,
            abstained=self.abstained,
            class_rows=self.class_rows,
            weight_sums=self.weight_sums,
            unfamiliar_rows=self.unfamiliar_rows,
            rows_without_familiar=self.rows_without_familiar,
            agreement=agreement,
            refused=dict(self.refused),
            unread=dict(self.unread),
            blank=self.blank,
            label_rows=self.label_rows,
            confusion=[(true, decided, n) for (true, decided), n in self.confusion.items()],
            set_rows=self.set_rows,
            set_hits=self.set_hits,
            set_sizes=self.set_sizes,
            costs=self.costs,
        )

    @classmethod
    def from_plain(cls, plain: PlainTotals) -> PredictionTotals:
        """Returns the totals that to_plain wrote, also after JSON made lists of its tuples."""
        sums = plain["agreement"]
        return cls(
            rows=plain["rows"],
            predicted=plain["predicted"],
            abstained=plain["abstained"],
            class_rows=plain["class_rows"],
            weight_sums=plain["weight_sums"],
            unfamiliar_rows=plain["unfamiliar_rows"],
            rows_without_familiar=plain["rows_without_familiar"],
            agreement=CrossModalStats.from_state_dict(sums) if sums else None,
            refused=Counter(plain["refused"]),
            unread=Counter(plain["unread"]),
            blank=plain["blank"],
            label_rows=plain["label_rows"],
            confusion=Counter({(true, decided): n for true, decided, n in plain["confusion"]}),
            set_rows=plain["set_rows"],
            set_hits=plain["set_hits"],
            set_sizes=plain["set_sizes"],
            costs=plain["costs"],
        )


def _sum_lists(first: Sequence[Number], second: Sequence[Number]) -> list[Number]:
    """Element-wise sums; before the first batch a list is empty."""
    return [a + b for a, b in itertools.zip_longest(first, second, fillvalue=0)]
