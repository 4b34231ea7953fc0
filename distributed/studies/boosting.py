"""The baseline without any deep learning: gradient boosting on the table columns of the same rows, cut and corrupted in the same way."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from distributed.training.exchange import Exchange
from distributed.training.run import RunSpec, open_split
from model.metrics import metrics
from model.schema import Schema

LEAVES = (4, 31)  # of a tree; 31 are scikit-learn's own
MOST_CATEGORIES = 255  # scikit-learn's limit; a column with more is treated as numbers


def run_boosting(
    shards: str,
    settings: Mapping[str, Any],
    arrays: Mapping[str, Any] | None = None,
    corruptions: Sequence[str] = ("",),
) -> list[dict[str, Any]]:
    """Validation and test metrics of a HistGradientBoostingClassifier with balanced class weights and native categories, its size and
    its number of trees the best on validation, as networks pick their epoch there.

    The test split is scored under each of `corruptions`, which come on top of the settings' own.
    """
    job = RunSpec(shards=shards, settings=dict(settings))
    train = open_split(job, "train", Exchange(), arrays, train=False)  # every row once
    started = time.perf_counter()
    models = fit_classifiers(train, job.config.optim.seed)
    seconds = time.perf_counter() - started
    val = metrics_by_size(models, open_split(job, "val", Exchange(), arrays))
    leaves, trees = max(val, key=lambda size: (val[size]["balanced_accuracy"], -size[1]))
    common = {"train_seconds": seconds, "best_epoch": trees, "val": val[leaves, trees]}
    found = []
    for corruption in corruptions:
        both = ",".join(filter(None, (job.config.data.corrupt, corruption)))
        tested = RunSpec(shards=shards, settings={**settings, "data.corrupt": both})
        test = open_split(tested, "test", Exchange(), arrays)
        (judged,) = staged_metrics(models[leaves], test.schema, *table_columns(test), trees, trees)
        found.append({**common, "test": judged})
    return found


def fit_classifiers(train: Any, seed: int) -> dict[int, Any]:
    """A classifier for every number of leaves."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    cells_NK, labels_N = table_columns(train)
    kinds_K = category_columns(train.schema)
    cells_NK[:, np.isnan(cells_NK).all(0)] = (
        0.0  # scikit-learn bins no column without a value; a constant one is never asked for
    )
    return {
        leaves: HistGradientBoostingClassifier(
            class_weight="balanced",
            categorical_features=kinds_K if kinds_K.any() else None,
            max_leaf_nodes=leaves,
            early_stopping=False,  # else, above 10,000 rows, on a part of the training rows: a class of one row cannot be divided
            random_state=seed,
        ).fit(cells_NK, labels_N)
        for leaves in LEAVES
    }


def metrics_by_size(
    models: Mapping[int, Any], source: Any
) -> dict[tuple[int, int], dict[str, float]]:
    """The metrics on the rows of a source by (leaves, trees a class)."""
    rows = table_columns(source)
    return {
        (leaves, n): m
        for leaves, model in models.items()
        for n, m in enumerate(staged_metrics(model, source.schema, *rows), start=1)
    }


def staged_metrics(
    model: Any,
    schema: Schema,
    cells_NK: np.ndarray,
    labels_N: np.ndarray,
    first: int = 1,
    last: int | None = None,
) -> list[dict[str, float]]:
    """The metrics of a fitted classifier with its first so many trees a class, from `first` of them to `last` or all; a class it has never
    seen has probability 0."""
    found = []
    for told_NC in itertools.islice(model.staged_predict_proba(cells_NK), first - 1, last):
        probabilities_NC = np.zeros((len(cells_NK), len(schema.classes)))
        probabilities_NC[:, model.classes_] = told_NC
        found.append(
            metrics.compute_metrics(
                torch.from_numpy(probabilities_NC).float(),
                torch.from_numpy(labels_N),
                torch.tensor(schema.counts),
                schema.classes,
            )
        )
    return found


def table_columns(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """All table cells of a source as numbers, NaN where missing, and the labels of its rows; rows without a label are left out."""
    parts, labels = [], []
    for batch in source.batches(0):
        places = {name: m for m, name in enumerate(source.schema.modalities)}
        blocks = []
        for table in source.schema.tables:
            absent_B = ~batch.present_BM[:, places[table.name]].numpy()
            ids_BK = batch.categories[table.name].numpy().astype(np.float64)
            sizes_K = np.array([len(c.vocabulary) for c in table.categorical])
            ids_BK[(ids_BK < 0) | (ids_BK >= sizes_K)] = (
                np.nan
            )  # an unseen category tells as little as a missing one
            block = np.concatenate(
                [batch.numbers[table.name].numpy().astype(np.float64), ids_BK], axis=1
            )
            block[absent_B] = np.nan
            blocks.append(block)
        parts.append(np.concatenate(blocks, axis=1))
        labels.append(batch.labels_B.numpy())
    cells_NK, labels_N = np.concatenate(parts), np.concatenate(labels)
    return cells_NK[labels_N >= 0], labels_N[labels_N >= 0]


def category_columns(schema: Schema) -> np.ndarray:
    """Which columns are categories, in the order of `columns`."""
    kinds: list[bool] = []
    for table in schema.tables:
        kinds += [False] * len(table.numeric) + [
            len(c.vocabulary) <= MOST_CATEGORIES for c in table.categorical
        ]
    return np.array(kinds)
