"""What an ingest tells its user: columns, classes, splits, refused rows, notes and warnings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from distributed.raw.columns import ColumnDecision
from distributed.raw.images import ImageSpec
from distributed.shards.layout import REFUSED_SPLIT, SPLITS, TRAIN
from distributed.shards.manifest import Manifest
from model.schema import join_names

UNDIVIDED = "a group's rows stay together, and a class of few rows fills train first: see --group, --split and --split-column"


def count_reasons(reasons: Iterable[str]) -> Counter[str]:
    """Reasons counted by their words, without the values in them."""
    return Counter(re.sub(r"'[^']*'|\d+", "…", reason) for reason in reasons)


class IngestReport:
    """Collects during the ingest, prints at its end. notes and warnings are kept in schema.json too."""

    def __init__(self, stay_dropped: Sequence[ColumnDecision] = ()) -> None:
        self.stay_dropped = {
            d.name: d for d in stay_dropped if d.column is None
        }  # decided over rows some of which are refused by now
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.decisions: list[ColumnDecision] = []
        self.images: list[tuple[ImageSpec, int]] = []
        self.reasons: Counter[str] = Counter()
        self.totals = np.zeros((0, 3), dtype=np.int64)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def refused(self, reasons: Sequence[str | None], rows: int) -> None:
        self.reasons += count_reasons(reason for reason in reasons if reason is not None)
        n = self.reasons.total()
        if n > rows / 2:
            self.warn(f"{n} of {rows} rows were refused: more than half")

    def classes(self, names: Sequence[str], codes: np.ndarray, split: np.ndarray) -> None:
        """Rows of every class and split; classes that a split lacks."""
        kept = split != REFUSED_SPLIT
        self.totals = np.zeros((len(names), 3), dtype=np.int64)
        np.add.at(self.totals, (codes[kept], split[kept]), 1)
        lone = [n for n, row in zip(names, self.totals) if row.sum() == 1]
        if lone:
            self.note(
                f"classes with one row, which is in {'train' if self.totals[:, TRAIN].all() else 'one split'}: {join_names(lone)}"
            )
        for place, where in enumerate(SPLITS):
            if not self.totals[:, place].any():
                if where == "test":
                    self.note("no row is in test")
                else:
                    self.warn(
                        f"no row is in {where}, without which nothing can be trained; {UNDIVIDED}"
                    )
                continue
            absent = [n for n, row in zip(names, self.totals) if not row[place]]
            if absent:
                grave = place == TRAIN or (where == "val" and len(absent) > len(names) / 2)
                (self.warn if grave else self.note)(
                    f"classes without {where} rows: {join_names(absent)}"
                )

    def column(self, decision: ColumnDecision) -> None:
        self.decisions.append(decision)
        if decision.note:
            self.note(
                f"{decision.name}: {'dropped, ' if decision.column is None else ''}{decision.note}"
            )
        if decision.warning:
            self.warn(decision.warning)

    def image(self, spec: ImageSpec, rows: int) -> None:
        self.images.append((spec, rows))

    def dropped(self) -> dict[str, str]:
        return {d.name: d.note for d in self.decisions if d.column is None}

    def readings(self) -> dict[str, str]:
        """How the text of a numeric column is read, where it is not plain numbers."""
        return {d.name: d.reading for d in self.decisions if d.reading}

    def why_dropped(self) -> str:
        return (
            "; ".join(f"{name}: {why}" for name, why in list(self.dropped().items())[:5])
            or "there was none"
        )

    def show(self, manifest: Manifest, out: str) -> None:
        """The summary on stdout, warnings on stderr too where stdout is not a terminal's."""
        from rich.console import Console
        from rich.table import Table

        # Column names and values are the users' own: brackets and colons in them are no markup.
        console = Console(markup=False, emoji=False, highlight=False)
        if not console.is_terminal:
            console.width = 140
        table = Table(title="columns", title_justify="left")
        for head in ("name", "type", "missing", "distinct", "note"):
            table.add_column(
                head,
                justify="right" if head in ("missing", "distinct") else "left",
                overflow="fold",
            )
        for spec, rows in self.images:
            lacking = 1 - rows / max(1, manifest.rows["train"])
            size = (
                f"{spec.height}x{spec.width}, {'grey' if spec.channels == 1 else 'RGB'}, {spec.fit}"
            )
            table.add_row(spec.name, "image", f"{lacking:.1%}", "", size)
        for d in self.decisions:
            table.add_row(
                d.name, d.kind, f"{d.missing:.1%}", f"{d.distinct:,}" if d.distinct else "", d.note
            )
        console.print(table)
        self._show_classes(console, manifest)
        for line in self.notes:
            console.print(f"note: {line}")
        for line in self.warnings:
            console.print(f"warning: {line}", style="yellow")
        console.print(f"shards: {out}")

    def _show_classes(self, console: object, manifest: Manifest) -> None:
        totals = self.totals.sum(axis=1)
        names = manifest.schema.classes
        order = np.argsort(-totals, kind="stable")
        largest, smallest = order[0], order[-1]
        ratio = totals[largest] / max(1, totals[smallest])
        print(
            f"classes: {len(names)}; largest {names[largest]} {totals[largest]:,}, smallest {names[smallest]} {totals[smallest]:,}",
            end="",
        )
        print(f", imbalance {ratio:.1f}")
        print("splits: " + ", ".join(f"{split} {rows:,}" for split, rows in manifest.rows.items()))
        refused = self.reasons.total()
        print(f"refused: {refused:,}" + (" (see rejected.parquet)" if refused else ""))
        for reason, n in self.reasons.most_common(10):
            print(f"  {n:,} x {reason}")
