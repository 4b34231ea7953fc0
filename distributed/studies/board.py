"""TensorBoard of a study: a run for every cell, named CONDITION/VARIANT/seed-K, its hyperparameter group the variant under the condition,
so that seeds fold. Variants that share a training share its curves; of conditions that differ at test only the first one has them, and all
have their scores."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed.reporting.page import slug
from distributed.runtime import storage
from distributed.runtime.storage import is_uri, join
from distributed.studies.definition import Cell
from distributed.studies.results import CellRow
from distributed.training.board import scalar_tag

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
        if row["state"] == "done":
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
    run = join("tensorboard", *parts, slug(cell.variant), f"seed-{cell.seed}")
    if not is_uri(folder):
        _events(join(folder, run), cell, row, history, last)
        return
    with tempfile.TemporaryDirectory() as here:
        _events(here, cell, row, history, last)
        for file in Path(here).iterdir():
            storage.write_file(join(folder, run, file.name), file.read_bytes())


def _events(
    place: str, cell: Cell, row: CellRow, history: Sequence[dict[str, float]], last: int
) -> None:
    from tensorboard.plugins.hparams import summary_v2
    from torch.utils.tensorboard import SummaryWriter

    for old in Path(place).glob("events.*"):  # a cell that is run again replaces its curves
        old.unlink()
    writer: Any = SummaryWriter(place)
    for metrics in history:
        for name, value in metrics.items():
            if name not in ("epoch", "best_epoch"):
                writer.add_scalar(scalar_tag(name), value, int(metrics["epoch"]))
    for name in SHOWN:
        if f"test/{name}" in row:
            writer.add_scalar(f"final/test/{name}", row[f"test/{name}"], last)
    settings = {
        name: value
        for name, value in cell.settings.items()
        if isinstance(value, bool | int | float | str)
    }
    plain = {"variant": cell.variant, "condition": cell.condition, **settings}
    group = f"{row['data']}, {cell.condition}, {cell.variant}"
    writer.file_writer.add_summary(_plain(summary_v2.hparams_pb(plain, trial_id=group)))
    writer.close()


def _plain(proto: Any) -> Any:
    """The summary as the class that torch's writer takes."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.FromString(proto.SerializeToString())
