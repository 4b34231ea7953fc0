"""Writes a study's tables (Markdown, LaTeX, CSV), its figures and its report from its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distributed.reporting import page, tables
from distributed.reporting.page import Block, Figure, Section, Text
from distributed.reporting.png import save_png_files
from distributed.reporting.tables import ReportTable
from distributed.runtime import storage
from distributed.runtime.redaction import redact
from distributed.runtime.storage import is_uri, join
from distributed.studies.cells import DataSetCells
from distributed.studies.claims import ClaimResult, check_claims
from distributed.studies.definition import Study
from distributed.studies.pages.figures import axis_figures, score_figures
from distributed.studies.pages.origins import failure_blocks, origin_blocks, result_blocks
from distributed.studies.pages.sections import (
    conclusion_blocks,
    data_set_blocks,
    few_seeds_note,
    reference_blocks,
    weight_blocks,
)
from distributed.studies.pages.tables import main_table, study_metrics, tidy_table
from distributed.studies.results import CellRow
from distributed.studies.views import ConditionView, condition_views, mean_views

# Columns of the main table after `seeds` that fit on a terminal: the main metric and the tail's,
# each with its difference and p.
TERMINAL_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """A written report.

    path: of report.html, a path or URI.
    table: the main table for a terminal, with what so few seeds cannot show.
    claims: what the study's claims came to.
    no_pictures: why there are no PNG files of the figures, if they were requested.
    """

    path: str
    table: str
    claims: list[ClaimResult]
    no_pictures: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """What a report is made of.

    planned: the cells by data set. views, means: the results per data set and over all of them.
    command: repeats the study on the command line.
    """

    study: Study
    planned: Mapping[str, DataSetCells]
    rows: Sequence[CellRow]
    views: Sequence[ConditionView]
    means: Sequence[ConditionView]
    claims: Sequence[ClaimResult]
    command: str


def collect_data(
    study: Study, planned: Mapping[str, DataSetCells], rows: Sequence[CellRow], command: str
) -> StudyData:
    """Arranges the results of a study for its report and checks its claims."""
    views = condition_views(study, planned, rows)
    means = mean_views(views, planned)
    return StudyData(
        study=study,
        planned=planned,
        rows=rows,
        views=views,
        means=means,
        claims=check_claims(study, planned, [*views, *means]),
        command=command,
    )


def write_report(
    folder: str,
    study: Study,
    planned: Mapping[str, DataSetCells],
    rows: Sequence[CellRow],
    command: str,
    *,
    pictures: bool = False,
) -> StudyReport:
    """Writes the tables and the report into a folder or URI.

    pictures: writes PNG files of the figures too, if the folder is local.
    """
    data = collect_data(study, planned, rows, command)
    main = main_table(study, data.views)
    metrics = [*study_metrics(study), "train_seconds"]
    for_programs = tidy_table([*data.views, *data.means], metrics)
    _write(folder, "table.md", tables.to_markdown(main))
    _write(folder, "table.tex", tables.to_latex(main, f"tab:{study.name}"))
    _write(folder, "table.csv", tables.to_csv(for_programs))
    sections = number_equal_names(report_sections(data, main))
    local = None if is_uri(folder) else Path(folder)
    no_pictures = _write_pictures(local, sections) if pictures and local else ""
    title, lead = f"Study: {study.title}", _lead(data)
    _write(folder, "report.html", page.to_html(title, sections, lead=lead))
    _write(folder, "report.md", page.to_markdown(title, sections, lead=lead, folder=local))
    text = tables.to_text(_terminal_part(main))
    note = few_seeds_note(study, data.views)
    return StudyReport(
        path=join(folder, "report.html"),
        table=f"{text}\n\n{note}" if note else text,
        claims=list(data.claims),
        no_pictures=no_pictures,
    )


def _lead(data: StudyData) -> str:
    """How much of the study has finished."""
    failed = sum(row.state == "failed" for row in data.rows)
    total = sum(len(part.cells) for part in data.planned.values())
    failures = f", {failed} failed" if failed else ""
    finished = len(data.rows) - failed
    return f"{', '.join(data.planned)}: {finished} of {total} cells finished{failures}."


def _write(folder: str, name: str, content: str) -> None:
    storage.write_file(join(folder, name), redact(content).encode())


def number_equal_names(sections: Sequence[Section]) -> list[Section]:
    """Numbers figures whose file names would be equal, as for the data sets ham_1 and ham-1."""
    counts: dict[str, int] = {}

    def with_own_name(block: Block) -> Block:
        if not isinstance(block, Figure) or not block.name:
            return block
        counts[block.name] = counts.get(block.name, 0) + 1
        if counts[block.name] == 1:
            return block
        return replace(block, name=f"{block.name}-{counts[block.name]}")

    return [
        replace(section, blocks=[with_own_name(block) for block in section.blocks])
        for section in sections
    ]


def _write_pictures(folder: Path, sections: Sequence[Section]) -> str:
    """Writes PNG files of all figures with a name; returns why there are none, if so."""
    pictures: dict[str | Path, object] = {
        folder / "figures" / f"{block.name}.png": block.figure
        for section in sections
        for block in section.blocks
        if isinstance(block, Figure) and block.name
    }
    return save_png_files(pictures) if pictures else ""


def _terminal_part(main: ReportTable) -> ReportTable:
    """The first columns of the main table."""
    end = main.columns.index("seeds") + 1 + TERMINAL_COLUMNS
    return replace(main, columns=main.columns[:end], rows=[row[:end] for row in main.rows])


def report_sections(data: StudyData, main: ReportTable) -> list[Section]:
    """The sections of the report in order."""
    study = data.study
    planned = data.planned
    views = data.views
    means = data.means
    if not views:
        return [
            Section("What is shown", [Text("No cell has finished yet.")]),
            Section("What failed", failure_blocks(planned, data.rows)),
            Section("How it was made", origin_blocks(data.command)),
        ]
    against = [
        block
        for metric in dict.fromkeys((study.metric, study.tail))
        for block in reference_blocks(study, views, metric)
    ]
    over_sets = data_set_blocks(study, planned, views, means) if len(planned) > 1 else []
    return [
        Section("What is shown", conclusion_blocks(study, planned, [*views, *means], data.claims)),
        Section("Results", [main, *score_figures(study, views)]),
        Section("Against the reference", against),
        Section("Over data sets", over_sets),
        Section("Along the conditions", axis_figures(study, planned, views)),
        Section("Fusion weights", weight_blocks(views)),
        Section("What failed or was left out", failure_blocks(planned, data.rows)),
        Section(
            "How it was made",
            [*origin_blocks(data.command), *result_blocks(study, planned, views, data.rows)],
        ),
    ]
