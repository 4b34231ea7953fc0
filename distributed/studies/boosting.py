"""The baseline without deep learning: gradient boosting on the table columns of the same rows.

The rows are cut and corrupted as for networks. Legend: N rows, K table columns, C classes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from distributed.shards.batches import BatchSource
from distributed.studies.definition import join_corruptions
from distributed.training.exchange import Exchange
from distributed.training.run import SharedArrays, open_split
from distributed.training.spec import RunSpec
from model.metrics.metrics import compute_metrics
from model.schema import Schema

# Sizes of a tree among which validation picks; 31 leaves are scikit-learn's default.
LEAF_COUNTS = (4, 31)
# scikit-learn's limit for a categorical column; one with more categories is treated as numbers.
MAX_CATEGORIES = 255


@dataclass(frozen=True, order=True)
class ModelSize:
    """The number of leaves of a tree, and of trees per class."""

    leaves: int
    trees: int


@dataclass(frozen=True, kw_only=True)
class BoostingResult:
    """The chosen classifier's number of trees per class and its metrics on two splits."""

    train_seconds: float
    trees: int
    val: dict[str, float]
    test: dict[str, float]

    def metrics(self) -> dict[str, object]:
        """Everything as a network's run reports it."""
        return {
            "train_seconds": self.train_seconds,
            "best_epoch": self.trees,
            "val": self.val,
            "test": self.test,
        }


def run_boosting(
    shards: str,
    settings: Mapping[str, object],
    arrays: SharedArrays | None = None,
    corruptions: Sequence[str] = ("",),
) -> list[BoostingResult]:
    """Trains gradient boosting and scores it under each corruption of the test split.

    Class weights are balanced and categories native. The size of the trees and their number are
    the best on validation, as networks pick their epoch there.

    arrays: the decoded rows, None to decode them here.
    corruptions: of the test split, on top of the settings' own.
    """
    spec = RunSpec(shards=shards, settings=dict(settings))
    config = spec.config
    # train=False: every row once, whatever the sampler.
    train = open_split(spec, "train", Exchange(), arrays, train=False)
    started = time.perf_counter()
    models = fit_boosted_trees(train, config.optim.seed)
    seconds = time.perf_counter() - started
    validation = metrics_by_size(models, open_split(spec, "val", Exchange(), arrays))
    best = max(validation, key=lambda size: (validation[size]["balanced_accuracy"], -size.trees))
    results = []
    for corruption in corruptions:
        both = join_corruptions(config.data.corrupt, corruption)
        test_spec = RunSpec(shards=shards, settings={**settings, "data.corrupt": both})
        test = open_split(test_spec, "test", Exchange(), arrays)
        rows = read_cells(test)
        (metrics,) = staged_metrics(models[best.leaves], test.schema, *rows, best.trees, best.trees)
        results.append(
            BoostingResult(
                train_seconds=seconds, trees=best.trees, val=validation[best], test=metrics
            )
        )
    return results


def fit_boosted_trees(train: BatchSource, seed: int) -> dict[int, HistGradientBoostingClassifier]:
    """A classifier for every number of leaves."""
    cells_NK, labels_N = read_cells(train)
    kinds_K = category_columns(train.schema)
    # scikit-learn cannot bin a column without a value; it never splits a constant one.
    cells_NK[:, np.isnan(cells_NK).all(0)] = 0.0
    return {
        leaves: HistGradientBoostingClassifier(
            class_weight="balanced",
            categorical_features=kinds_K if kinds_K.any() else None,
            max_leaf_nodes=leaves,
            # From 10,000 rows on it would else set training rows aside to stop early, which fails
            # where a class has one row.
            early_stopping=False,
            random_state=seed,
        ).fit(cells_NK, labels_N)
        for leaves in LEAF_COUNTS
    }


def metrics_by_size(
    models: Mapping[int, HistGradientBoostingClassifier], source: BatchSource
) -> dict[ModelSize, dict[str, float]]:
    """The metrics on the rows of a source, of every classifier with every number of its trees."""
    cells_NK, labels_N = read_cells(source)
    return {
        ModelSize(leaves, trees): metrics
        for leaves, model in models.items()
        for trees, metrics in enumerate(
            staged_metrics(model, source.schema, cells_NK, labels_N), start=1
        )
    }


def staged_metrics(
    model: HistGradientBoostingClassifier,
    schema: Schema,
    cells_NK: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    first: int = 1,
    last: int | None = None,
) -> list[dict[str, float]]:
    """The metrics of a fitted classifier with its first trees only, once per number of trees.

    first, last: the numbers of trees per class, both included; last=None: all trees. A class
    without training rows has probability 0.
    """
    metrics = []
    for fitted_NC in itertools.islice(model.staged_predict_proba(cells_NK), first - 1, last):
        probabilities_NC = np.zeros((len(cells_NK), len(schema.classes)))
        probabilities_NC[:, model.classes_] = fitted_NC
        metrics.append(
            compute_metrics(
                torch.from_numpy(probabilities_NC).float(),
                torch.from_numpy(labels_N),
                torch.tensor(schema.counts),
                schema.classes,
            )
        )
    return metrics


def read_cells(source: BatchSource) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The table cells of a source as numbers, NaN where missing, and the labels of its rows.

    Categories are their index in the vocabulary. Rows without a label are left out.
    """
    blocks, labels = [], []
    positions = {name: m for m, name in enumerate(source.schema.modalities)}
    for batch in source.batches(0):
        columns = []
        for table in source.schema.tables:
            absent_B = ~batch.present_BM[:, positions[table.name]].numpy()
            ids_BK = batch.categories[table.name].numpy().astype(np.float64)
            sizes_K = np.array([len(column.vocabulary) for column in table.categorical])
            # A category that training lacks says as little as a missing one.
            ids_BK[(ids_BK < 0) | (ids_BK >= sizes_K)] = np.nan
            numbers_BK = batch.numbers[table.name].numpy().astype(np.float64)
            cells_BK = np.concatenate([numbers_BK, ids_BK], axis=1)
            cells_BK[absent_B] = np.nan
            columns.append(cells_BK)
        blocks.append(np.concatenate(columns, axis=1))
        labels.append(batch.labels_B.numpy())
    cells_NK, labels_N = np.concatenate(blocks), np.concatenate(labels)
    return cells_NK[labels_N >= 0], labels_N[labels_N >= 0]


def category_columns(schema: Schema) -> NDArray[np.bool_]:
    """Which columns are treated as categories, in the order of `read_cells`."""
    kinds: list[bool] = []
    for table in schema.tables:
        kinds += [False] * len(table.numeric)
        kinds += [len(column.vocabulary) <= MAX_CATEGORIES for column in table.categorical]
    return np.array(kinds)
