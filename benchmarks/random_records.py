"""Random records in the memory of the host, for benchmarks that need no files."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import torch

from model.batch import Batch
from model.schema import Categorical, Image, Numeric, Schema, Table

CLASSES = 20
COLUMNS = 16


class HostBatches:
    """Ready-made batches in the memory of the host."""

    def __init__(self, schema: Schema, rows: int, steps: int) -> None:
        self.steps = steps
        self.ready = [random_batch(schema, rows, seed) for seed in range(min(steps, 4))]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for k in range(start, self.steps):
            yield self.ready[k % len(self.ready)]


def schema_of(size: int) -> Schema:
    """Returns one image modality and, where its embeddings are installed, one table."""
    numbers = tuple(
        Numeric(name=f"n{i}", quantiles=(-2.0, -1.0, 0.0, 1.0, 2.0)) for i in range(COLUMNS)
    )
    table = Table(
        name="table", numeric=numbers, categorical=(Categorical(name="c", vocabulary=("a", "b")),)
    )
    has_embeddings = importlib.util.find_spec("rtdl_num_embeddings") is not None
    return Schema(
        images=(Image(name="photo", height=size, width=size, mean=(0.5,) * 3, std=(0.25,) * 3),),
        tables=(table,) if has_embeddings else (),
        classes=tuple(f"class {c}" for c in range(CLASSES)),
        counts=tuple(1000 // (c + 1) for c in range(CLASSES)),
    )


def random_batch(schema: Schema, rows: int, seed: int) -> Batch:
    """Returns random records, all of them complete."""
    draws = torch.Generator().manual_seed(seed)
    image = schema.images[0]
    shape = rows, image.channels, image.height, image.width
    return Batch(
        images={"photo": torch.randint(256, shape, dtype=torch.uint8, generator=draws)},
        numbers={t.name: torch.randn(rows, COLUMNS, generator=draws) for t in schema.tables},
        categories={t.name: torch.randint(2, (rows, 1), generator=draws) for t in schema.tables},
        present_BM=torch.ones(rows, len(schema.modalities), dtype=torch.bool),
        labels_B=torch.randint(CLASSES, (rows,), generator=draws),
        ranks_B=torch.arange(rows),
        total=rows,
    )
