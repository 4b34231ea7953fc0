"""The results of a study as one looks at them: by data set and condition, and over data sets; how metrics are named and written."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from distributed.reporting.significance import Comparison, Summary, compare_to_reference, summarise
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Study
from distributed.studies.results import CellRow

SHARES = ("accuracy", "recall", "f1", "g_mean", "auroc", "auprc")
TITLES = {
    "macro_f1": "macro-F1",
    "rarest_accuracy": "accuracy of the rarest third",
    "ece": "ECE",
    "nll": "NLL",
    "macro_auroc": "macro AUROC",
    "g_mean": "G-mean",
    "mcc": "MCC",
    "brier": "Brier",
}
PLACES = {
    "weight": "fusion weight of {}",
    "confidence": "confidence in {}",
    "unfamiliar": "share of {} unlike training",
    "expert_weight": "weight of expert {}",
}


def name_of(metric: str) -> str:
    """balanced_accuracy as a reader writes it."""
    kind, _, place = metric.partition("/")
    if kind in PLACES and "/" not in place:
        return PLACES[kind].format(place)
    return TITLES.get(metric, metric.replace("_shot_", "-shot ").replace("_", " "))


def in_percent(metric: str) -> bool:
    return metric.startswith(("recall/", "precision/")) or metric.endswith(SHARES)


def scale_of(metric: str) -> tuple[float, str]:
    """What a difference is multiplied by, and its unit."""
    return (100.0, "points") if in_percent(metric) else (1.0, "")


def digits_of(metric: str) -> int:
    return 1 if in_percent(metric) else 3


def shown(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if in_percent(metric) else f"{value:.3f}"


@dataclass(frozen=True)
class ConditionView:
    """One data set under one condition: the rows of its finished cells, and its variants in order."""

    study: Study
    data: str
    condition: str
    variants: tuple[str, ...]
    rows: tuple[CellRow, ...]
    common: Mapping[str, str] = field(
        default_factory=dict
    )  # the name over data sets of a variant that is named after a modality

    @property
    def finished(self) -> dict[str, int]:
        """How many cells of each variant have finished, in the variants' order."""
        return {
            name: n
            for name in self.variants
            if (n := sum(row["variant"] == name for row in self.rows))
        }

    def scores(self, metric: str) -> dict[str, dict[int, float]]:
        """{variant: {seed: value}} of the test split, for variants that have the metric at all."""
        found: dict[str, dict[int, float]] = {name: {} for name in self.variants}
        for row in self.rows:
            value = row.get(metric if metric == "train_seconds" else f"test/{metric}")
            if isinstance(value, float) and math.isfinite(value) and row["variant"] in found:
                found[row["variant"]][row["seed"]] = value
        return {name: values for name, values in found.items() if values}

    def means(self, metric: str) -> dict[str, Summary]:
        return {
            name: summarise(list(values.values())) for name, values in self.scores(metric).items()
        }

    def comparisons(self, metric: str) -> list[Comparison]:
        """Against the reference; empty where the reference itself has no score."""
        scores = self.scores(metric)
        return (
            compare_to_reference(scores, self.study.reference)
            if self.study.reference in scores
            else []
        )


def condition_views(
    study: Study, plans: Mapping[str, DataSetCells], rows: Iterable[CellRow]
) -> list[ConditionView]:
    """Every data set under every condition that has a finished cell."""
    done = [row for row in rows if row["state"] == "done"]
    found = []
    for data, plan in plans.items():
        for condition in plan.conditions:
            mine = tuple(r for r in done if (r["data"], r["condition"]) == (data, condition.name))
            if mine:
                common = {v.name: v.common for v in plan.variants}
                found.append(
                    ConditionView(
                        study,
                        data,
                        condition.name,
                        tuple(v.name for v in plan.variants),
                        mine,
                        common,
                    )
                )
    return found


def mean_views(seen: Sequence[ConditionView], sets: Collection[str]) -> list[ConditionView]:
    """For every condition that all data sets have: each variant's mean over the data sets, seed by seed, as if it were one more set."""
    found = []
    for condition in dict.fromkeys(v.condition for v in seen) if len(sets) > 1 else ():
        mine = [v for v in seen if v.condition == condition]
        if len(mine) == len(sets):
            places: dict[tuple[str, int], list[CellRow]] = {}
            for view in mine:
                for row in view.rows:
                    places.setdefault(
                        (view.common.get(row["variant"], row["variant"]), row["seed"]), []
                    ).append(row)
            rows = tuple(
                _mean_row(name, rows)
                for (name, _), rows in places.items()
                if len(rows) == len(sets)
            )
            common = mine[0].common
            kept = tuple(
                n
                for n in (common.get(n, n) for n in mine[0].variants)
                if any(r["variant"] == n for r in rows)
            )
            study = replace(
                mine[0].study,
                reference=common.get(mine[0].study.reference, mine[0].study.reference),
            )
            found.append(
                ConditionView(study, f"mean of {len(sets)} data sets", condition, kept, rows)
            )
    return [v for v in found if v.rows]


def left_out_of_means(
    means: Sequence[ConditionView], plans: Mapping[str, DataSetCells]
) -> list[str]:
    """What every data set should have and the means over data sets lack, since some data set has no result of it."""
    found = {v.condition: v.finished for v in means}
    planned = []
    for p in plans.values():
        common = {v.name: v.common or v.name for v in p.variants}
        planned.append(dict.fromkeys((c.condition, common[c.variant]) for c in p.cells))
    missing: dict[str, list[str]] = {}
    for condition, name in planned[0]:
        if all((condition, name) in cells for cells in planned) and name not in found.get(
            condition, {}
        ):
            missing.setdefault(condition, []).append(name)
    return [
        f"{', '.join(names) if condition in found else 'everything'} under {condition}"
        for condition, names in missing.items()
    ]


def _mean_row(name: str, rows: Sequence[CellRow]) -> CellRow:
    """Only the metrics that every data set has."""
    shared = [
        n
        for n in rows[0]
        if n.startswith("test/") and all(isinstance(r.get(n), float) for r in rows)
    ]
    return {
        "variant": name,
        "seed": rows[0]["seed"],
        **{n: sum(r[n] for r in rows) / len(rows) for n in shared},
    }
