"""The results of a study: results.csv, one row a cell, rewritten whole after every finished cell so that a kill never leaves a part."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distributed.runtime import storage
from distributed.runtime.storage import join

WORDS = ("data", "variant", "condition", "key", "state", "reason", "note")
FIRST = ("data", "variant", "condition", "seed", "state", "reason", "note", "key", "train_seconds")
CellRow = dict[str, Any]


@dataclass
class Results:
    """Rows by (data, variant, condition, seed, key); `key` is the digest of what was run: a changed setting is never taken for done, and
    what was run before the change is kept."""

    folder: str
    rows: dict[tuple[str, str, str, int, str], CellRow] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str) -> Results:
        try:
            text = storage.read_file(join(folder, "results.csv")).decode()
        except FileNotFoundError:
            return cls(folder)
        results = cls(folder)
        for plain in csv.DictReader(io.StringIO(text)):
            if plain.get("key") and plain.get("seed"):
                results.put(
                    {
                        name: value if name in WORDS else _number(value)
                        for name, value in plain.items()
                        if name in WORDS or value != ""
                    }
                )
        return results

    def put(self, row: CellRow) -> None:
        self.rows[row["data"], row["variant"], row["condition"], int(row["seed"]), row["key"]] = {
            **row,
            "seed": int(row["seed"]),
        }

    def finished(self) -> dict[str, CellRow]:
        """A finished row for every key that has one."""
        return {row["key"]: row for row in self.rows.values() if row["state"] == "done"}

    def add(self, rows: Iterable[CellRow]) -> None:
        """Takes rows in and writes the whole table."""
        for row in rows:
            self.put(row)
        storage.write_file(join(self.folder, "results.csv"), self.text().encode())

    def text(self) -> str:
        metrics = sorted({name for row in self.rows.values() for name in row} - set(FIRST))
        out = io.StringIO()
        writer = csv.DictWriter(out, [*FIRST, *metrics], restval="", lineterminator="\n")
        writer.writeheader()
        for place in sorted(self.rows):
            row = self.rows[place]
            writer.writerow(
                {
                    name: repr(value) if isinstance(value, float) else value
                    for name, value in row.items()
                }
            )
        return out.getvalue()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def finite_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """A run's nested metrics with `val/` and `test/` names; only finite numbers."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": v for inner, v in finite_metrics(value).items()}
        elif isinstance(value, int | float) and math.isfinite(value):
            found[name] = float(value)
    return found
