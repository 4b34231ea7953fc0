"""Writes the page and the model card of a finished training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from distributed.config import settings_file
from distributed.shards.batches import BatchSource
from distributed.shards.manifest import Manifest, shards_digest
from distributed.training.pages.gallery import build_galleries
from distributed.training.pages.model_card import CARD, ModelCard, write_card
from distributed.training.pages.reliance import measure_reliance, reliance_section
from distributed.training.pages.report import PAGE, RunReport, write_page
from distributed.training.pages.splits import Decider, PageSplit, page_split
from distributed.training.results import RunResult
from distributed.training.spec import RunSpec
from model.decisions.calibration import Calibration
from model.metrics.names import metric

# Explanations take a second, or this share of the training.
SECONDS, SHARE_OF_TRAINING = 1.0, 0.02


@dataclass(frozen=True)
class FinishedRun:
    """A finished training with the rows that it used."""

    spec: RunSpec
    manifest: Manifest
    result: RunResult
    sources: Mapping[str, BatchSource]  # of train and val

    @property
    def name(self) -> str:
        """The last part of the run's folder."""
        return self.spec.out.rstrip("/").rpartition("/")[2]


def write_run_page(run: FinishedRun) -> None:
    """Writes report.html and MODEL_CARD.md into the folder of the run.

    A page is never worth a finished training: whatever goes wrong becomes a warning.
    """
    try:
        report, card = describe_run(run)
        write_page(f"{run.spec.out}/{PAGE}", report)
        write_card(f"{run.spec.out}/{CARD}", card)
    except Exception as error:  # of any part, on any data
        print(f"warning: no {PAGE} and {CARD} ({type(error).__name__}: {error})", file=sys.stderr)


def calibrated(calibration: Calibration) -> Decider:
    """Returns the answers of the experts' mean after calibration, with the fitted offsets."""
    return Decider(
        lambda logits_NEC: calibration.scale(logits_NEC).mean(1).softmax(-1), calibration.decide
    )


def describe_run(run: FinishedRun) -> tuple[RunReport, ModelCard]:
    """Returns the page and the card of a run.

    The page shows validation with galleries, and the numbers of the test split.
    """
    result, network = run.result, run.result.network
    decider = calibrated(result.calibration)
    splits = run_splits(run, decider)
    seconds = max(SECONDS, SHARE_OF_TRAINING * result.metrics.train_seconds)
    reliance = measure_reliance(network, decider, run.sources["val"], run.sources["train"], seconds)
    report = RunReport(
        title=f"Run {run.name}",
        lead=lead(run),
        network=network,
        splits=splits,
        history=result.history,
        extra=[reliance_section(reliance, network.schema.classes, network.schema.column_count)],
        galleries=build_galleries(splits[0], network, decider, seconds),
        notes=[note for note in (result.metrics.screening, result.metrics.calibration) if note],
        settings=settings_file(dict(run.spec.settings), "Settings that differ from the defaults."),
        reading=[
            "Validation picked the epoch and fitted the calibration. The test split is there to be "
            "reported: only its numbers are shown, because who looks at its records and changes "
            "something has no test any more."
        ],
    )
    card = ModelCard(
        name=run.name,
        network=network,
        manifest=run.manifest,
        shards=run.spec.shards,
        digest=shards_digest(run.spec.shards, run.manifest),
        epoch=result.metrics.best_epoch,
        splits=splits,
        conditions=reliance.conditions,
        findings=reliance.findings,
        settings=run.spec.settings,
        calibration=result.metrics.calibration,
    )
    return report, card


def run_splits(run: FinishedRun, decider: Decider) -> list[PageSplit]:
    """Returns the scored splits, validation first."""
    result = run.result
    return [
        page_split(
            name,
            run.spec.shards,
            run.sources.get(name),
            scores,
            result.network,
            decider,
            result.metrics.splits.get(name),
        )
        for name, scores in result.scores.items()
    ]


def lead(run: FinishedRun) -> str:
    """Returns the line under the title: the data, the time, the best score."""
    metrics, schema = run.result.metrics, run.manifest.schema
    accuracy = metric("balanced_accuracy")
    scores = ", ".join(
        f"{accuracy.text(values.get(accuracy.name))} on {split}"
        for split, values in metrics.splits.items()
    )
    return (
        f"{len(schema.classes)} classes, {' and '.join(run.result.network.schema.modalities)}; "
        f"balanced accuracy {scores}; epoch {metrics.best_epoch} of {metrics.epochs}, "
        f"{metric('train_seconds').text(metrics.train_seconds)} of training; data {run.spec.shards}"
    )
