"""Plans a study: its cells on every data set, or only those that were requested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distributed.config import split_list
from distributed.runtime.errors import OptionError
from distributed.runtime.suggestions import valid_names
from distributed.shards.corruption import parse_corruption
from distributed.studies.cells import DataSetCells, cells_for_data_set
from distributed.studies.data_sets import DataSet
from distributed.studies.definition import Study
from model.schema import Schema


def study_cells(
    study: Study,
    data_sets: Sequence[DataSet],
    seeds: int,
    extra: Mapping[str, object],
    variants: str | None = None,
    conditions: str | None = None,
) -> dict[str, DataSetCells]:
    """The study's cells on every data set, by the data set's name.

    extra: settings of every cell, from --set and --quick.
    variants, conditions: comma-separated names that limit the cells; None: all. The reference is
    always kept.
    """
    planned: dict[str, DataSetCells] = {}
    for data in data_sets:
        schema = data.manifest.schema
        tables = [table.name for table in schema.tables]
        planned[data.name] = cells_for_data_set(study, schema.modalities, tables, seeds, extra)
    if variants is not None or conditions is not None:
        planned = _keep_requested(planned, study.reference, variants, conditions)
    for data in data_sets:
        _check_corruptions(planned[data.name], data.manifest.schema)
    return planned


def _keep_requested(
    planned: Mapping[str, DataSetCells],
    reference: str,
    variants: str | None,
    conditions: str | None,
) -> dict[str, DataSetCells]:
    all_variants = [v.name for cells in planned.values() for v in cells.variants]
    all_conditions = [c.name for cells in planned.values() for c in cells.conditions]
    kept_variants = _requested("variants", variants, all_variants) | {reference}
    kept_conditions = _requested("conditions", conditions, all_conditions)
    return {
        name: cells.keep(
            cell
            for cell in cells.cells
            if cell.variant in kept_variants and cell.condition in kept_conditions
        )
        for name, cells in planned.items()
    }


def _requested(option: str, listed: str | None, available: Sequence[str]) -> set[str]:
    """The names in a comma-separated list. A name may contain commas itself: the longest fits."""
    if listed is None:
        return set(available)
    parts = list(split_list(listed))
    requested: set[str] = set()
    while parts:
        lengths = [n for n in range(len(parts), 0, -1) if ", ".join(parts[:n]) in available]
        if not lengths:
            raise OptionError(
                f"{option} must name {option} of the study; got {parts[0]!r}; "
                f"{valid_names(parts[0], available)}",
                option,
            )
        requested.add(", ".join(parts[: lengths[0]]))
        del parts[: lengths[0]]
    return requested


def _check_corruptions(cells: DataSetCells, schema: Schema) -> None:
    """Refuses corruptions of modalities that a cell does not use, and unknown kinds of them."""
    for cell in cells.cells:
        kept = schema.keep(split_list(str(cell.settings.get("data.modalities", ""))))
        parse_corruption(cell.test_corruption, kept)
