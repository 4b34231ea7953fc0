"""Metrics of the groups of rows that a column makes, and which gaps are more than noise.

The gap of a group is its balanced accuracy less that of all other rows, over the classes that both
have, so that it does not follow from the classes being more frequent in one of them. Whether it is
noise is tested by permutation within each class: if a class is recognised equally well in the group
and outside, its correct decisions fall into the group as balls from an urn do, which holds exactly
for groups with a handful of rows. The p-values of all groups are corrected by Holm's method.

Legend: N rows, C classes, R random replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distributed.inference.decisions.decided_split import DecidedSplit
from distributed.reporting.significance import holm_correction
from distributed.runtime.errors import OptionError
from distributed.runtime.suggestions import valid_names
from distributed.shards.manifest import read_manifest
from distributed.shards.memory import load_arrays
from model.metrics import metrics
from model.metrics.scoring import FORMULAS
from model.schema import Categorical, Numeric, Table

MISSING, UNSEEN, OTHERS = "(missing)", "(not in the schema)", "(other values)"
MAX_GROUPS = 20  # groups of a column; the smallest ones beyond that count as one
MAX_VALUES = 6  # a numeric column with so few values has a group for each
PERMUTATIONS = 10_000
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """The rows with one value of a column.

    metrics, intervals: as of an evaluation; intervals of 95 %.
    gap: balanced accuracy less that of all other rows, over the classes of both; None without any.
    noise: how large a gap chance alone makes in 95 of 100 cases.
    p: corrected for the number of groups.
    """

    column: str
    value: str
    rows: int
    class_rows: dict[str, int]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    gap: float | None
    noise: float | None
    p: float | None
    shared_classes: int

    @property
    def is_shown(self) -> bool:
        """Whether the gap is more than noise."""
        return self.p is not None and self.p < ALPHA


def subgroups(
    scored: DecidedSplit,
    columns: dict[str, NDArray[np.object_]],
    replicates: int,
    seed: int,
) -> list[Subgroup]:
    """Returns the groups of every column, the largest first.

    columns: the value of each row, by column.
    """
    found = []
    for column, values_N in columns.items():
        names, sizes = np.unique(values_N.astype(str), return_counts=True)
        for name in names[np.argsort(-sizes, kind="stable")]:
            is_in_N = torch.from_numpy(values_N == name)
            if bool((scored.labels_N[is_in_N] >= 0).any()):
                found.append(_score(scored, column, str(name), is_in_N, replicates, seed))
    corrected = holm_correction([group.p for group in found])
    return [Subgroup(**{**vars(group), "p": p}) for group, p in zip(found, corrected, strict=True)]


def _score(
    scored: DecidedSplit,
    column: str,
    value: str,
    is_in_N: Tensor,
    replicates: int,
    seed: int,
) -> Subgroup:
    """Returns the metrics of one group, and its gap with the uncorrected p-value."""
    labels_N = scored.labels_N[is_in_N]
    rows = (scored.probabilities_NC[is_in_N], labels_N, scored.counts_C)
    decisions_N = scored.decided.decided_N[is_in_N]
    gap, noise, p, shared = _gap(scored, is_in_N, seed)
    counts_C = torch.bincount(labels_N[labels_N >= 0], minlength=len(scored.classes))
    return Subgroup(
        column=column,
        value=value,
        rows=int(counts_C.sum()),
        class_rows=dict(zip(scored.classes, counts_C.tolist(), strict=True)),
        metrics=metrics.compute_metrics(*rows, scored.classes, decisions_N),
        intervals=metrics.bootstrap_intervals(
            *rows, FORMULAS, replicates, seed, predictions_N=decisions_N
        ),
        gap=gap,
        noise=noise,
        p=p,
        shared_classes=shared,
    )


def _gap(
    scored: DecidedSplit, is_in_N: Tensor, seed: int
) -> tuple[float | None, float | None, float | None, int]:
    """Returns the gap, the size that chance reaches in 95 of 100 cases, p, and the classes used."""
    labelled_N = scored.labels_N >= 0
    labels_N, is_in_N = scored.labels_N[labelled_N], is_in_N[labelled_N]
    is_hit_N = scored.decided.decided_N[labelled_N] == labels_N
    classes = len(scored.classes)

    def count(chosen_N: Tensor) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = torch.bincount(labels_N[chosen_N], minlength=classes).numpy()
        return counts

    inside_C, all_C = count(is_in_N), count(torch.ones_like(is_in_N))
    hits_inside_C, hits_C = count(is_in_N & is_hit_N), count(is_hit_N)
    shared_C = (inside_C > 0) & (inside_C < all_C)
    if not shared_C.any():
        return None, None, None, 0
    inside_K, all_K, hits_K = inside_C[shared_C], all_C[shared_C], hits_C[shared_C]

    def gap_of(hits_inside_RK: NDArray[np.int64]) -> NDArray[np.float64]:
        outside_RK = (hits_K - hits_inside_RK) / (all_K - inside_K)
        gaps_R: NDArray[np.float64] = (hits_inside_RK / inside_K - outside_RK).mean(-1)
        return gaps_R

    gap = float(gap_of(hits_inside_C[shared_C]))
    random = np.random.default_rng(seed)
    size = (PERMUTATIONS, len(hits_K))
    chance_R = np.abs(gap_of(random.hypergeometric(hits_K, all_K - hits_K, inside_K, size=size)))
    as_large = int((chance_R >= abs(gap) - 1e-12).sum())
    p = (1 + as_large) / (1 + PERMUTATIONS)
    return gap, float(np.quantile(chance_R, 0.95)), p, len(hits_K)


def read_group_columns(
    shards: str, split: str, names: Sequence[str], rows_N: NDArray[np.int64]
) -> dict[str, NDArray[np.object_]]:
    """Returns for each column the group of every row, from the shards as they are.

    names: columns of tables, as COLUMN or TABLE.COLUMN. rows_N: the rows in storage order.
    """
    schema = read_manifest(shards).schema
    available = {
        f"{table.name}.{column.name}": (table, column)
        for table in schema.tables
        for column in table.columns
    }
    plain = [column.name for table in schema.tables for column in table.columns]
    columns = {}
    for name in names:
        matching = [key for key in available if name in (key, available[key][1].name)]
        if len(matching) != 1:
            listed = [
                key if plain.count(c.name) > 1 else c.name for key, (_, c) in available.items()
            ]
            raise OptionError(
                f"by must name a column of the shards; got {name!r}; {valid_names(name, listed)} "
                "(columns that are no input of a model come with predict.py --keep)",
                "by",
            )
        table, column = available[matching[0]]
        arrays = load_arrays(shards, split, schema.keep((table.name,)))
        columns[name] = _groups(arrays, table, column)[rows_N]
    return columns


def _groups(
    arrays: dict[str, NDArray[np.generic]], table: Table, column: Numeric | Categorical
) -> NDArray[np.object_]:
    """Returns the name of the group of every row: a category, or an interval of numbers."""
    if isinstance(column, Categorical):
        ids_N = arrays[f"categories/{table.name}"][:, table.categorical.index(column)]
        names = np.array([*column.vocabulary, UNSEEN, MISSING], dtype=object)
        return _merge_small(names[ids_N.astype(np.int64)])  # a missing value is -1, the last
    numbers_N = arrays[f"numbers/{table.name}"][:, table.numeric.index(column)].astype(float)
    values = np.unique(numbers_N[~np.isnan(numbers_N)])
    if len(values) <= MAX_VALUES:
        groups_N = np.array([f"{value:g}" for value in numbers_N], dtype=object)
    else:
        edges = np.unique(np.quantile(column.quantiles or values, (0.25, 0.5, 0.75)))
        intervals = [f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:])]
        intervals = [f"up to {edges[0]:g}", *intervals, f"above {edges[-1]:g}"]
        places_N = np.searchsorted(edges, numbers_N, side="left").clip(max=len(edges))
        groups_N = np.array(intervals, dtype=object)[places_N]
    groups_N[np.isnan(numbers_N)] = MISSING
    return groups_N


def _merge_small(groups_N: NDArray[np.object_]) -> NDArray[np.object_]:
    """Returns the groups with the smallest ones, beyond MAX_GROUPS, as one."""
    names, sizes = np.unique(groups_N.astype(str), return_counts=True)
    small = names[np.argsort(-sizes, kind="stable")][MAX_GROUPS:]
    return np.where(np.isin(groups_N.astype(str), small), OTHERS, groups_N).astype(object)
