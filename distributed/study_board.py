"""TensorBoard of a study: a run for every variant of a training, named VARIANT/seed-K, its hyperparameter group the variant, so that seeds
fold. Variants that share a training share its curves; conditions that differ at test only are the first one's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed import checkpoints
from distributed.board import tag
from distributed.report import slug
from distributed.results import Row
from distributed.shards import is_uri, join
from distributed.study import Cell

SHOWN = ("balanced_accuracy", "macro_f1", "worst_recall", "many_shot_accuracy", "medium_shot_accuracy", "few_shot_accuracy", "ece")


def write(
    folder: str, group: Sequence[tuple[str, Cell]], rows: Sequence[Row], history: Sequence[dict[str, float]], *, several: bool
) -> None:
    """Event files of one training under folder/tensorboard; with several data sets their name leads."""
    firsts: dict[str, tuple[str, Cell, Row]] = {}
    for (data, cell), row in zip(group, rows, strict=True):
        firsts.setdefault(cell.variant, (data, cell, row))
    for data, cell, row in firsts.values():
        _write_one(folder, data, cell, row, history, several)


def _write_one(folder: str, data: str, cell: Cell, row: Row, history: Sequence[dict[str, float]], several: bool) -> None:
    parts = [*([slug(data)] if several else []), *([] if cell.condition == "clean" else [slug(cell.condition)])]
    run = join("tensorboard", *parts, slug(cell.variant), f"seed-{cell.seed}")
    if not is_uri(folder):
        _events(join(folder, run), cell, row, history)
        return
    with tempfile.TemporaryDirectory() as here:
        _events(here, cell, row, history)
        for file in Path(here).iterdir():
            checkpoints.write_file(join(folder, run, file.name), file.read_bytes())


def _events(place: str, cell: Cell, row: Row, history: Sequence[dict[str, float]]) -> None:
    from tensorboard.plugins.hparams import summary_v2
    from torch.utils.tensorboard import SummaryWriter

    for old in Path(place).glob("events.*"):  # a cell that is run again replaces its curves
        old.unlink()
    writer: Any = SummaryWriter(place)
    for metrics in history:
        for name, value in metrics.items():
            if name not in ("epoch", "best_epoch"):
                writer.add_scalar(tag(name), value, int(metrics["epoch"]))
    last = int(history[-1]["epoch"])
    for name in SHOWN:
        if f"test/{name}" in row:
            writer.add_scalar(f"final/test/{name}", row[f"test/{name}"], last)
    settings = {name: value for name, value in cell.settings.items() if isinstance(value, bool | int | float | str)}
    plain = {"variant": cell.variant, "condition": cell.condition, **settings}
    group = f"{row['data']}, {cell.condition}, {cell.variant}"
    writer.file_writer.add_summary(_plain(summary_v2.hparams_pb(plain, trial_id=group)))
    writer.close()


def _plain(proto: Any) -> Any:
    """The summary as the class that torch's writer takes."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.FromString(proto.SerializeToString())
