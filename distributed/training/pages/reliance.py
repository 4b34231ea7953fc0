"""What a model goes by: permutation importance on validation, and shortcuts in training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from distributed.reporting.figure_style import BETTER_COLOUR, GREY, empty_figure, row_labels
from distributed.reporting.page import Block, Figure, Section, Text
from distributed.reporting.tables import ReportTable, TableCell
from distributed.shards.batches import BatchSource, MemorySource, StreamSource
from distributed.shards.sampling import IntArray, Selection
from distributed.shards.single_rows import read_places
from distributed.training.pages.splits import Decider
from model.batch import Batch
from model.classifier import Classifier
from model.explaining.importance import (
    Decide,
    Importance,
    encode_records,
    permutation_importance,
)
from model.explaining.robustness import Condition, robustness
from model.explaining.shortcuts import GRID, Finding, audit_shortcuts, audited_classes
from model.metrics.names import metric
from model.outputs import Outputs

IMPORTANCE_ROWS = 500  # validation rows, of a stream STREAM_SHARE of them
IMPORTANCE_COLUMNS = 50  # of all tables, each measured by several passes over these rows
OTHER_ROWS = 800  # training rows of classes that are not audited
CLASS_ROWS = 48  # training rows of a class that is
AUDITED = 8  # classes
STREAM_SHARE = 4  # single rows of a stream cost more: only one in so many is read
SHOWN = 15  # parts of the figure


@dataclass(frozen=True)
class Reliance:
    """What a model goes by.

    importance, conditions: on validation rows; empty where none has a label.
    findings: of the shortcut audit of the training rows.
    """

    importance: Sequence[Importance]
    conditions: Sequence[Condition]
    findings: Sequence[Finding]


def measure_reliance(
    network: Classifier, decider: Decider, val: BatchSource, train: BatchSource, seconds: float
) -> Reliance:
    """Measures what a model goes by. seconds: what the slow parts may take, about."""
    batch = labelled_sample(network, val)
    importance: list[Importance] = []
    conditions: list[Condition] = []
    if batch is not None:
        decide, encoded_NMD = decide_outputs(decider), encode_records(network, batch)
        importance = importance_on_page(network, batch, decide, encoded_NMD)
        conditions = robustness(network, batch, decide, embeddings_NMD=encoded_NMD)
    return Reliance(importance, conditions, find_shortcuts(network, decider, train, seconds))


def reliance_section(found: Reliance, classes: Sequence[str], columns: int) -> Section:
    """Returns the section on importance, broken modalities and shortcuts.

    columns: of all tables.
    """
    blocks: list[Block] = []
    if found.importance:
        blocks.append(importance_figure(found.importance, columns))
    if found.conditions:
        blocks.append(robustness_table(found.conditions))
    blocks += shortcut_blocks(found.findings, classes)
    return Section("What the model goes by", blocks)


def labelled_sample(network: Classifier, source: BatchSource) -> Batch | None:
    """Returns labelled rows, evenly spread; None where there are none."""
    labelled = np.flatnonzero(selection_of(source).labels_R >= 0)
    if not len(labelled):
        return None
    places = evenly(labelled, IMPORTANCE_ROWS // rows_share(source))
    return read_places(source, places, pixels=False).to(network.counts_C.device)


def importance_on_page(
    network: Classifier, batch: Batch, decide: Decide, encoded_NMD: Tensor | None = None
) -> list[Importance]:
    """Returns the importance of modalities and columns; of wide tables, of the most telling."""
    return permutation_importance(
        network, batch, decide, embeddings_NMD=encoded_NMD, most_columns=IMPORTANCE_COLUMNS
    )


def decide_outputs(decider: Decider) -> Decide:
    """Returns the function from a network's outputs to the decided classes."""
    return lambda outputs: decider.decide(decider.probabilities(outputs.logits_BEC.float().cpu()))


def robustness_table(conditions: Sequence[Condition], rows: str = "Validation") -> ReportTable:
    """Returns balanced accuracy with broken modalities. rows: of what."""
    accuracy = metric("balanced_accuracy")
    return ReportTable(
        columns=("modality", "condition", accuracy.heading),
        rows=[
            [
                c.modality,
                c.condition,
                TableCell(text=accuracy.value(c.balanced_accuracy), value=c.balanced_accuracy),
            ]
            for c in conditions
        ],
        caption=f"{rows}: balanced accuracy where one modality of every record is broken.",
    )


def find_shortcuts(
    network: Classifier, decider: Decider, train: BatchSource, seconds: float
) -> list[Finding]:
    """Returns what gives each rare class away in a sample of the training rows."""
    labels = audited_classes(selection_of(train).counts_C.tolist(), AUDITED)
    if not labels or len(network.schema.classes) < 2:
        return []
    batch = sample_for_audit(train, labels).to(network.counts_C.device)

    def posterior(outputs: Outputs) -> Tensor:
        return decider.probabilities(outputs.logits_BEC.float().cpu())

    return audit_shortcuts(network, batch, posterior, labels, seconds=seconds)


