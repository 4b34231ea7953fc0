"""The data sets of a study: their names in tables, their shards, schema and row digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distributed.runtime.errors import OptionError
from distributed.shards.manifest import Manifest, read_manifest, shards_digest
from distributed.wafers.default import resolve_shards

BUILT_IN = "wafers"  # the name of the example data set
GENERIC_FOLDERS = ("shards", "data")  # a data set in such a folder is named after the folder above


@dataclass(frozen=True)
class DataSet:
    """A data set of the study.

    name: its name in tables. shards: folder or URI.
    digest: of its rows; equal rows have equal results, wherever they lie.
    """

    name: str
    shards: str
    digest: str
    manifest: Manifest


def open_data_sets(places: Sequence[str]) -> list[DataSet]:
    """Opens the data sets in these folders or URIs; without any, the built-in wafers."""
    data_sets = [_open(place) for place in places] or [_open(None)]
    names = [data.name for data in data_sets]
    if len(set(names)) < len(names):
        raise OptionError(
            "every data needs a folder of another name, since tables show that name; "
            f"got {', '.join(names)}",
            "data",
        )
    return data_sets


def _open(place: str | None) -> DataSet:
    shards = resolve_shards(place)
    manifest = read_manifest(shards)
    if not manifest.rows["test"]:
        raise OptionError(
            f"data must have test rows, on which a study compares its variants; {shards} has none",
            "data",
        )
    name = BUILT_IN if place is None else _name(shards)
    return DataSet(name, shards, shards_digest(shards, manifest), manifest)


def _name(shards: str) -> str:
    """The last folder's name, or the one above where the last is called `shards` or `data`."""
    *_, parent, last = ["", *shards.rstrip("/").split("/")]
    return parent if last in GENERIC_FOLDERS and parent else last
