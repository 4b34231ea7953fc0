"""Small schemas and random batches that the tests of the model share."""

from __future__ import annotations

import torch
from torch import Tensor

from model.batch import Batch
from model.schema import Categorical, Image, Numeric, Schema, Table

COUNTS = (500, 120, 40, 8, 1)


def image(name: str = "photo", size: int = 16, channels: int = 3) -> Image:
    return Image(
        name=name,
        height=size,
        width=size,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def table(name: str = "table") -> Table:
    edges = tuple(float(x) for x in range(-3, 4))
    return Table(
        name=name,
        numeric=(
            Numeric(name="age", mean=0.0, std=1.0, quantiles=edges),
            Numeric(name="dose", mean=5.0, std=2.0, quantiles=(1.0, 5.0, 9.0)),
        ),
        categorical=(
            Categorical(name="sex", vocabulary=("f", "m")),
            Categorical(name="site", vocabulary=tuple("abcdef")),
        ),
    )


def schema(
    images: tuple[Image, ...] | None = None,
    tables: tuple[Table, ...] | None = None,
    counts: tuple[int, ...] = COUNTS,
) -> Schema:
    images = (image(),) if images is None else images
    tables = (table(),) if tables is None else tables
    return Schema(
        images=images,
        tables=tables,
        classes=tuple(f"class {c}" for c in range(len(counts))),
        counts=counts,
    )


def batch(data: Schema, rows: int = 12, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    numbers = {t.name: torch.randn(rows, len(t.numeric), generator=g) for t in data.tables}
    for values in numbers.values():
        values[torch.rand(values.shape, generator=g) < 0.1] = torch.nan
    sizes = {t.name: torch.tensor([len(c.vocabulary) for c in t.categorical]) for t in data.tables}
    return Batch(
        images={
            m.name: torch.randint(
                0, 256, (rows, m.channels, m.height, m.width), generator=g, dtype=torch.uint8
            )
            for m in data.images
        },
        numbers=numbers,
        categories={
            k: (torch.rand(rows, len(n), generator=g) * (n + 2)).long() - 1
            for k, n in sizes.items()
        },
        present_BM=torch.ones(rows, len(data.modalities), dtype=torch.bool),
        labels_B=torch.randint(0, len(data.classes), (rows,), generator=g),
        ranks_B=torch.randint(0, 1000, (rows,), generator=g),
    )


def concatenate(batches: list[Batch]) -> Batch:
    """One batch of all records, in order."""
    first = batches[0]

    def optional(name: str) -> Tensor | None:
        return (
            None if getattr(first, name) is None else torch.cat([getattr(b, name) for b in batches])
        )

    return Batch(
        images={k: torch.cat([b.images[k] for b in batches]) for k in first.images},
        numbers={k: torch.cat([b.numbers[k] for b in batches]) for k in first.numbers},
        categories={k: torch.cat([b.categories[k] for b in batches]) for k in first.categories},
        present_BM=torch.cat([b.present_BM for b in batches]),
        labels_B=torch.cat([b.labels_B for b in batches]),
        ranks_B=torch.cat([b.ranks_B for b in batches]),
        dropped_BM=optional("dropped_BM"),
        partners_B=optional("partners_B"),
        shares_B=optional("shares_B"),
    )
