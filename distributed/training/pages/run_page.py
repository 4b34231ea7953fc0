"""Writes the page and the model card of a finished training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from distributed.config import settings_file
from distributed.shards.batches import BatchSource
from distributed.shards.manifest import Manifest
from distributed.training.pages.gallery import build_galleries
from distributed.training.pages.reliance import reliance_section
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


def write_run_page(run: FinishedRun) -> None:
    """Writes report.html into the folder of the run.

    A page is never worth a finished training: whatever goes wrong becomes a warning.
    """
    try:
        write_page(f"{run.spec.out}/{PAGE}", run_report(run))
    except Exception as error:  # of any part, on any data
        print(f"warning: no {PAGE} ({type(error).__name__}: {error})", file=sys.stderr)


def calibrated(calibration: Calibration) -> Decider:
    """Returns the answers of the experts' mean after calibration, with the fitted offsets."""
    return Decider(
        lambda logits_NEC: calibration.scale(logits_NEC).mean(1).softmax(-1), calibration.decide
    )


def run_report(run: FinishedRun) -> RunReport:
    """Returns what the page shows: validation with galleries, and the numbers of the test split."""
    result, network = run.result, run.result.network
    decider = calibrated(result.calibration)
    splits = run_splits(run, decider)
    seconds = max(SECONDS, SHARE_OF_TRAINING * result.metrics.train_seconds)
    return RunReport(
        title=f"Run {run.spec.out.rpartition('/')[2]}",
        lead=lead(run),
        network=network,
        splits=splits,
        history=result.history,
        extra=[
            reliance_section(network, decider, run.sources["val"], run.sources["train"], seconds)
        ],
        galleries=build_galleries(splits[0], network, decider, seconds),
        notes=[result.metrics.calibration] if result.metrics.calibration else [],
        settings=settings_file(dict(run.spec.settings), "Settings that differ from the defaults."),
        reading=[
            "Validation picked the epoch and fitted the calibration. The test split is there to be "
            "reported: only its numbers are shown, because who looks at its records and changes "
            "something has no test any more."
        ],
    )


def run_splits(run: FinishedRun, decider: Decider) -> list[PageSplit]:
    """Returns the scored splits, validation first."""
    return [
        page_split(
            name, run.spec.shards, run.sources.get(name), scores, run.result.network, decider
        )
        for name, scores in run.result.scores.items()
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
