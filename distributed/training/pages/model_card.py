"""The model card of a run, MODEL_CARD.md: what it is, how good, and what it was not tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributed.reporting.page import Block, Bullets, Code, Section, Text, to_markdown
from distributed.reporting.tables import CellContent, ReportTable
from distributed.runtime.redaction import redact
from distributed.runtime.storage import write_file
from distributed.shards.manifest import Manifest
from distributed.training.pages.splits import PageSplit, shot_names
from distributed.training.pages.tables import interval_text, operating_table
from model.classifier import Classifier
from model.explaining.robustness import Condition
from model.explaining.shortcuts import GRID, Finding
from model.metrics.names import metric, worst_class
from model.metrics.scoring import SHOTS
from model.network import Network
from model.schema import join_names

CARD = "MODEL_CARD.md"  # in the folder of a run
SCARCE = 10  # test rows; the recall of a class with fewer says little
HEADLINES = ("balanced_accuracy", "accuracy", "macro_f1")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model card says.

    shards: where the data lay. digest: of its rows. epoch: the one that was kept.
    conditions: balanced accuracy with broken modalities, on validation. findings: of the audit of
        shortcuts. settings: those that differ from the defaults.
    """

    name: str
    network: Classifier
    manifest: Manifest
    shards: str
    digest: str
    epoch: int
    splits: Sequence[PageSplit]
    conditions: Sequence[Condition]
    findings: Sequence[Finding]
    settings: Mapping[str, object]
    calibration: str = ""


def write_card(location: str, card: ModelCard) -> None:
    """Writes the card to a path or a URI, without secrets."""
    text = to_markdown(f"Model card: {card.name}", card_sections(card))
    write_file(location, redact(text).encode())


def card_sections(card: ModelCard) -> list[Section]:
    """Returns the sections of the card."""
    return [
        Section("What it is", [Bullets(_what_it_is(card))]),
        Section("Data", [Bullets(_data(card)), _class_counts(card)]),
        Section("Results", _results(card)),
        Section("With a broken modality", _robustness(card.conditions)),
        Section("What it was not tested on", [Bullets(not_tested(card))]),
        Section("How to load it", _loading(card)),
        Section("Settings that differ from the defaults", [Bullets(_settings(card))]),
    ]


def _what_it_is(card: ModelCard) -> list[str]:
    network = card.network
    schema = network.schema
    parts = [f"{image.name} (image of {image.height} x {image.width})" for image in schema.images]
    parts += [f"{table.name} ({len(table.columns)} columns)" for table in schema.tables]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    made_of = network.made_of
    if isinstance(network, Network):
        made_of += f"; loss {network.config.loss.name}"
    lines = [
        f"A classifier of {len(schema.classes)} classes from {' and '.join(parts)}.",
        f"{parameters:,} parameters; {made_of}; epoch {card.epoch}.",
        "With the default loss its probabilities are for classes that are equally frequent, not "
        "for the class shares of the data; `predict.py --prior training` moves them.",
    ]
    if card.calibration:
        lines.append(f"Calibration: {card.calibration}.")
    return lines


def _data(card: ModelCard) -> list[str]:
    prepare = card.manifest.prepare
    rows = ", ".join(f"{split} {count:,}" for split, count in card.manifest.rows.items())
    lines = [f"{card.shards}, digest {card.digest}: {rows} rows."]
    if prepare.get("group"):
        lines.append(f"Rows of one {prepare['group']} are in one split.")
    if prepare.get("split_column"):
        lines.append(f"The splits are those of the column {prepare['split_column']}.")
    lines += [str(warning) for warning in prepare.get("warnings", ())]
    return lines


