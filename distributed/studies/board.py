"""TensorBoard of a study: a run for every cell, named CONDITION/VARIANT/seed-K, its hyperparameter group the variant under the condition,
so that seeds fold. Variants that share a training share its curves; of conditions that differ at test only the first one has them, and all
have their scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distributed.reporting.events import EventWriter, remove_event_files, scalar_tag
from distributed.reporting.files import slug
from distributed.runtime.storage import is_uri, join, uploader
from distributed.studies.definition import Cell
from distributed.studies.results import CellRow

SHOWN = (
    "balanced_accuracy",
    "macro_f1",
    "worst_recall",
    "many_shot_accuracy",
    "medium_shot_accuracy",
    "few_shot_accuracy",
    "ece",
)


def write(
    folder: str,
    group: Sequence[tuple[str, Cell]],
    rows: Sequence[CellRow],
    history: Sequence[dict[str, float]],
    *,
    several: bool,
) -> None:
    """Event files of one training's finished cells under folder/tensorboard; with several data sets their name leads. Gradient boosting
    has no history."""
    drawn: set[str] = set()
    for (data, cell), row in zip(group, rows, strict=True):
        curves = [] if cell.variant in drawn else history
        if row.state == "done":
            drawn.add(cell.variant)
            _write_one(
                folder,
                data,
                cell,
                row,
                curves,
                int(history[-1]["epoch"]) if history else 0,
                several,
            )


def _write_one(
    folder: str,
    data: str,
    cell: Cell,
    row: CellRow,
    history: Sequence[dict[str, float]],
    last: int,
    several: bool,
) -> None:
    parts = [
        *([slug(data)] if several else []),
        *([] if cell.condition == "clean" else [slug(cell.condition)]),
    ]
    run = join(folder, "tensorboard", *parts, slug(cell.variant), f"seed-{cell.seed}")
    if not is_uri(run):  # a cell that is run again replaces its curves
        remove_event_files(Path(run))
    events = EventWriter(run, upload=uploader(run))
    for metrics in history:
        for name, value in metrics.items():
            if name not in ("epoch", "best_epoch"):
                events.scalar(scalar_tag(name), value, int(metrics["epoch"]))
    for name in SHOWN:
        if f"test/{name}" in row.metrics:
            events.scalar(f"final/test/{name}", row.metrics[f"test/{name}"], last)
    settings = {
        name: value
        for name, value in cell.settings.items()
        if isinstance(value, bool | int | float | str)
    }
    events.start_session(
        {"variant": cell.variant, "condition": cell.condition, **settings},
        group=f"{row.data}, {cell.condition}, {cell.variant}",
    )
    events.close()
