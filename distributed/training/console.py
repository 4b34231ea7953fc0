"""What a person sees while a run trains: one live line on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from model.schema import groups_are_terciles, join_names

if TYPE_CHECKING:
    from distributed.config import OptimConfig


class EpochBar:
    """Epoch, loss, balanced accuracy on validation, rows per second and the time left."""

    def __init__(self, epochs: int, title: str = "training") -> None:
        self.epochs, self.title, self.live = epochs, title, sys.stderr.isatty()
        self.started = time.perf_counter()
        self.first: float | None = None  # epochs that were done before we started to count
        self.bar: Any = None

    def __enter__(self) -> EpochBar:
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            bar = BarColumn(
                None, table_column=Column(max_width=40)
            )  # has what the words leave of the line
            words = TextColumn("epoch {task.completed:.0f}/{task.total:.0f} {task.description}")
            self.bar = Progress(bar, words, console=Console(stderr=True))
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

    def __call__(self, metrics: dict[str, float]) -> None:
        if self.first is None:
            self.first = metrics["epoch"] - 1
        done = metrics["epoch"] - self.first
        left = round((time.perf_counter() - self.started) / done * (self.epochs - metrics["epoch"]))
        said = (
            f"loss {metrics['loss']:.3f}",
            f"balanced accuracy {100 * metrics['val/balanced_accuracy']:.1f} %",
            f"{metrics['rows_per_second']:,.0f} rows/s",
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left",
        )
        if self.bar is None:
            print(
                "  ".join((f"epoch {metrics['epoch']:.0f}/{self.epochs}", *said)),
                file=sys.stderr,
                flush=True,
            )
        else:  # what a terminal of 80 columns holds
            self.bar.update(self.task, completed=metrics["epoch"], description=" ".join(said))


def epochs_summary(metrics: dict[str, Any], optim: OptimConfig) -> str:
    """How many epochs there were, why no more, and which of them has the scores."""
    told = f"{metrics['epochs']} of {optim.epochs}"
    if metrics["epochs"] < optim.epochs:  # only optim.patience ends a run of train.py before
        told += f": no better validation score for {optim.patience}"
    return f"{told}; the scores are of epoch {metrics['best_epoch']}, with what was fitted on validation after it"


def results_notes(
    metrics: dict[str, Any], classes: Sequence[str], counts: Sequence[int]
) -> list[str]:
    """What the table of a run cannot say. counts: training rows of each class."""
    notes = []
    if absent := [name for name, count in zip(classes, counts) if not count]:
        notes.append(f"training has no rows of {join_names(absent)}: they can hardly be predicted")
    for split in (s for s in ("val", "test") if s in metrics):
        if absent := [name for name in classes if f"recall/{name}" not in metrics[split]]:
            notes.append(
                f"{split} has no rows of {join_names(absent)}: its scores are of {len(classes) - len(absent)} of {len(classes)} classes"
            )
    if metrics["calibration"]:
        reasons = dict.fromkeys(
            part.partition(": ")[2] or part for part in metrics["calibration"].split("; ")
        )
        notes.append(f"calibration: {'; '.join(reasons)}")
    if groups_are_terciles(counts):
        notes.append(
            "many, medium and few-shot are thirds of the classes by training rows: by 100 and 20 rows one of them would be empty"
        )
    if "test" not in metrics:
        notes.append(
            "the data has no test rows; the scores on validation, which picked the epoch, are a little flattered"
        )
    return notes


def results_table(metrics: dict[str, Any], classes: int) -> str:
    """The end of a run: validation and test side by side."""
    rows = {
        "balanced accuracy": "balanced_accuracy",
        "accuracy": "accuracy",
        "macro F1": "macro_f1",
        "many-shot accuracy": "many_shot_accuracy",
        "medium-shot accuracy": "medium_shot_accuracy",
        "few-shot accuracy": "few_shot_accuracy",
        "worst class recall": "worst_recall",
        "calibration error (ECE)": "ece",
    }
    splits = [s for s in ("val", "test") if s in metrics]
    lines = [f"{'in %':26}" + "".join(f"{s:>8}" for s in splits) + f"   ({classes} classes)"]
    for title, name in rows.items():
        lines.append(
            f"{title:26}"
            + "".join(
                f"{100 * metrics[s][name]:8.1f}" if name in metrics[s] else f"{'-':>8}"
                for s in splits
            )
        )
    for name in metrics[splits[0]]:
        if name.startswith("weight/"):
            lines.append(
                f"{'fusion weight ' + name[7:]:26}"
                + "".join(f"{100 * metrics[s][name]:8.1f}" for s in splits)
            )
    return "\n".join(lines)
