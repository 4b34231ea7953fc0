"""TensorBoard of a study: one run for every cell, named CONDITION/VARIANT/seed-K.

Its hyperparameter group is the variant under the condition, so that seeds are shown together.
Variants that share a training share its curves. Of conditions that differ at test time only, the
first has the curves, and all have their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distributed.reporting.events import EventWriter, remove_event_files, scalar_tag
from distributed.reporting.files import slug
from distributed.runtime.storage import is_uri, join, uploader
from distributed.studies.definition import Cell
from distributed.studies.results import CellRow
from model.metrics.names import HEADLINE_METRICS

NOT_CURVES = ("epoch", "best_epoch")  # entries of a training's history that are no metrics


def write_cell_events(
    folder: str,
    cells: Sequence[tuple[str, Cell]],
    rows: Sequence[CellRow],
    history: Sequence[dict[str, float]],
    *,
    with_data_names: bool,
) -> None:
    """Writes the event files of one training's finished cells, under tensorboard/ in the folder.

    cells: with the names of their data sets. rows: their results, in the same order.
    history: the metrics of every epoch; gradient boosting has none.
    with_data_names: whether the runs' names begin with the data set.
    """
    epochs = int(history[-1]["epoch"]) if history else 0
    variants_with_curves: set[str] = set()
    for (data, cell), row in zip(cells, rows, strict=True):
        if row.state != "done":
            continue
        curves = [] if cell.variant in variants_with_curves else history
        variants_with_curves.add(cell.variant)
        place = [slug(data)] if with_data_names else []
        if cell.condition != "clean":
            place.append(slug(cell.condition))
        run = join(folder, "tensorboard", *place, slug(cell.variant), f"seed-{cell.seed}")
        _write_run(run, cell, row, curves, epochs)


def _write_run(
    run: str,
    cell: Cell,
    row: CellRow,
    history: Sequence[dict[str, float]],
    epochs: int,
) -> None:
    """Writes one run into its folder or URI; a cell that is run again replaces its curves.

    epochs: how many the training took, the step of the test scores.
    """
    if not is_uri(run):
        remove_event_files(Path(run))
    events = EventWriter(run, upload=uploader(run))
    for metrics in history:
        for name, value in metrics.items():
            if name not in NOT_CURVES:
                events.scalar(scalar_tag(name), value, int(metrics["epoch"]))
    for name in HEADLINE_METRICS:
        if f"test/{name}" in row.metrics:
            events.scalar(f"final/test/{name}", row.metrics[f"test/{name}"], epochs)
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
