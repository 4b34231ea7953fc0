"""The baseline without any deep learning: gradient boosting on the table columns of the same rows, cut and corrupted in the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from distributed import runs
from distributed.loop import Exchange
from model import metrics
from model.schema import Schema

MOST_CATEGORIES = 255  # scikit-learn's limit; a column with more is treated as numbers


def run(
    shards: str, settings: Mapping[str, Any], arrays: Mapping[str, Any] | None = None, corruptions: Sequence[str] = ("",)
) -> list[dict[str, Any]]:
    """Validation and test metrics of a HistGradientBoostingClassifier with balanced class weights and native categories.

    It is trained once; the test split is scored under each of `corruptions`, which come on top of the settings' own.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    job = runs.Job(shards=shards, settings=dict(settings))
    train = runs.open_split(job, "train", Exchange(), arrays, train=False)  # every row once
    cells_NK, labels_N = columns(train)
    kinds_K = categorical(train.schema)
    model = HistGradientBoostingClassifier(
        class_weight="balanced",
        categorical_features=kinds_K if kinds_K.any() else None,
        early_stopping=False,  # else, above 10,000 rows, on a part of the training rows, which a class of one row cannot be divided for
        random_state=job.config.optim.seed,
    )
    started = time.perf_counter()
    model.fit(cells_NK, labels_N)
    common = {"train_seconds": time.perf_counter() - started, "val": judge(model, runs.open_split(job, "val", Exchange(), arrays))}
    found = []
    for corruption in corruptions:
        both = ",".join(filter(None, (job.config.data.corrupt, corruption)))
        tested = runs.Job(shards=shards, settings={**settings, "data.corrupt": both})
        found.append({**common, "test": judge(model, runs.open_split(tested, "test", Exchange(), arrays))})
    return found


def judge(model: Any, source: Any) -> dict[str, float]:
    """The metrics of a fitted classifier on the rows of a source; a class it has never seen has probability 0."""
    schema = source.schema
    cells_NK, labels_N = columns(source)
    probabilities_NC = np.zeros((len(cells_NK), len(schema.classes)))
    probabilities_NC[:, model.classes_] = model.predict_proba(cells_NK)
    return metrics.compute(
        torch.from_numpy(probabilities_NC).float(), torch.from_numpy(labels_N), torch.tensor(schema.counts), schema.classes
    )


def columns(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """All table cells of a source as numbers, NaN where missing, and the labels of its rows; rows without a label are left out."""
    parts, labels = [], []
    for batch in source.batches(0):
        places = {name: m for m, name in enumerate(source.schema.modalities)}
        blocks = []
        for table in source.schema.tables:
            absent_B = ~batch.present_BM[:, places[table.name]].numpy()
            ids_BK = batch.categories[table.name].numpy().astype(np.float64)
            sizes_K = np.array([len(c.vocabulary) for c in table.categorical])
            ids_BK[(ids_BK < 0) | (ids_BK >= sizes_K)] = np.nan  # an unseen category tells as little as a missing one
            block = np.concatenate([batch.numbers[table.name].numpy().astype(np.float64), ids_BK], axis=1)
            block[absent_B] = np.nan
            blocks.append(block)
        parts.append(np.concatenate(blocks, axis=1))
        labels.append(batch.labels_B.numpy())
    cells_NK, labels_N = np.concatenate(parts), np.concatenate(labels)
    return cells_NK[labels_N >= 0], labels_N[labels_N >= 0]


def categorical(schema: Schema) -> np.ndarray:
    """Which columns are categories, in the order of `columns`."""
    kinds: list[bool] = []
    for table in schema.tables:
        kinds += [False] * len(table.numeric) + [len(c.vocabulary) <= MOST_CATEGORIES for c in table.categorical]
    return np.array(kinds)
