"""The page of a run, report.html: from the scores of its splits to sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distributed.reporting.cards import Gallery
from distributed.reporting.page import Block, Bullets, Code, Section, Text, to_html
from distributed.runtime.redaction import redact
from distributed.runtime.storage import write_file
from distributed.training.pages import figures, tables
from distributed.training.pages.splits import PageSplit
from distributed.training.scoring import confidence_rows
from model.classifier import Classifier
from model.metrics.confidences import ConfidenceRow
from model.metrics.names import metric, worst_class

PAGE = "report.html"  # in the folder of a run


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All that the page of a run or of an evaluation shows.

    splits: the first one is that of the galleries. history: the metrics of every epoch.
    settings: the text of those that differ from the defaults.
    """

    title: str
    lead: str
    network: Classifier
    splits: Sequence[PageSplit]
    history: Sequence[Mapping[str, float]] = ()
    galleries: Sequence[tuple[str, Gallery]] = ()
    extra: Sequence[Section] = ()  # sections before the galleries
    notes: Sequence[str] = ()
    settings: str = ""
    reading: Sequence[str] = field(default_factory=tuple)


def write_page(location: str, report: RunReport) -> None:
    """Writes the page to a path or a URI, without secrets."""
    html = to_html(report.title, page_sections(report), lead=report.lead)
    write_file(location, redact(html).encode())


def page_sections(report: RunReport) -> list[Section]:
    """Returns all sections; those without content are left out of the page."""
    schema = report.network.schema
    confusions = [
        figures.confusion_figure(split, schema.classes, schema.counts) for split in report.splits
    ]
    settings: list[Block] = [Code(report.settings)] if report.settings else []
    return [
        Section("Results", _results(report)),
        Section(
            "Classes",
            [
                tables.class_table(report.splits, report.network),
                figures.shots_figure(report.splits),
            ],
        ),
        Section("Confusion", [figure for figure in confusions if figure is not None]),
        Section("Calibration", [figures.reliability_figure(report.splits)]),
        Section("Modalities", _modalities(report)),
        *report.extra,
        *(Section(title, [gallery]) for title, gallery in report.galleries),
        Section("Learning curves", figures.curve_figures(report.history)),
        Section("Settings", settings),
        Section("How to read this", [Bullets(reading_notes(report))]),
    ]


def _results(report: RunReport) -> list[Block]:
    blocks: list[Block] = [tables.headline_table(report.splits)]
    for split in report.splits:
        worst = worst_class(split.metrics, report.network.schema.classes)
        if worst is not None:
            recall = metric("worst_recall").text(split.metrics[f"recall/{worst}"])
            blocks.append(Text(f"Worst class of {split.title}: {worst}, recall {recall}."))
    operating = tables.operating_table(report.splits)
    if operating is not None:
        blocks.append(operating)
    if report.notes:
        blocks.append(Bullets(report.notes))
    return blocks


def _modalities(report: RunReport) -> list[Block]:
    """Fusion weights and confidences by shot group."""
    split = report.splits[0]
    rows: list[ConfidenceRow] = confidence_rows(split.scores, report.network)
    blocks: list[Block | None] = [
        figures.fusion_figure(
            rows,
            "weight",
            "mean fusion weight",
            f"{split.title.capitalize()}: how much the fusion goes by each modality, by group of "
            "classes; in a group all classes count alike.",
        )
    ]
    if report.network.learns_confidence:
        blocks.append(
            figures.fusion_figure(
                rows,
                "used",
                "mean confidence",
                f"{split.title.capitalize()}: the confidence in each modality that the fusion "
                "uses, the estimated probability of the true class by this modality alone.",
            )
        )
    blocks.append(tables.confidence_table(rows))
    return [block for block in blocks if block is not None]


def reading_notes(report: RunReport) -> list[str]:
    """What a reader must know of splits, groups and explanations."""
    return [
        *report.reading,
        "Balanced accuracy is the mean recall of the classes: a rare class counts as much as a "
        "frequent one. Intervals of 95 % are from a bootstrap of the rows, in which every class "
        "keeps its number of rows; they say nothing of another training, and are too narrow where "
        "classes have a row or two.",
        "Points in a gallery are what a table cell contributes to the probability of the class "
        "that was said: its probability less that with training values in the cell. Blue patches "
        "of a picture speak for that class, orange ones against it. Where two parts say the same, "
        "each alone may contribute little.",
        "What a modality says alone comes from its own classifier, for which all classes are "
        "equally frequent.",
    ]
