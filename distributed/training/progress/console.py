"""What a person reads: one live line on a terminal, else one line an epoch; then the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import rich.console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from distributed.config import OptimConfig
from distributed.training.results import RunMetrics
from model.metrics.names import (
    CHOOSE_WHEN,
    OPERATING_METRICS,
    OPERATING_PRIORS,
    at_prior,
    metric,
    worst_class,
)
from model.schema import groups_are_terciles, join_names

# Lines of the results in their order: the overall scores, the tail, the calibration.
RESULTS = (
    "balanced_accuracy",
    "accuracy",
    "macro_f1",
    "many_shot_accuracy",
    "medium_shot_accuracy",
    "few_shot_accuracy",
    "worst_recall",
    "ece",
)
TITLE_WIDTH, VALUE_WIDTH = 28, 8  # characters of the results table
BAR_WIDTH = 40  # characters at most; on a narrow terminal what the text leaves


class EpochBar:
    """Shows epoch, loss, balanced accuracy on validation, rows per second and the time left.

    The time left is counted from the end of the first epoch that is shown, because the time before
    it may have gone into the frozen part of an encoder, which is computed only once.
    """

    def __init__(self, epochs: int, title: str = "training") -> None:
        self.epochs, self.title = epochs, title
        self.first: tuple[float, float] | None = None  # the first epoch shown, and when it ended
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> EpochBar:
        if sys.stderr.isatty():
            self.bar = Progress(
                BarColumn(None, table_column=Column(max_width=BAR_WIDTH)),
                TextColumn("epoch {task.completed:.0f}/{task.total:.0f} {task.description}"),
                console=rich.console.Console(stderr=True),
            )
            self.task = self.bar.add_task(self.title, total=self.epochs)
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Shows a finished epoch."""
        epoch, now = metrics["epoch"], time.perf_counter()
        balanced = metric("balanced_accuracy")
        parts = [
            f"loss {metrics['loss']:.3f}",
            f"{balanced.title} {balanced.text(metrics['val/balanced_accuracy'])}",
            f"{metrics['rows_per_second']:,.0f} rows/s",
        ]
        if self.first is None:
            self.first = epoch, now
        else:
            first_epoch, first_ended = self.first
            seconds_an_epoch = (now - first_ended) / (epoch - first_epoch)
            left = round(seconds_an_epoch * (self.epochs - epoch))
            parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        if self.bar is None:
            line = "  ".join((f"epoch {epoch:.0f}/{self.epochs}", *parts))
            print(line, file=sys.stderr, flush=True)
        else:  # fits a terminal of 80 columns
            self.bar.update(self.task, completed=epoch, description=" ".join(parts))


def epochs_summary(metrics: RunMetrics, optim: OptimConfig) -> str:
    """How many epochs there were, why no more, and which of them has the scores."""
    summary = f"{metrics.epochs} of {optim.epochs}"
    if metrics.epochs < optim.epochs:  # only optim.patience ends a run of train.py early
        summary += f": no better validation score for {optim.patience}"
    return (
        f"{summary}; the scores are of epoch {metrics.best_epoch}, "
        "with what was fitted on validation after it"
    )


def results_notes(metrics: RunMetrics, classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """What the table of results does not show. counts: training rows of each class."""
    notes = []
    if absent := [name for name, count in zip(classes, counts, strict=True) if not count]:
        notes.append(f"training has no rows of {join_names(absent)}: they can hardly be predicted")
    for split, values in metrics.splits.items():
        if absent := [name for name in classes if f"recall/{name}" not in values]:
            present = len(classes) - len(absent)
            notes.append(
                f"{split} has no rows of {join_names(absent)}: "
                f"its scores are of {present} of {len(classes)} classes"
            )
    worst = {split: worst_class(values, classes) for split, values in metrics.splits.items()}
    notes.append(
        "worst class: "
        + ", ".join(f"{name} on {split}" for split, name in worst.items() if name is not None)
    )
    if metrics.screening:
        notes.append(metrics.screening)
    if metrics.calibration:
        parts = metrics.calibration.split("; ")
        reasons = dict.fromkeys(part.partition(": ")[2] or part for part in parts)
        notes.append(f"calibration: {'; '.join(reasons)}")
    if groups_are_terciles(counts):
        notes.append(
            "many, medium and few-shot are thirds of the classes by training rows: "
            "by 100 and 20 rows one of them would be empty"
        )
    if metrics.test is None:
        notes.append(
            "the data has no test rows; the scores on validation, which picked the epoch, "
            "are biased a little upwards"
        )
    return notes


def results_table(metrics: RunMetrics, classes: int) -> str:
    """The metrics of validation and test side by side."""
    splits = metrics.splits
    heading = "".join(f"{split:>{VALUE_WIDTH}}" for split in splits)
    lines = [f"{'':{TITLE_WIDTH}}{heading}   ({classes} classes)"]
    weights = [name for name in metrics.val if name.startswith("weight/")]
    for name in (*RESULTS, *weights):
        named = metric(name)
        values = (named.value(values.get(name)) for values in splits.values())
        line = "".join(f"{value:>{VALUE_WIDTH}}" for value in values)
        lines.append(f"{named.heading:{TITLE_WIDTH}}{line}")
    return "\n".join([*lines, *operating_lines(metrics)])


def operating_lines(metrics: RunMetrics) -> list[str]:
    """What the same checkpoint scores at the priors that have a name, and when to choose which."""
    lines = []
    for prior in OPERATING_PRIORS:
        lines.append(f"with --prior {prior}: {CHOOSE_WHEN[prior]}")
        for name in OPERATING_METRICS:
            values = (
                metric(name).value(values.get(at_prior(name, prior)))
                for values in metrics.splits.values()
            )
            line = "".join(f"{value:>{VALUE_WIDTH}}" for value in values)
            lines.append(f"{'  ' + metric(name).heading:{TITLE_WIDTH}}{line}")
    return lines
