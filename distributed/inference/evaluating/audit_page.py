"""The page of a label audit: suspect rows beside the rows that are most like them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from distributed.inference.evaluating.label_audit import (
    PAGE,
    LabelAudit,
    nearest_neighbours,
)
from distributed.inference.weighing import pick_device
from distributed.reporting.cards import Card, Gallery, Neighbour, VerdictButton, picture_source
from distributed.reporting.page import Block, Bullets, Section, to_html
from distributed.reporting.tables import ReportTable
from distributed.runtime.redaction import redact
from distributed.runtime.storage import join, write_file
from distributed.shards.batches import BatchSource
from distributed.shards.sampling import IntArray
from distributed.training.checkpoint import Checkpoint
from distributed.training.pages.record_cards import Records, card_maker, read_records
from distributed.training.pages.run_page import calibrated
from distributed.training.pages.splits import shot_names
from model.classifier import Classifier
from model.decisions.label_noise import held_out_log_posterior

SHOWN = 40  # suspects on the page
SHOWN_FEW = 20  # more of few-shot classes
SECONDS = 5.0  # for the explanations


def write_audit_page(
    checkpoint: Checkpoint, audit: LabelAudit, source: BatchSource, shards: str, gpus: float
) -> None:
    """Writes audit.html."""
    shown = shown_suspects(audit, checkpoint.network)
    cards: list[Card] = []
    if len(shown):
        cards = suspect_cards(checkpoint, audit, source, shards, shown, gpus)
    html = to_html(
        "Label audit",
        audit_sections(audit, cards, shown, checkpoint.network),
        lead=f"{len(audit.suspects):,} of {audit.rows:,} training rows are suspect; data {shards}",
    )
    write_file(join(audit.out, PAGE), redact(html).encode())


def shown_suspects(audit: LabelAudit, network: Classifier) -> IntArray:
    """Returns which of the suspects the page shows: the first ones, and more of few-shot labels."""
    few = np.flatnonzero(is_few_shot(audit, network))
    return np.union1d(np.arange(min(SHOWN, len(audit.suspects))), few[:SHOWN_FEW]).astype(np.int64)


def is_few_shot(
    audit: LabelAudit, network: Classifier
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Returns whether each suspect is labelled as a few-shot class."""
    groups = dict(zip(network.schema.classes, shot_names(network)))
    return np.array([groups[label] == "few" for label in audit.suspects["label"]], dtype=bool)


def suspect_cards(
    checkpoint: Checkpoint,
    audit: LabelAudit,
    source: BatchSource,
    shards: str,
    shown: IntArray,
    gpus: float,
) -> list[Card]:
    """Returns the cards of the shown suspects, with their neighbours."""
    network, device = checkpoint.network, pick_device(gpus)
    classes = network.schema.classes
    records = read_records(shards, "train", source, audit.places[shown], network)
    with torch.inference_mode():
        batch = records.batch.to(device)
        posterior_BC = held_out_log_posterior(network(batch), batch.ranks_B, network.counts_C)
    suggested_B = torch.tensor(
        [classes.index(name) for name in audit.suspects["suggested"].iloc[shown]]
    )
    maker = card_maker(
        records,
        network,
        calibrated(checkpoint.calibration),
        posterior_BC.exp().cpu(),
        suggested_B,
        SECONDS,
        cross_fitted=True,
    )
    near_SK = nearest_neighbours(checkpoint, source, audit.places[shown], device)
    unique, inverse_SK = np.unique(near_SK, return_inverse=True)
    others = neighbours(read_records(shards, "train", source, unique, network), network)
    cards = []
    for s, (card, row) in enumerate(zip(maker.cards(), audit.suspects.iloc[shown].itertuples())):
        cards.append(
            replace(
                card,
                outcome=f"labelled {row.label}, rather {row.suggested}",
                neighbours=[others[k] for k in inverse_SK.reshape(near_SK.shape)[s]],
                verdict_id=str(row.id),
            )
        )
    return cards


def neighbours(records: Records, network: Classifier) -> list[Neighbour]:
    """Returns rows as neighbours: label and first picture."""
    found = []
    for b in range(len(records.batch)):
        source = ""
        for m, image in enumerate(network.schema.images):
            if records.batch.present_BM[b, m] and not source:
                source = picture_source(records.batch.images[image.name][b].numpy())
        label = network.schema.classes[int(records.batch.labels_B[b])]
        found.append(Neighbour(label, source, records.title(b)))
    return found


def audit_sections(
    audit: LabelAudit, cards: list[Card], shown: IntArray, network: Classifier
) -> list[Section]:
    """Returns the sections of the page."""
    few = is_few_shot(audit, network)
    is_few = {int(k) for k in np.flatnonzero(few)}
    of_few = [card for card, k in zip(cards, shown) if int(k) in is_few]
    first = [card for card, k in zip(cards, shown) if int(k) < SHOWN and int(k) not in is_few]
    ask: list[Block] = [
        VerdictButton(
            "Tick the rows whose label is wrong and save the verdict; `ingest.py --drop-ids "
            "verdict.csv` leaves them out, and all other rows keep their splits."
        )
    ]
    counts = [
        (label, int((audit.suspects["label"] == label).sum()), network.schema.counts[c])
        for c, label in enumerate(network.schema.classes)
    ]
    return [
        Section("Verdict", ask if cards else []),
        Section("Suspects with labels of few-shot classes", _gallery(of_few)),
        Section("Most suspect", _gallery(first)),
        Section(
            "By class",
            [
                ReportTable(
                    columns=("label", "suspects", "training rows"),
                    rows=[list(row) for row in sorted(counts, key=lambda row: -row[1])],
                )
            ],
        ),
        Section(
            "How to read this",
            [
                Bullets(
                    [
                        "A row is suspect where classifiers that have not learned from it find "
                        "another class more probable than its label. The encoders before them have "
                        "learned from it. Many suspects are merely hard: look before you tick.",
                        "The probabilities of the classes are at the class shares of the training "
                        "rows. Points and patches are about the class that is suggested.",
                        "Only training rows are audited. To clean validation or test rows by what "
                        "a model says would make it look better than it is.",
                        f"suspects.csv lists all {len(audit.suspects):,} suspects; a column drop "
                        "with yes in it does the same as a tick here.",
                    ]
                )
            ],
        ),
    ]


def _gallery(cards: list[Card]) -> list[Block]:
    return [Gallery(cards=cards)] if cards else []
