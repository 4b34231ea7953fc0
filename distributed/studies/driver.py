"""A study from end to end: read it, plan its cells, run what is missing, write the report."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from distributed.config import parse_assignments
from distributed.runtime import lease
from distributed.runtime.errors import flag
from distributed.runtime.option_values import check_options
from distributed.runtime.output_folders import STUDY, check_output
from distributed.runtime.shell import script_command, tensorboard_command
from distributed.runtime.storage import (
    absolute_location,
    as_option_error,
)
from distributed.studies.cells import DataSetCells
from distributed.studies.claims import ClaimResult
from distributed.studies.data_sets import DataSet, open_data_sets
from distributed.studies.definition import Study
from distributed.studies.options import QUICK_SEEDS, QUICK_STUDY_SETTINGS, StudyOptions
from distributed.studies.pages.report import StudyReport
from distributed.studies.planning import study_cells
from distributed.studies.reading import read_study
from distributed.studies.results import CellRow
from distributed.studies.schedule import run_trainings
from distributed.studies.state import StudyState, Training
from distributed.training.requirements import check_training

MAX_FAILURES_PRINTED = 5


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study came to.

    folder: of the study, a path or URI.
    rows: the results of its cells so far. failed: those of the requested cells that failed.
    report: None after `plan`, which runs and writes nothing.
    """

    folder: str
    rows: list[CellRow]
    failed: list[CellRow]
    report: StudyReport | None

    @property
    def claims(self) -> list[ClaimResult]:
        """What the study's claims came to, on every data set and under every condition."""
        return self.report.claims if self.report else []

    def show(self) -> None:
        """Prints the main table and where the report is; failed cells on stderr."""
        if self.report is None:
            return
        if self.report.no_pictures:
            print(self.report.no_pictures, file=sys.stderr)
        print(f"\n{self.report.table}\n")
        print(f"report      {self.report.path}")
        print(f"compare     {tensorboard_command(f'{self.folder}/tensorboard')}")
        for row in self.failed[:MAX_FAILURES_PRINTED]:
            cell = f"{row.data}, {row.variant}, {row.condition}, seed {row.seed}"
            print(f"failed: {cell}: {row.reason}", file=sys.stderr)
        if self.failed:
            print(f"{len(self.failed)} cells failed; --resume runs them again", file=sys.stderr)


def study(options: StudyOptions) -> StudyResult:
    """Runs a study: every variant under every condition with every seed, then the report.

    Results are written after every training; a study that was stopped goes on with `resume`.
    """
    options = check_options(StudyOptions, options)
    definition = read_study(options.study)
    data_sets = open_data_sets(options.data)
    settings = {**(QUICK_STUDY_SETTINGS if options.quick else {}), **parse_assignments(options.set)}
    planned = study_cells(
        definition,
        data_sets,
        _seeds(options, definition),
        settings,
        options.variants,
        options.conditions,
    )
    folder = absolute_location(options.folder(definition.name))
    with nullcontext() if options.plan else lease.hold(folder):  # a plan writes nothing
        return _study_in(folder, options, definition, data_sets, planned)


def _study_in(
    folder: str,
    options: StudyOptions,
    definition: Study,
    data_sets: Sequence[DataSet],
    planned: dict[str, DataSetCells],
) -> StudyResult:
    """Runs what is missing of the study in `folder`, which this process holds."""
    with as_option_error(folder):
        check_output(folder, STUDY)
        state = StudyState.open(
            folder,
            definition,
            planned,
            {data.name: data.digest for data in data_sets},
            resume=options.resume,
            command=command_of(options),
        )
        trainings = state.remaining()
    by_name = {data.name: data for data in data_sets}
    check_trainings(trainings, by_name)
    print_plan(state, trainings, every_cell=options.plan)
    if options.plan:
        return StudyResult(folder=folder, rows=state.rows(), failed=state.failures(), report=None)
    with as_option_error(folder):
        state.write_description()
    if trainings:
        run_trainings(state, trainings, by_name)
    report = state.write_report(pictures=True)
    return StudyResult(folder=folder, rows=state.rows(), failed=state.failures(), report=report)


def _seeds(options: StudyOptions, definition: Study) -> int:
    """The number of seeds: as requested, else the study's own, of which --quick takes a few."""
    if options.seeds is not None:
        return options.seeds
    return min(QUICK_SEEDS, definition.seeds) if options.quick else definition.seeds


def check_trainings(trainings: Sequence[Training], data_sets: Mapping[str, DataSet]) -> None:
    """Refuses, before anything is written, trainings that are impossible on their data."""
    for training in trainings:
        manifest = data_sets[training.data].manifest
        try:
            check_training(training.config, manifest.schema, manifest.rows["val"])
        except ValueError as error:
            where = f"variant {training.first.variant!r} on {training.data}"
            raise ValueError(f"{error} ({where})") from None


def print_plan(state: StudyState, trainings: Sequence[Training], *, every_cell: bool) -> None:
    """Prints how much there is to run and what the study leaves out, and why."""
    total = sum(len(part.cells) for part in state.planned.values())
    left = [named_cell for training in trainings for named_cell in training.cells]
    print(
        f"{state.study.title}: {total} cells, {total - len(left)} done; "
        f"{len(trainings)} trainings to run",
        flush=True,
    )
    reasons = [reason for part in state.planned.values() for reason in part.left_out]
    for reason in dict.fromkeys(reasons):
        print(f"left out: {reason}")
    if every_cell:
        for data, cell in left:
            print(f"  {data}  {cell.condition}  {cell.variant}  seed {cell.seed}")


def command_of(options: StudyOptions) -> str:
    """The command line that repeats a study with these options."""
    arguments: list[str] = []
    for entry in dataclasses.fields(options):
        value = getattr(options, entry.name)
        if value == entry.default:
            continue
        if value is True:
            arguments.append(flag(entry.name))
        elif isinstance(value, tuple) and entry.metadata["repeat"]:
            for part in value:
                arguments += [flag(entry.name), part]
        elif isinstance(value, tuple):
            arguments += [flag(entry.name), *value]
        else:
            arguments += [flag(entry.name), str(value)]
    return script_command("distributed/ablate.py", *arguments)
