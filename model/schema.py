"""Describes a data set to the model: modalities, classes and their training statistics.

This file imports no torch, because the commands that read tables and write shards need it too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SMALLEST_STD = 2.0**-126  # the smallest normal float32
MAX_NAMES = 12  # names that are listed in one line of text
MANY_ROWS, FEW_ROWS = 100, 20  # a class with more training rows is many-shot, with fewer few-shot
MAX_DEVIATIONS = 20.0  # standardised numbers are cut off at this distance from the mean


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image modality.

    All its images have the same shape. mean and std are those of each channel over the training
    pixels, scaled to 0..1. flips: the mirror images of the same class: none, horizontal or both.
    """

    name: str
    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flips: str = "horizontal"

    def flips_for(self, setting: str) -> str:
        """Returns the flips that a setting stands for; auto: those that the data allow."""
        return self.flips if setting == "auto" else setting


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A numeric column with its statistics over the training rows.

    quantiles: increasing distinct quantiles, which are the edges of the piecewise-linear embedding;
        at least two, unless the column is constant.
    missing: share of the training rows in which the column is empty.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    quantiles: tuple[float, ...] = ()
    missing: float = 0.0

    @property
    def divisor(self) -> float:
        """The standard deviation that numbers are divided by; 1 for a constant column.

        It is never smaller than what float32 can hold.
        """
        return max(self.std, SMALLEST_STD) if self.std else 1.0


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A categorical column.

    The value vocabulary[i] has the id i, a missing value -1, and a value that training did not
    contain len(vocabulary). missing: share of the training rows in which the column is empty.
    """

    name: str
    vocabulary: tuple[str, ...]
    missing: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table modality: columns that are present or absent together in a record."""

    name: str
    numeric: tuple[Numeric, ...] = ()
    categorical: tuple[Categorical, ...] = ()

    @property
    def columns(self) -> tuple[Numeric | Categorical, ...]:
        """All columns, the numeric ones first."""
        return (*self.numeric, *self.categorical)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """A data set: its modalities, its class names and the number of training rows of each class.

    Images come first, then tables; this order is that of the axis M of every tensor.
    """

    images: tuple[Image, ...] = ()
    tables: tuple[Table, ...] = ()
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def column_count(self) -> int:
        """The columns of all tables."""
        return sum(len(table.columns) for table in self.tables)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of all modalities, in the order of the axis M."""
        return (*(m.name for m in self.images), *(m.name for m in self.tables))

    def keep(self, names: tuple[str, ...]) -> Schema:
        """Returns the schema with only the named modalities; an empty tuple keeps all of them."""
        unknown = sorted(set(names) - set(self.modalities))
        if unknown:
            raise ValueError(
                f"a modality must be one of the data set's: {', '.join(self.modalities)};"
                f" got {', '.join(unknown)}"
            )
        if not names:
            return self
        return dataclasses.replace(
            self,
            images=tuple(m for m in self.images if m.name in names),
            tables=tuple(m for m in self.tables if m.name in names),
        )


def to_dict(schema: Schema) -> dict[str, object]:
    """Returns the schema as nested dictionaries and tuples that JSON can hold.

    Images say their flips only where these are not the usual ones, so that a schema that is older
    than them stays the same.
    """
    plain = dataclasses.asdict(schema)
    for image in plain["images"]:
        if image["flips"] == Image.flips:
            del image["flips"]
    return plain


def from_dict(plain: Mapping[str, Any]) -> Schema:
    """Returns the schema that `to_dict` was given; `plain` may have passed through JSON."""
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
    """Returns whether the many, medium and few-shot groups are the thirds of the classes by size.

    They are wherever the usual limits of 100 and 20 training rows would leave a group empty.
    """
    return len({(count > MANY_ROWS) - (count < FEW_ROWS) for count in counts}) < 3


def join_names(names: Sequence[str]) -> str:
    """Returns the names as one text, separated by commas; of very many only the first ones."""
    return ", ".join(names[:MAX_NAMES]) + (
        f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    )
