"""What an ingest tells its user: columns, classes, splits, refused rows, notes and warnings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from distributed.raw.columns import ColumnDecision
from distributed.raw.images import ImageSpec
from distributed.raw.rows import GROUP
from distributed.shards.layout import REFUSED_SPLIT, SPLITS, TEST, TRAIN, VAL
from distributed.shards.manifest import Manifest
from distributed.shards.sampling import IntArray
from model.schema import join_names

WHY_A_SPLIT_LACKS_CLASSES = (
    "a group's rows stay together, and a class of few rows fills train first: "
    "see --group, --split and --split-column"
)
PLAIN_WIDTH = 140  # of the table where the output is no terminal
MAX_REASONS = 10
# What training may do by data.flip=auto, for people.
FLIPS = {
    "none": "not flipped",
    "horizontal": "flipped left to right",
    "both": "flipped both ways",
}


@dataclass(frozen=True)
class IdentityColumn:
    """A column that is no feature: the label, the ids, the groups or a given split of all rows."""

    name: str
    use: str
    missing: float
    distinct: int


def count_reasons(reasons: Iterable[str]) -> Counter[str]:
    """Counts reasons by their words, without the values in them."""
    return Counter(re.sub(r"'[^']*'|\d+(?:,\d{3})*", "…", reason) for reason in reasons)


class IngestReport:
    """Collects what the user should know during an ingest, and prints it at the end.

    schema.json keeps the notes and warnings too.

    stay_dropped: columns that an earlier attempt dropped. Some of the rows that it decided by are
    refused by now.
    """

    def __init__(self, stay_dropped: Sequence[ColumnDecision] = ()) -> None:
        self.stay_dropped = {d.name: d for d in stay_dropped if d.column is None}
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.decisions: list[ColumnDecision] = []
        self.identities: list[IdentityColumn] = []
        self.images: list[tuple[ImageSpec, int]] = []
        self.reasons: Counter[str] = Counter()
        self.totals_CS: IntArray = np.zeros((0, len(SPLITS)), dtype=np.int64)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def warn(self, line: str) -> None:
        """Adds a warning; an empty one is none."""
        if line:
            self.warnings.append(line)

    def add_refused(self, reasons: Sequence[str | None]) -> None:
        """Adds the reasons of the refused rows. reasons: of all rows, None for a good one."""
        self.reasons += count_reasons(reason for reason in reasons if reason is not None)
        refused, rows = self.reasons.total(), len(reasons)
        if refused > rows / 2:
            self.warn(f"{refused} of {rows} rows were refused: more than half")

    def add_classes(self, names: Sequence[str], labels: IntArray, split: IntArray) -> None:
        """Counts the rows of every class and split, and tells which classes a split lacks."""
        kept = split != REFUSED_SPLIT
        self.totals_CS = np.zeros((len(names), len(SPLITS)), dtype=np.int64)
        np.add.at(self.totals_CS, (labels[kept], split[kept]), 1)
        single = [name for name, total in zip(names, self.totals_CS.sum(1)) if total == 1]
        if single:
            where = "train" if self.totals_CS[:, TRAIN].all() else "one split"
            self.note(f"classes with one row, which is in {where}: {join_names(single)}")
        for place, split_name in enumerate(SPLITS):
            rows_C = self.totals_CS[:, place]
            absent = [name for name, rows in zip(names, rows_C) if not rows]
            if not rows_C.any() and place == TEST:
                self.note("no row is in test")
            elif not rows_C.any():
                self.warn(
                    f"no row is in {split_name}, without which nothing can be trained; "
                    f"{WHY_A_SPLIT_LACKS_CLASSES}"
                )
            elif absent:
                line = f"classes without {split_name} rows: {join_names(absent)}"
                most_are_absent = place == VAL and len(absent) > len(names) / 2
                if place == TRAIN or most_are_absent:
                    self.warn(line)
                else:
                    self.note(line)

    def add_column(self, decision: ColumnDecision) -> None:
        self.decisions.append(decision)
        if decision.note:
            dropped = "dropped, " if decision.column is None else ""
            self.note(f"{decision.name}: {dropped}{decision.note}")
        self.warn(decision.warning)

    def add_image(self, spec: ImageSpec, rows: int) -> None:
        """Adds an image modality. rows: the training rows that have an image."""
        self.images.append((spec, rows))

    def dropped(self) -> dict[str, str]:
        """Returns the dropped columns with the reasons."""
        return {d.name: d.note for d in self.decisions if d.column is None}

    def readings(self) -> dict[str, str]:
        """Returns how the text of a numeric column is read, where it is not plain numbers."""
        return {d.name: d.reading for d in self.decisions if d.reading}

    def why_dropped(self) -> str:
        """Returns why columns were dropped, for the error message when no column is left."""
        reasons = [f"{name}: {reason}" for name, reason in self.dropped().items()]
        return "; ".join(reasons[:5]) or "there was none"

    def show(self, manifest: Manifest, out: str) -> None:
        """Prints the summary on stdout."""
        # Column names and values are the users' own: brackets and colons in them are no markup.
        console = Console(markup=False, emoji=False, highlight=False)
        if not console.is_terminal:
            console.width = PLAIN_WIDTH
        console.print(self._column_table(manifest))
        self._print_classes(manifest)
        for line in self.notes:
            console.print(f"note: {line}")
        for line in self.warnings:
            console.print(f"warning: {line}", style="yellow")
        console.print(f"shards: {out}")

    def _column_table(self, manifest: Manifest) -> Table:
        table = Table(title="columns", title_justify="left")
        for heading in ("name", "type", "missing", "distinct", "note"):
            justify = "right" if heading in ("missing", "distinct") else "left"
            table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
        flips = {image.name: FLIPS[image.flips] for image in manifest.schema.images}
        for spec, rows in self.images:
            missing = 1 - rows / max(1, manifest.rows["train"])
            colour = "grey" if spec.channels == 1 else "RGB"
            note = f"{spec.height}x{spec.width}, {colour}, {spec.fit}, {flips[spec.name]}"
            table.add_row(spec.name, "image", f"{missing:.1%}", "", note)
        for column in self.identities:
            note = "its rows stay in one split" if column.use == GROUP else ""
            table.add_row(
                column.name, column.use, f"{column.missing:.1%}", f"{column.distinct:,}", note
            )
        for d in self.decisions:
            distinct = f"{d.distinct:,}" if d.distinct else ""
            table.add_row(d.name, d.kind, f"{d.missing:.1%}", distinct, d.note)
        return table

    def _print_classes(self, manifest: Manifest) -> None:
        totals_C = self.totals_CS.sum(axis=1)
        names = manifest.schema.classes
        by_size = np.argsort(-totals_C, kind="stable")
        largest, smallest = by_size[0], by_size[-1]
        ratio = totals_C[largest] / max(1, totals_C[smallest])
        print(
            f"classes: {len(names)}; largest {names[largest]} {totals_C[largest]:,}, "
            f"smallest {names[smallest]} {totals_C[smallest]:,}, imbalance {ratio:.1f}"
        )
        print("splits: " + ", ".join(f"{split} {rows:,}" for split, rows in manifest.rows.items()))
        refused = self.reasons.total()
        print(f"refused: {refused:,}" + (" (see rejected.parquet)" if refused else ""))
        for reason, count in self.reasons.most_common(MAX_REASONS):
            print(f"  {count:,} x {reason}")
