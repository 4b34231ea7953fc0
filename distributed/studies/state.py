"""What a study knows while it runs: its plans, its results on disk, what is left to do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed.config import Config, apply_changes, split_list
from distributed.runtime import storage
from distributed.runtime.storage import join
from distributed.shards.corruption import parse_corruption
from distributed.studies import board as study_board
from distributed.studies import report as study_report
from distributed.studies import views as study_stats
from distributed.studies.cells import DataSetCells, cells_for_data_set
from distributed.studies.definition import Cell, Study
from distributed.studies.results import CellRow, Results

Group = list[tuple[str, Cell]]  # the cells that share one training, with their data set's name


def study_cells(
    study: Study,
    sets: Sequence[Any],
    seeds: int,
    extra: Mapping[str, Any],
    variants: str | None = None,
    conditions: str | None = None,
) -> dict[str, DataSetCells]:
    """A plan for every data set, by its name, cut down to the variants and conditions asked for: names, comma-separated."""
    plans = {}
    for data in sets:
        schema = data.manifest.schema
        plans[data.name] = cells_for_data_set(
            study, schema.modalities, [t.name for t in schema.tables], seeds, extra
        )
    if variants is not None or conditions is not None:
        kept = {
            kind: _chosen(asked, kind, plans.values())
            for kind, asked in (("variants", variants), ("conditions", conditions))
        }
        compared = kept["variants"] | {study.reference}
        plans = {
            name: p.narrow(
                c for c in p.cells if c.variant in compared and c.condition in kept["conditions"]
            )
            for name, p in plans.items()
        }
    for data in sets:
        for cell in plans[data.name].cells:
            seen = data.manifest.schema.keep(split_list(cell.settings.get("data.modalities", "")))
            parse_corruption(
                ",".join(
                    filter(
                        None, (cell.settings.get("data.corrupt", ""), cell.test.get("corrupt", ""))
                    )
                ),
                seen,
            )
    return plans


def _chosen(asked: str | None, kind: str, plans: Collection[DataSetCells]) -> set[str]:
    """The names of variants or conditions that are asked for; a name may hold commas itself."""
    known = dict.fromkeys(c.name for p in plans for c in getattr(p, kind))
    if asked is None:
        return set(known)
    pieces, found = split_list(asked), set()
    while pieces:
        ends = [n for n in range(len(pieces), 0, -1) if ", ".join(pieces[:n]) in known]
        if not ends:
            raise ValueError(
                f"--{kind} must name {kind} of the study: {', '.join(map(repr, known))}; got {pieces[0]!r}"
            )
        found.add(", ".join(pieces[: ends[0]]))
        pieces = pieces[ends[0] :]
    return found


@dataclass
class StudyState:
    """A study in its folder. Results are on disk after every training; the rest is made anew from them."""

    folder: str
    study: Study
    plans: dict[str, DataSetCells]
    keys: dict[tuple[str, str, str, int], str]  # of every cell of the study, asked for or not
    trainings: dict[tuple[str, str, str, int], str]
    results: Results
    command: str

    @classmethod
    def open(
        cls,
        folder: str,
        study: Study,
        plans: dict[str, DataSetCells],
        digests: Mapping[str, str],
        *,
        resume: bool,
        command: str,
    ) -> StudyState:
        results = Results.load(folder)
        if results.rows and not resume:
            raise ValueError(
                f"--out must be a new folder, or add --resume to keep its {len(results.rows)} cells and go on; got {folder}"
            )
        places = [(data, cell) for data, p in plans.items() for cell in (p.whole or p).cells]
        keys = {_place(d, c): c.key(digests[d]) for d, c in places}
        trainings = {_place(d, c): c.training(digests[d]) for d, c in places}
        others = [row for row in results.rows.values() if _place_of(row) in keys]
        if others and not {row["key"] for row in others} & set(keys.values()):
            raise ValueError(
                f"--resume must go on with what is in --out: none of its {len(others)} cells is of these settings and this version; "
                f"repeat the command in {join(folder, 'study.json')}, or take a new --out"
            )
        return cls(folder, study, plans, keys, trainings, results, command)

    def todo(self) -> dict[str, Group]:
        """Trainings left to run, first all of seed 0, then all of seed 1: an interrupted study has whole seeds."""
        finished = self.results.finished()
        copies: list[CellRow] = []
        left: dict[str, Group] = {}
        for data, p in self.plans.items():
            for cell in p.cells:
                place = _place(data, cell)
                known = finished.get(self.keys[place])
                if known is None:
                    left.setdefault(self.trainings[place], []).append((data, cell))
                elif self.results.rows.get((*place, self.keys[place])) != known:
                    copies.append({**known, **_names(place)})
        for row in copies:
            self.results.put(row)
        return dict(sorted(left.items(), key=lambda item: item[1][0][1].seed))

    def take(self, group: Group, outcome: tuple[list[CellRow], list[dict[str, float]]]) -> str:
        """Writes a training's rows; returns a line about it."""
        rows, history = outcome
        rows = rows if len(rows) == len(group) else rows * len(group)
        named = [
            {**row, **_names(_place(d, c)), "key": self.keys[_place(d, c)]}
            for (d, c), row in zip(group, rows)
        ]
        self.results.add(named)
        study_board.write(self.folder, group, named, history, several=len(self.plans) > 1)
        if all(row["state"] == "done" for row in named):
            self.forget(group)
        first, more = named[0], f" and {len(named) - 1} more cells" if len(named) > 1 else ""
        cell_name = (
            f"{first['data']}, {first['variant']}, {first['condition']}, seed {first['seed']}{more}"
        )
        if first["state"] == "failed":
            return f"{cell_name}: failed: {first['reason']}"
        value = first.get(f"test/{self.study.metric}")
        shown = (
            ""
            if value is None
            else f": {study_stats.name_of(self.study.metric)} {study_stats.shown(self.study.metric, value)}"
        )
        return f"{cell_name}{shown} ({first.get('train_seconds', 0):.0f} s)"

    def run_folder(self, group: Group) -> str:
        """Where a training of several workers keeps its run."""
        return join(self.folder, "runs", self.trainings[_place(*group[0])])

    def forget(self, group: Group) -> None:
        """Removes the resumable state of a training whose rows are on disk; before that a killed driver would train it again."""
        alone = apply_changes(Config(), group[0][1].settings).scaling.workers == 1
        storage.remove_folder(
            self.run_folder(group) if alone else join(self.run_folder(group), "state")
        )

    def rows(self) -> list[CellRow]:
        """The rows of the study's cells only, and only where they are of the settings planned."""
        return [
            self.results.rows[*p, key]
            for p, key in self.keys.items()
            if (*p, key) in self.results.rows
        ]

    def shown(self) -> dict[str, DataSetCells]:
        """The plans with the cells that were asked for and those that have a result from another time: whoever asks for few variants
        after many were run must not escape the correction over them all."""
        there = {_place_of(row) for row in self.rows()}
        kept = there | self.asked()
        return {
            data: p.whole.narrow(c for c in p.whole.cells if _place(data, c) in kept)
            if p.whole
            else p
            for data, p in self.plans.items()
        }

    def asked(self) -> set[tuple[str, str, str, int]]:
        return {_place(data, cell) for data, p in self.plans.items() for cell in p.cells}

    def failures(self) -> list[CellRow]:
        """Of the cells that were asked for."""
        asked = self.asked()
        return [row for row in self.rows() if row["state"] == "failed" and _place_of(row) in asked]

    def describe(self) -> None:
        """Writes study.json, and the results with their present names."""
        if self.results.rows:
            self.results.add([])
        about = {"command": self.command, "study": dataclasses.asdict(self.study)}
        storage.write_file(join(self.folder, "study.json"), json.dumps(about, indent=1).encode())

    def report(self, *, pictures: bool = False) -> tuple[str, str, str]:
        """Writes study.json, tables and report; returns the report's place, the main table as text, and why there are no PNG figures."""
        self.describe()
        return study_report.write_report(
            self.folder, self.study, self.shown(), self.rows(), self.command, pictures=pictures
        )


def _place(data: str, cell: Cell) -> tuple[str, str, str, int]:
    return data, cell.variant, cell.condition, cell.seed


def _names(place: tuple[str, str, str, int]) -> CellRow:
    return dict(zip(("data", "variant", "condition", "seed"), place))


def _place_of(row: CellRow) -> tuple[str, str, str, int]:
    return row["data"], row["variant"], row["condition"], row["seed"]
