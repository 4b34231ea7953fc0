"""A small learnable set in memory: class c is a bright column and a shift in the table."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from model.batch import Batch
from model.schema import Schema
from tests.model import samples

COUNTS = (60, 30, 12, 6)
SMALL = [
    "dim=16",
    "image.width=8",
    "table.width=16",
    "table.embedding_size=4",
    "experts.hidden=16",
    "experts.count=2",
    "data.batch_size=24",
    "optim.epochs=3",
    "optim.lr=0.01",
    "data.flip=none",
]


def schema(counts: tuple[int, ...] = COUNTS) -> Schema:
    return samples.schema((samples.image(size=8),), None, counts)


def records(counts: tuple[int, ...] = COUNTS, seed: int = 0, absent: float = 0.0) -> Batch:
    """absent: the share of the records without their picture."""
    data = schema(counts)
    labels_B = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    batch = samples.batch(data, len(labels_B), seed)
    for row, label in enumerate(labels_B.tolist()):
        batch.images["photo"][row, :, :, 2 * label : 2 * label + 2] = 255
        batch.numbers["table"][row, 0] += 2.0 * label
    batch.present_BM[:, 0] = (
        torch.rand(len(labels_B), generator=torch.Generator().manual_seed(seed)) >= absent
    )
    ranks_B = torch.cat([torch.arange(n) for n in counts])
    return batch.replace(labels_B=labels_B, ranks_B=ranks_B)


class Toy:
    """Shuffled by (seed, epoch) for training, in order for evaluation; one of `world` shares."""

    def __init__(
        self,
        rows: Batch,
        size: int,
        train: bool,
        rank: int = 0,
        world: int = 1,
        counts: tuple[int, ...] = COUNTS,
    ) -> None:
        self.schema, self.records, self.size, self.train, self.rank, self.world = (
            schema(counts),
            rows,
            size,
            train,
            rank,
            world,
        )
        self.rows = len(rows)
        self.steps = self.rows // size if train else -(-self.rows // size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = (
            torch.randperm(self.rows, generator=torch.Generator().manual_seed(epoch))
            if self.train
            else torch.arange(self.rows)
        )
        for k in range(start, self.steps):
            chosen = order[k * self.size : (k + 1) * self.size]
            low, high = (
                len(chosen) * self.rank // self.world,
                len(chosen) * (self.rank + 1) // self.world,
            )
            yield self.records.select(chosen[low:high]).replace(start=low, total=len(chosen))
