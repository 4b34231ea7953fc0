"""The results of a study: results.csv, one row per cell.

It is written as a whole after every training, so that a killed study never leaves a part of it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from distributed.reporting.tables import csv_line, from_csv_text
from distributed.runtime import storage
from distributed.runtime.storage import DamagedFile, join

FILE_NAME = "results.csv"
TEXT_COLUMNS = ("data", "variant", "condition", "key", "state", "reason", "note")
FIRST_COLUMNS = (
    "data",
    "variant",
    "condition",
    "seed",
    "state",
    "reason",
    "note",
    "key",
    "train_seconds",
)


class CellName(NamedTuple):
    """What tables call a cell: a variant under a condition with a seed on one data set."""

    data: str
    variant: str
    condition: str
    seed: int


@dataclass(kw_only=True)
class CellOutcome:
    """What the training and the test of one cell gave.

    state: `failed` cells say why in `reason`.
    note: what the guard of test-time aggregation reports, else empty.
    metrics: finite numbers by name: `train_seconds`, `val/macro_f1`, `test/macro_f1` and so on.
    """

    state: Literal["done", "failed"]
    reason: str = ""
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class CellRow(CellOutcome):
    """A row of results.csv: a cell's outcome under its name.

    key: the digest of what was run, from Cell.key. Rows with the same name and different keys come
    from different settings, of which a study uses only the present ones.
    other: further columns of the file that hold text; they are kept.
    """

    data: str
    variant: str
    condition: str
    seed: int
    key: str
    other: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> CellName:
        return CellName(self.data, self.variant, self.condition, self.seed)

    @classmethod
    def of(cls, name: CellName, key: str, outcome: CellOutcome) -> CellRow:
        """The row of a cell with this name and key."""
        return cls(
            **name._asdict(),
            key=key,
            state=outcome.state,
            reason=outcome.reason,
            note=outcome.note,
            metrics=dict(outcome.metrics),
        )

    def renamed(self, name: CellName) -> CellRow:
        """A copy of this row under another name."""
        return replace(CellRow.of(name, self.key, self), other=dict(self.other))


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What one training gave: an outcome for each of its cells, and the metrics of every epoch."""

    cells: list[CellOutcome]
    history: list[dict[str, float]]


@dataclass
class Results:
    """The rows of results.csv by cell name and key.

    A changed setting has a new key: its cell is not taken for finished, and the old row is kept.
    """

    folder: str
    rows: dict[tuple[CellName, str], CellRow] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str) -> Results:
        """Reads the results in a study's folder or URI; none if the file does not exist."""
        results = cls(folder)
        place = join(folder, FILE_NAME)
        try:
            text = storage.read_file(place).decode()
        except FileNotFoundError:
            return results
        except UnicodeDecodeError as error:
            raise DamagedFile(f"{place} is damaged: it is no text ({error})") from None
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if not {*TEXT_COLUMNS, "seed"} <= {*(reader.fieldnames or [])}:
            raise DamagedFile(f"{place} is damaged: its first line must name the columns of cells")
        try:
            for plain in reader:
                results.put(_parse_row(plain))
        except (ValueError, csv.Error):
            raise DamagedFile(
                f"{place} is damaged: delete the row that ends in line {reader.line_num}, and its"
                " cell runs again"
            ) from None
        if not text.endswith("\n"):
            raise DamagedFile(f"{place} is damaged: its last row is cut; delete it")
        return results

    def put(self, row: CellRow) -> None:
        """Adds or replaces a row, in memory only."""
        self.rows[row.name, row.key] = row

    def add(self, rows: Iterable[CellRow]) -> None:
        """Adds or replaces rows and writes the whole file."""
        for row in rows:
            self.put(row)
        storage.write_file(join(self.folder, FILE_NAME), self.to_csv().encode())

    def finished(self) -> dict[str, CellRow]:
        """For every key that has a finished row, one of its rows."""
        return {row.key: row for row in self.rows.values() if row.state == "done"}

    def to_csv(self) -> str:
        """The file's content; it does not depend on the order in which rows were added."""
        present = {name for row in self.rows.values() for name in (*row.metrics, *row.other)}
        columns = [*FIRST_COLUMNS, *sorted(present - set(FIRST_COLUMNS))]
        lines = [csv_line(columns)]
        for place in sorted(self.rows):
            row = self.rows[place]
            named = row.name._asdict() | {name: getattr(row, name) for name in TEXT_COLUMNS}
            numbers = {name: repr(value) for name, value in row.metrics.items()}
            cells = {**named, **numbers, **row.other}
            lines.append(csv_line(str(cells.get(name, "")) for name in columns))
        return "".join(lines)


def _parse_row(plain: Mapping[str, str]) -> CellRow:
    """A row of the file; empty cells are metrics that the row does not have.

    Raises ValueError for a row with more or fewer cells than columns.
    """
    if None in plain or None in plain.values():
        raise ValueError("a row must have a cell for every column")
    cells = {from_csv_text(name): from_csv_text(value) for name, value in plain.items()}
    metrics: dict[str, float] = {}
    other: dict[str, str] = {}
    for name, value in cells.items():
        if name in TEXT_COLUMNS or name == "seed" or not value:
            continue
        try:
            metrics[name] = float(value)
        except ValueError:
            other[name] = value
    return CellRow(
        data=cells["data"],
        variant=cells["variant"],
        condition=cells["condition"],
        seed=int(float(cells["seed"])),
        key=cells["key"],
        state="done" if cells["state"] == "done" else "failed",
        reason=cells["reason"],
        note=cells["note"],
        metrics=metrics,
        other=other,
    )


def finite_metrics(metrics: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers of nested metrics, with names such as `test/macro_f1`."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": number for inner, number in finite_metrics(value).items()}
        elif isinstance(value, int | float) and math.isfinite(value):
            flat[name] = float(value)
    return flat
