"""What a data set looks like to the model: its modalities, its classes and their training statistics. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TINY = 2.0**-126  # the smallest normal float32
MAX_NAMES = 12  # names in one line
MANY_ROWS, FEW_ROWS = 100, 20  # training rows: more make a class many-shot, fewer few-shot
MAX_DEVIATIONS = 20.0  # standard deviations: a number is nowhere taken as farther off


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image modality; every image of it has this shape. mean and std are per channel, of pixels in 0..1."""

    name: str
    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A numeric column. quantiles: increasing distinct training quantiles (bin edges), at least two unless constant."""

    name: str
    mean: float = 0.0
    std: float = 1.0
    quantiles: tuple[float, ...] = ()
    missing: float = 0.0

    @property
    def spread(self) -> float:
        """What a difference is divided by; never 0, nor one that float32 does not hold."""
        return max(self.std, TINY) if self.std else 1.0


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A categorical column: value vocabulary[i] has id i, a missing value -1, an unseen one len(vocabulary)."""

    name: str
    vocabulary: tuple[str, ...]
    missing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table modality: some numeric and some categorical columns that are present or absent together."""

    name: str
    numeric: tuple[Numeric, ...] = ()
    categorical: tuple[Categorical, ...] = ()

    @property
    def columns(self) -> tuple[Numeric | Categorical, ...]:
        return (*self.numeric, *self.categorical)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Modalities (images first, then tables: this order is the M axis everywhere), class names and training counts."""

    images: tuple[Image, ...] = ()
    tables: tuple[Table, ...] = ()
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        return (*(m.name for m in self.images), *(m.name for m in self.tables))

    def keep(self, names: tuple[str, ...]) -> Schema:
        """The same schema with only the named modalities; no names keeps all."""
        unknown = sorted(set(names) - set(self.modalities))
        if unknown:
            raise ValueError(
                f"a modality must be one of the data set's: {', '.join(self.modalities)}; got {', '.join(unknown)}"
            )
        if not names:
            return self
        return dataclasses.replace(
            self,
            images=tuple(m for m in self.images if m.name in names),
            tables=tuple(m for m in self.tables if m.name in names),
        )


def to_dict(schema: Schema) -> dict[str, Any]:
    """A plain, JSON-ready form of a schema."""
    return dataclasses.asdict(schema)


def from_dict(plain: dict[str, Any]) -> Schema:
    """The inverse of to_dict."""
    images = tuple(
        Image(**{**m, "mean": tuple(m["mean"]), "std": tuple(m["std"])}) for m in plain["images"]
    )
    tables = tuple(
        Table(
            name=m["name"],
            numeric=tuple(
                Numeric(**{**c, "quantiles": tuple(c["quantiles"])}) for c in m["numeric"]
            ),
            categorical=tuple(
                Categorical(**{**c, "vocabulary": tuple(c["vocabulary"])}) for c in m["categorical"]
            ),
        )
        for m in plain["tables"]
    )
    return Schema(
        images=images, tables=tables, classes=tuple(plain["classes"]), counts=tuple(plain["counts"])
    )


def groups_are_terciles(counts: Sequence[float]) -> bool:
    """Whether many, medium and few-shot classes are thirds of the classes, since by their numbers of rows one group would be empty."""
    return len({(count > MANY_ROWS) - (count < FEW_ROWS) for count in counts}) < 3


def join_names(names: Sequence[str]) -> str:
    """Names of classes for a person to read; of very many only the first."""
    return ", ".join(names[:MAX_NAMES]) + (
        f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    )
