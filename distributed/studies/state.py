"""A study in its folder: its planned cells, their results, and the trainings left to run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import starmap

from distributed.config import Config
from distributed.runtime import storage
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import join
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Cell, Study
from distributed.studies.pages.board import write_cell_events
from distributed.studies.pages.report import StudyReport, write_report
from distributed.studies.results import CellName, CellRow, Results, TrainingOutcome
from model.metrics import names

STUDY_FILE = "study.json"  # the study, and the command that repeats it


@dataclass(frozen=True)
class Training:
    """One training, and the cells whose results it gives.

    cells: with the names of their data sets, which differ where two of them hold the same rows.
    """

    key: str
    cells: list[tuple[str, Cell]]

    @property
    def data(self) -> str:
        """The name of a data set that holds the rows."""
        return self.cells[0][0]

    @property
    def first(self) -> Cell:
        """The first cell; all cells have the settings of the training in common."""
        return self.cells[0][1]

    @property
    def config(self) -> Config:
        return self.first.config


@dataclass
class StudyState:
    """A study in its folder or URI.

    Results are written after every training; everything else in the folder is made from them.

    planned: the requested cells by data set. keys, training_keys: of all cells of the study,
    requested or not. command: repeats this study on the command line.
    """

    folder: str
    study: Study
    planned: dict[str, DataSetCells]
    keys: dict[CellName, str]
    training_keys: dict[CellName, str]
    results: Results
    command: str

    @classmethod
    def open(
        cls,
        folder: str,
        study: Study,
        planned: dict[str, DataSetCells],
        digests: Mapping[str, str],
        *,
        resume: bool,
        command: str,
    ) -> StudyState:
        """Reads what the folder holds of the study. Existing results need `resume`.

        digests: of the rows of every data set, by its name.
        """
        results = Results.load(folder)
        if results.rows and not resume:
            raise OptionError(
                f"out must be a new folder, or add resume to keep its {len(results.rows)} cells "
                f"and go on; got {folder}",
                "out",
                "resume",
            )
        cells = [
            (data, cell) for data, part in planned.items() for cell in (part.whole or part).cells
        ]
        keys = {_name(data, cell): cell.key(digests[data]) for data, cell in cells}
        training_keys = {
            _name(data, cell): cell.training_key(digests[data]) for data, cell in cells
        }
        same_names = [row for row in results.rows.values() if row.name in keys]
        if same_names and not {row.key for row in same_names} & set(keys.values()):
            raise OptionError(
                f"resume must go on with what is in out: none of its {len(same_names)} cells is "
                "of these settings and this version; repeat the command in "
                f"{join(folder, STUDY_FILE)}, or take a new folder",
                "resume",
                "out",
            )
        return cls(folder, study, planned, keys, training_keys, results, command)

    def remaining(self) -> list[Training]:
        """The trainings that are left to run, all of seed 0 first, then all of seed 1, and so on.

        An interrupted study so has whole seeds. Cells whose result exists under another name, as
        after a variant was renamed, get a copy of it here.
        """
        finished = self.results.finished()
        trainings: dict[str, Training] = {}
        copies: list[CellRow] = []
        for data, cell in self._requested_cells():
            name = _name(data, cell)
            result = finished.get(self.keys[name])
            if result is None:
                key = self.training_keys[name]
                trainings.setdefault(key, Training(key, [])).cells.append((data, cell))
            elif self.results.rows.get((name, result.key)) != result:
                copies.append(result.renamed(name))
        for row in copies:
            self.results.put(row)
        return sorted(trainings.values(), key=lambda training: training.first.seed)

    def record(self, training: Training, outcome: TrainingOutcome) -> str:
        """Writes the results of a training and its TensorBoard runs; returns a line about it."""
        cell_names = list(starmap(_name, training.cells))
        rows = [
            CellRow.of(name, self.keys[name], cell_outcome)
            for name, cell_outcome in zip(cell_names, outcome.cells, strict=True)
        ]
        # Before the results: with these on disk the cells never run, nor write events, again.
        write_cell_events(
            self.folder,
            training.cells,
            rows,
            outcome.history,
            with_data_names=len(self.planned) > 1,
        )
        self.results.add(rows)
        if all(row.state == "done" for row in rows):
            self._remove_training_state(training)
        return self._describe(rows)

    def _describe(self, rows: list[CellRow]) -> str:
        """What a training gave, in one line."""
        first = rows[0]
        more = f" and {len(rows) - 1} more cells" if len(rows) > 1 else ""
        line = f"{first.data}, {first.variant}, {first.condition}, seed {first.seed}{more}"
        if first.state == "failed":
            return f"{line}: failed: {first.reason}"
        value = first.metrics.get(f"test/{self.study.metric}")
        if value is not None:
            metric = names.metric(self.study.metric)
            line += f": {metric.title} {metric.text(value)}"
        seconds = first.metrics.get("train_seconds", 0)
        return f"{line} ({names.metric('train_seconds').text(seconds)})"

    def run_folder(self, training: Training) -> str:
        """Where a training keeps its resumable state, and one of several workers its run."""
        return join(self.folder, "runs", training.key)

    def _remove_training_state(self, training: Training) -> None:
        """Removes the resumable state of a training whose results are written.

        It must not go earlier: a driver killed in between would train again.
        """
        folder = self.run_folder(training)
        one_process = training.config.scaling.workers == 1
        storage.remove_folder(folder if one_process else join(folder, "state"))

    def rows(self) -> list[CellRow]:
        """The rows of the study's cells, of their present settings only."""
        places = self.keys.items()
        return [self.results.rows[place] for place in places if place in self.results.rows]

    def reported(self) -> dict[str, DataSetCells]:
        """The requested cells, and those with a result from an earlier time.

        Whoever runs many variants and then requests few must not escape the correction of the tests
        for all of them.
        """
        kept = {row.name for row in self.rows()} | self._requested_names()
        return {
            data: part.whole.keep(c for c in part.whole.cells if _name(data, c) in kept)
            if part.whole
            else part
            for data, part in self.planned.items()
        }

    def failures(self) -> list[CellRow]:
        """The failed ones of the requested cells."""
        requested = self._requested_names()
        return [row for row in self.rows() if row.state == "failed" and row.name in requested]

    def _requested_cells(self) -> list[tuple[str, Cell]]:
        return [(data, cell) for data, part in self.planned.items() for cell in part.cells]

    def _requested_names(self) -> set[CellName]:
        return set(starmap(_name, self._requested_cells()))

    def write_description(self) -> None:
        """Writes study.json, and the results under their present names."""
        if self.results.rows:
            self.results.add([])
        about = {"command": self.command, "study": dataclasses.asdict(self.study)}
        storage.write_file(join(self.folder, STUDY_FILE), json.dumps(about, indent=1).encode())

    def write_report(self, *, pictures: bool = False) -> StudyReport:
        """Writes study.json, the tables and the report; pictures: PNG files of its figures too."""
        self.write_description()
        return write_report(
            self.folder,
            self.study,
            self.reported(),
            self.rows(),
            self.command,
            pictures=pictures,
        )


def _name(data: str, cell: Cell) -> CellName:
    return CellName(data, cell.variant, cell.condition, cell.seed)
