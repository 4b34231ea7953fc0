"""The experiment behind cross-fitting: one modality is noise, which an encoder can memorise.

Handwritten digits (8x8, from sklearn) with a long tail of 50. The pixels come as an image and as a
table of 64 numbers; one of the two is replaced by noise that is fixed for each record. With
confidences judged in sample, the memorised noise looks informative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from statistics import mean

import numpy as np
import pytest
import torch

from distributed import config
from distributed.training import loop
from distributed.training.scoring import Evaluator, compute_run_metrics
from model.batch import Batch
from model.network import Network
from model.schema import Image, Numeric, Schema, Table

SETS = [
    "image.width=16",
    "dim=64",
    "optim.epochs=40",
    "data.batch_size=32",
    "data.flip=none",
    "data.rotate=0",
    "optim.ema=0.98",
]
RATIO, LARGEST = 50, 90


def digits(seed: int, dead: str) -> tuple[Schema, Batch, Batch, Batch]:
    """A long-tailed training set, and balanced validation and test sets of other digits.

    dead: the modality that is noise in all of them.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels, labels = pixels[order].astype(np.float32), labels[order]
    val, last = np.arange(1000, 1200), np.arange(1200, len(labels))
    kept = np.concatenate(
        [
            np.arange(1000)[labels[:1000] == c][: max(2, int(LARGEST * RATIO ** (-c / 9)))]
            for c in range(10)
        ]
    )
    train, test, val = (
        records(pixels[rows], labels[rows], dead, seed + k)
        for k, rows in enumerate((kept, last, val), 1)
    )
    columns = train.numbers["table"].numpy()
    numeric = tuple(
        Numeric(
            name=f"pixel {k}",
            mean=float(column.mean()),
            std=float(column.std() + 0.1),
            quantiles=tuple(np.unique(np.quantile(column, np.linspace(0, 1, 9))).tolist()),
        )
        for k, column in enumerate(columns.T)
    )
    image = Image(name="image", height=8, width=8, channels=1, mean=(0.3,), std=(0.35,))
    counts = tuple(np.bincount(labels[kept], minlength=10).tolist())
    schema = Schema(
        images=(image,),
        tables=(Table(name="table", numeric=numeric),),
        classes=tuple("0123456789"),
        counts=counts,
    )
    return schema, train, val, test


def records(pixels: np.ndarray, labels: np.ndarray, dead: str, seed: int) -> Batch:
    noise = np.random.default_rng(seed)
    image, table = (pixels.reshape(-1, 1, 8, 8) * 15.9).astype(np.uint8), pixels
    if dead == "image":
        image = noise.integers(0, 256, image.shape).astype(np.uint8)
    else:
        table = noise.normal(pixels.mean(0), pixels.std(0) + 0.1, pixels.shape).astype(np.float32)
    ranks = np.zeros(len(labels), np.int64)
    for c in range(10):
        ranks[labels == c] = np.arange((labels == c).sum())
    return Batch(
        images={"image": torch.from_numpy(image)},
        numbers={"table": torch.from_numpy(table)},
        categories={"table": torch.zeros(len(labels), 0, dtype=torch.long)},
        present_BM=torch.ones(len(labels), 2, dtype=torch.bool),
        labels_B=torch.from_numpy(labels).long(),
        ranks_B=torch.from_numpy(ranks),
    )


class InMemory:
    """Batches of a set: shuffled for training, one whole batch for testing."""

    def __init__(self, schema: Schema, rows: Batch, size: int) -> None:
        self.schema, self.records, self.size = schema, rows, size
        self.rows = len(rows)
        self.steps = self.rows // size if size else 1

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if not self.size:
            yield self.records
            return
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(epoch))
        for k in range(start, self.steps):
            yield self.records.select(order[k * self.size : (k + 1) * self.size])


def trained(seed: int, dead: str, *sets: str, only: str = "") -> tuple[float, float]:
    """(balanced accuracy on test, mean fusion weight of the dead modality)."""
    schema, *parts = digits(seed, dead)
    if only:
        place = schema.modalities.index(only)
        schema, parts = schema.keep((only,)), [alone(rows, only, place) for rows in parts]
    train, val, test = parts
    settings = config.load_config(sets=[*SETS, f"optim.seed={seed}", *sets])
    torch.manual_seed(seed)
    network = Network(schema, settings.model)
    run = loop.train_network(
        network, InMemory(schema, train, 32), InMemory(schema, val, 0), settings, lambda *_: None
    )
    scores = Evaluator(run.device).score(run.evaluated, InMemory(schema, test, 0))
    metrics = compute_run_metrics(scores, network)
    return metrics["balanced_accuracy"], metrics.get(f"weight/{dead}", 0.0)


def alone(rows: Batch, name: str, place: int) -> Batch:
    return dataclasses.replace(
        rows,
        images={k: v for k, v in rows.images.items() if k == name},
        numbers={k: v for k, v in rows.numbers.items() if k == name},
        categories={k: v for k, v in rows.categories.items() if k == name},
        present_BM=rows.present_BM[:, [place]],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("dead", "good"), [("table", "image"), ("image", "table")])
def test_a_dead_modality_gets_no_weight_and_costs_nothing(dead: str, good: str) -> None:
    seeds = range(3)
    alone_accuracy = mean(trained(s, dead, only=good)[0] for s in seeds)
    in_sample = [
        trained(s, dead, "fusion.folds=1", "fusion.correct_on_validation=false") for s in seeds
    ]
    cross_fitted = [trained(s, dead) for s in seeds]
    concatenated = mean(trained(s, dead, "fusion.kind=uniform")[0] for s in seeds)
    weight, accuracy = mean(w for _, w in cross_fitted), mean(a for a, _ in cross_fitted)
    print(
        f"\ndead {dead}: alone {alone_accuracy:.3f}, concatenation {concatenated:.3f}, "
        "in-sample and cross-fitted",
        end=" ",
    )
    print(
        f"{mean(a for a, _ in in_sample):.3f} {accuracy:.3f}, weights "
        f"{mean(w for _, w in in_sample):.3f} {weight:.3f}"
    )
    assert weight <= 0.10
    assert accuracy >= alone_accuracy - 0.02
    assert mean(w for _, w in in_sample) > weight
