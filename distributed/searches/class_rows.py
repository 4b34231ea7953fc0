"""How many rows a search has of every class, and which classes are the few-shot ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from distributed.searches.setup import CheckedSearch
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.sampling import training_counts
from model.schema import FEW_ROWS, groups_are_terciles

# With fewer validation rows of a class than these, its recall has a standard error of ten points.
FEW_VALIDATION_ROWS = 20
FOLDS = 5  # each trains on four fifths of the rows


def count_rows(search: CheckedSearch) -> CheckedSearch:
    """The search with its rows of every class, and its folds. Reads the labels of the data.

    With folds the validation rows are those of all folds together.
    """
    shards, data = search.setup.shards, search.setup.settings.data
    schema = read_manifest(shards).schema
    counts = training_counts(schema.counts, data.imbalance_ratio, data.max_rows)
    val_rows = _rows(shards, "val", schema.classes)
    folds = search.setup.folds or automatic_folds(val_rows)
    search.setup.folds = search.setup.options["folds"] = folds
    if folds > 1:  # every row in use is a validation row of one fold
        val_rows = {name: rows + int(counts[c]) for c, (name, rows) in enumerate(val_rows.items())}
    return dataclasses.replace(
        search,
        val_rows=val_rows,
        test_rows=_rows(shards, "test", schema.classes) if search.has_test_rows else {},
        few_shot=few_shot_classes(dict(zip(schema.classes, counts.tolist()))),
    )


def automatic_folds(val_rows: Mapping[str, int]) -> int:
    """How many folds a search has that was not told: several where a class has few rows.

    val_rows: of every class.
    """
    return FOLDS if any(rows < FEW_VALIDATION_ROWS for rows in val_rows.values()) else 1


def _rows(shards: str, split: str, classes: Sequence[str]) -> dict[str, int]:
    labels = read_index(shards, split).labels_R
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return dict(zip(classes, counts.tolist()))


def few_shot_classes(training: Mapping[str, int]) -> tuple[str, ...]:
    """The classes that few-shot accuracy is of, as model.metrics.scoring.shot_groups has them.

    That function needs torch, which the process of a search does not load.

    training: rows of every class.
    """
    if not groups_are_terciles(list(training.values())):
        return tuple(name for name, rows in training.items() if rows < FEW_ROWS)
    largest_first = sorted(training, key=lambda name: -training[name])
    first = 1 if len(training) == 2 else -(-2 * len(training) // 3)
    return tuple(largest_first[first:])


def few_shot_note(rows: Mapping[str, int], few_shot: Collection[str]) -> str:
    """On how many rows few-shot accuracy rests; "" where they were not counted.

    rows: of every class in the split.
    """
    present = [rows[name] for name in few_shot if rows.get(name)]
    if not present:
        return ""
    classes = "1 class" if len(present) == 1 else f"{len(present)} classes"
    return f"{sum(present):,} rows of {classes}"