def _class_counts(card: ModelCard) -> ReportTable:
    schema, groups = card.network.schema, shot_names(card.network)
    confusions = [split.confusion(len(schema.classes)) for split in card.splits]
    rows: list[list[CellContent]] = [
        [name, groups[c], schema.counts[c], *(int(rows_CC[c].sum()) for rows_CC in confusions)]
        for c, name in enumerate(schema.classes)
    ]
    rows.sort(key=lambda row: -int(str(row[2])))
    titles = [f"{split.title} rows" for split in card.splits]
    return ReportTable(columns=("class", "group", "training rows", *titles), rows=rows)


def _results(card: ModelCard) -> list[Block]:
    """Metrics with intervals, for all classes and by group."""
    names = (*HEADLINES, *(f"{shot}_shot_accuracy" for shot in SHOTS), "ece")
    columns = ["metric"]
    for split in card.splits:
        columns += [split.title, "95 % interval"]
    rows: list[list[CellContent]] = []
    for name in names:
        entry = metric(name)
        row: list[CellContent] = [entry.heading]
        for split in card.splits:
            row += [
                entry.value(split.metrics.get(name)),
                interval_text(entry, split.intervals.get(name)),
            ]
        rows.append(row)
    blocks: list[Block] = [ReportTable(columns=tuple(columns), rows=rows)]
    operating = operating_table(card.splits)
    if operating is not None:
        blocks.append(operating)
    for split in card.splits:
        worst = worst_class(split.metrics, card.network.schema.classes)
        if worst is not None:
            recall = metric("worst_recall").text(split.metrics[f"recall/{worst}"])
            blocks.append(Text(f"Worst class of {split.title}: {worst}, recall {recall}."))
    return blocks


def _robustness(conditions: Sequence[Condition]) -> list[Block]:
    if not conditions:
        return []
    accuracy = metric("balanced_accuracy")
    return [
        ReportTable(
            columns=("modality", "condition", f"{accuracy.heading} on validation"),
            rows=[
                [c.modality, c.condition, accuracy.value(c.balanced_accuracy)] for c in conditions
            ],
        ),
        Text("The modality is broken so in every record. Fewer broken ones cost less."),
    ]


def not_tested(card: ModelCard) -> list[str]:
    """Returns what the scores say nothing of."""
    schema = card.network.schema
    lines = [
        "Rows of another source or a later time: all splits are of one table.",
        "Single groups of records, such as a sex or a site: `evaluate.py --by COLUMN` scores them.",
    ]
    if len(card.splits) < 2:
        lines.append("Rows that took no part in decisions: the data has no test split.")
    last = card.splits[-1]
    rows_C = last.confusion(len(schema.classes)).sum(1).tolist()
    none = [name for name, rows in zip(schema.classes, rows_C) if not rows]
    few = [name for name, rows in zip(schema.classes, rows_C) if 0 < rows < SCARCE]
    if none:
        lines.append(f"Classes without any {last.title} row: {join_names(none)}.")
    if few:
        lines.append(
            f"Classes with fewer than {SCARCE} {last.title} rows, whose recall says little: "
            f"{join_names(few)}."
        )
    present_NM = last.scores.present_NM
    lines += [
        f"Records without {name}: every {last.title} row has it."
        for m, name in enumerate(schema.modalities)
        if bool(present_NM[:, m].all())
    ]
    if not card.network.has_novelty_limits:
        lines.append("Modalities unlike training: this model does not notice them.")
    lines += [
        f"{schema.classes[finding.label]} without {finding.part.title(GRID)}, which alone gives "
        "the class away in the training rows: a shortcut?"
        for finding in card.findings
        if finding.is_shortcut
    ]
    return lines


def _loading(card: ModelCard) -> list[Block]:
    return [
        Code(
            "from distributed import load\n\n"
            f'model = load("{card.name}")  # this folder\n'
            'predictions = model.predict(frame, images="pictures/")  # pandas in, pandas out'
        ),
        Text("On the command line: python distributed/predict.py --checkpoint FOLDER --data TABLE"),
    ]


def _settings(card: ModelCard) -> list[str]:
    return [f"{name} = {value}" for name, value in sorted(card.settings.items())] or ["none"]
