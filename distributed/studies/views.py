"""The results of a study under one condition on one data set, and as means over all data sets."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from distributed.reporting.significance import (
    Comparison,
    Summary,
    compare_to_reference,
    summarise,
)
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Study
from distributed.studies.results import CellRow


@dataclass(frozen=True)
class ConditionView:
    """The finished cells of one data set under one condition.

    variants: names in the study's order.
    common_names: of variants named after a modality, the names that they share over data sets.
    """

    study: Study
    data: str
    condition: str
    variants: tuple[str, ...]
    rows: tuple[CellRow, ...]
    common_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> dict[str, int]:
        """How many cells of each variant have finished, for variants with at least one."""
        counts = {
            variant: sum(row.variant == variant for row in self.rows) for variant in self.variants
        }
        return {variant: count for variant, count in counts.items() if count}

    def common_name(self, variant: str) -> str:
        """The variant's name over data sets."""
        return self.common_names.get(variant, variant)

    def scores(self, metric: str) -> dict[str, dict[Hashable, float]]:
        """The test scores as {variant: {seed: value}}, of variants that have the metric at all."""
        column = metric if metric == "train_seconds" else f"test/{metric}"
        scores: dict[str, dict[Hashable, float]] = {variant: {} for variant in self.variants}
        for row in self.rows:
            value = row.metrics.get(column, math.nan)
            if math.isfinite(value) and row.variant in scores:
                scores[row.variant][row.seed] = value
        return {variant: by_seed for variant, by_seed in scores.items() if by_seed}

    def means(self, metric: str) -> dict[str, Summary]:
        """The mean over seeds of every variant that has the metric, with its interval."""
        scores = self.scores(metric)
        return {variant: summarise(list(values.values())) for variant, values in scores.items()}

    def comparisons(self, metric: str) -> list[Comparison]:
        """Every other variant against the reference; empty where the reference has no score."""
        scores = self.scores(metric)
        reference = self.study.reference
        return compare_to_reference(scores, reference) if reference in scores else []

    def test_metrics(self, *families: str) -> list[str]:
        """The names of the test metrics of these families that any row has, sorted."""
        starts = tuple(f"test/{family}/" for family in families)
        columns = {name for row in self.rows for name in row.metrics if name.startswith(starts)}
        return sorted(name.removeprefix("test/") for name in columns)


def condition_views(
    study: Study, planned: Mapping[str, DataSetCells], rows: Iterable[CellRow]
) -> list[ConditionView]:
    """A view of every data set under every condition that has a finished cell."""
    finished = [row for row in rows if row.state == "done"]
    views = []
    for data, part in planned.items():
        variants = tuple(variant.name for variant in part.variants)
        common_names = {variant.name: variant.common_name for variant in part.variants}
        for condition in part.conditions:
            place = (data, condition.name)
            own = tuple(row for row in finished if (row.data, row.condition) == place)
            if own:
                views.append(
                    ConditionView(study, data, condition.name, variants, own, common_names)
                )
    return views


def mean_views(views: Sequence[ConditionView], data_sets: Collection[str]) -> list[ConditionView]:
    """The means over data sets as views of one more data set.

    There is one for every condition that all data sets have results of. The mean is taken seed by
    seed; variants and seeds that a data set lacks are left out.
    """
    if len(data_sets) < 2:
        return []
    means = []
    for condition in dict.fromkeys(view.condition for view in views):
        parts = [view for view in views if view.condition == condition]
        if len(parts) == len(data_sets):
            means.append(_mean_view(parts))
    return [view for view in means if view.rows]


def _mean_view(parts: Sequence[ConditionView]) -> ConditionView:
    """The mean of the same condition's views, one per data set."""
    first = parts[0]
    title = f"mean of {len(parts)} data sets"
    groups: dict[tuple[str, int], list[CellRow]] = {}
    for view in parts:
        for row in view.rows:
            groups.setdefault((view.common_name(row.variant), row.seed), []).append(row)
    rows = tuple(
        _mean_row(title, variant, group)
        for (variant, _), group in groups.items()
        if len(group) == len(parts)
    )
    present = {row.variant for row in rows}
    variants = [first.common_name(variant) for variant in first.variants]
    study = replace(first.study, reference=first.common_name(first.study.reference))
    kept = tuple(variant for variant in variants if variant in present)
    return ConditionView(study, title, first.condition, kept, rows)


def _mean_row(data: str, variant: str, rows: Sequence[CellRow]) -> CellRow:
    """The mean of one seed's rows, of the test metrics that every data set has."""
    shared = [
        name
        for name in rows[0].metrics
        if name.startswith("test/") and all(name in row.metrics for row in rows)
    ]
    return CellRow(
        data=data,
        variant=variant,
        condition=rows[0].condition,
        seed=rows[0].seed,
        key="",
        state="done",
        metrics={name: sum(row.metrics[name] for row in rows) / len(rows) for name in shared},
    )


def missing_from_means(
    means: Sequence[ConditionView], planned: Mapping[str, DataSetCells]
) -> list[str]:
    """What all data sets have planned and the means lack, as some data set has no result of it."""
    finished = {view.condition: view.finished for view in means}
    planned_cells = []
    for part in planned.values():
        common = {v.name: v.common_name or v.name for v in part.variants}
        planned_cells.append(dict.fromkeys((c.condition, common[c.variant]) for c in part.cells))
    missing: dict[str, list[str]] = {}
    for condition, variant in planned_cells[0]:
        everywhere = all((condition, variant) in cells for cells in planned_cells)
        if everywhere and variant not in finished.get(condition, {}):
            missing.setdefault(condition, []).append(variant)
    return [
        f"{', '.join(variants) if condition in finished else 'everything'} under {condition}"
        for condition, variants in missing.items()
    ]