def sample_for_audit(train: BatchSource, labels: Sequence[int]) -> Batch:
    """Returns training rows of the audited classes, and others."""
    labels_R, share = selection_of(train).labels_R, rows_share(train)
    own = [np.flatnonzero(labels_R == label)[: CLASS_ROWS // share + 8] for label in labels]
    others = np.flatnonzero((labels_R >= 0) & ~np.isin(labels_R, np.asarray(labels)))
    others = evenly(others, OTHER_ROWS // share)
    return read_places(train, np.sort(np.concatenate([*own, others])))


def selection_of(source: BatchSource) -> Selection:
    """Returns the rows that a source reads."""
    assert isinstance(source, (MemorySource, StreamSource))
    return source.plan.selection


def rows_share(source: BatchSource) -> int:
    """Returns 1 for rows in memory, and for a stream how many times fewer rows are read."""
    return 1 if isinstance(source, MemorySource) else STREAM_SHARE


def evenly(places: IntArray, most: int) -> IntArray:
    """Returns at most so many of the places, evenly spread."""
    if len(places) <= most:
        return places
    return places[np.linspace(0, len(places) - 1, most).astype(np.int64)]


def importance_figure(
    found: Sequence[Importance], total_columns: int, rows: str = "Validation"
) -> Figure:
    """Draws how much balanced accuracy falls without each part, with intervals.

    total_columns: of all tables, measured or not. rows: of what.
    """
    modalities = [part for part in found if not part.column]
    columns = sorted((part for part in found if part.column), key=lambda part: -part.fall)
    shown = [*modalities, *columns[:SHOWN]]
    labels = row_labels([part.title for part in shown])
    figure = empty_figure(120 + 30 * len(shown), x="fall of balanced accuracy (points)")
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash", "width": 1})
    figure.add_scatter(
        x=[100 * part.fall for part in shown],
        y=[labels[part.title] for part in shown],
        mode="markers",
        marker={
            "color": [BETTER_COLOUR if part.low > 0 else GREY for part in shown],
            "symbol": ["circle" if part.low > 0 else "circle-open" for part in shown],
            "size": 10,
        },
        error_x={
            "type": "data",
            "array": [100 * (part.high - part.fall) for part in shown],
            "arrayminus": [100 * (part.fall - part.low) for part in shown],
            "color": GREY,
            "thickness": 1.6,
        },
    )
    figure.update_yaxes(
        categoryorder="array", categoryarray=[labels[part.title] for part in reversed(shown)]
    )
    left_out = len(columns) - len(columns[:SHOWN])
    rest = f" {left_out} less important columns are left out." if left_out else ""
    if total_columns > len(columns):
        rest += (
            f" Of {total_columns} columns, {len(columns)} were measured: those of which one "
            "exchange in a few records changes the answers most."
        )
    return Figure(
        figure=figure,
        caption=(
            f"{rows}: how much balanced accuracy falls where a modality or a column is that of "
            "another record, with 95 % intervals; hollow marks are not shown to matter. Of two "
            f"parts that say the same, neither may seem to matter.{rest}"
        ),
        name="importance",
    )


def shortcut_blocks(findings: Sequence[Finding], classes: Sequence[str]) -> list[Block]:
    """Returns the verdict of the audit and its table."""
    if not findings:
        return []
    alarms = [finding for finding in findings if finding.is_shortcut]
    texts = [
        f"{classes[finding.label]} may hang on a shortcut: {finding.part.title(GRID)}, alone finds "
        f"its rows with an average precision of {finding.precision:.2f}, which no other part comes "
        f"near. {_use(finding)} Would it be there in service?"
        for finding in alarms
    ]
    if not alarms:
        texts = ["No column and no patch of the pictures alone gives a rare class away."]
    table = ReportTable(
        columns=(
            "class",
            "most telling part",
            "precision alone",
            "stands out",
            "at least",
            "points lost without",
            "points gained with",
        ),
        rows=[
            [
                classes[finding.label],
                finding.part.title(GRID),
                *(
                    TableCell(text=f"{value:.2f}", value=value)
                    for value in (finding.precision, finding.stands_out, finding.surely)
                ),
                *(
                    None if value is None else TableCell(text=f"{round(100 * value)}", value=value)
                    for value in (finding.lost, finding.gained)
                ),
            ]
            for finding in findings
        ],
        caption=(
            "Shortcut audit of the rarest classes with at least 10 training rows: the part that "
            "most surely tells a class better than the other parts do; by how much it does, and "
            "by how much at least, since the class has few rows (from 0.5 on it is a shortcut); "
            "what its own rows lose in probability with the part of others, and what others gain "
            "with its part."
        ),
    )
    return [*(Text(text) for text in texts), table]


def _use(finding: Finding) -> str:
    """Says whether the model goes by the part."""
    effect = 100 * max(finding.lost or 0.0, finding.gained or 0.0)
    if effect < 5:
        return "This model hardly goes by it."
    return f"The model goes by it: exchanged, it moves the probability by {effect:.0f} points."
