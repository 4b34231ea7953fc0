"""The baseline without any deep learning: gradient boosting on the table columns of the same rows, cut and corrupted in the same way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from distributed import runs
from distributed.loop import Exchange
from model import metrics
from model.schema import Schema

MOST_CATEGORIES = 255  # scikit-learn's limit; a column with more is treated as numbers


def run(shards: str, settings: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Validation and test metrics of a HistGradientBoostingClassifier with balanced class weights and native categories."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    job = runs.Job(shards=shards, settings=dict(settings))
    train = runs.open_split(job, "train", Exchange(), arrays)
    schema = train.schema
    cells_NK, labels_N = columns(train)
    kinds_K = categorical(schema)
    model = HistGradientBoostingClassifier(
        class_weight="balanced", categorical_features=kinds_K if kinds_K.any() else None, random_state=job.config.optim.seed
    )
    started = time.perf_counter()
    model.fit(cells_NK, labels_N)
    seconds = time.perf_counter() - started
    found: dict[str, Any] = {"train_seconds": seconds}
    for split in ("val", "test"):
        cells_NK, labels_N = columns(runs.open_split(job, split, Exchange(), arrays))
        probabilities_NC = np.zeros((len(cells_NK), len(schema.classes)))
        probabilities_NC[:, model.classes_] = model.predict_proba(cells_NK)
        counts_C = torch.tensor(schema.counts)
        found[split] = metrics.compute(torch.from_numpy(probabilities_NC).float(), torch.from_numpy(labels_N), counts_C, schema.classes)
    return found


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
