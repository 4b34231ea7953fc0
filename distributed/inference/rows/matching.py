"""Reads shards of another ingest for a checkpoint: classes, categories and columns match by name.

What cannot be matched is refused. Legend: B rows, K categorical columns, C classes of the shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed.raw.cells import canonical_spelling
from distributed.runtime.errors import OptionError
from distributed.shards.decode import Arrays, empty_arrays
from model.schema import Image, Schema, Table, join_names

Lookup = NDArray[np.int32]  # the new id of every old id
# `prepare` of a manifest: plain JSON that says how raw rows become shards.
Preparation = Mapping[str, Any]

WINDOW_TOLERANCE = 0.01  # of a window's width: two or three of 255 grey values


@dataclass(frozen=True)
class SchemaMatch:
    """How to read one SHARDS folder for one checkpoint."""

    model: Schema  # what the network takes
    read: Schema  # what to decode: the network's modalities that the shards have
    # The network's class of every class of the shards, -1 where it has none. One more -1 at the
    # end, so that a missing label, which is -1, stays -1.
    labels_C: Lookup
    # For each table and column: the network's id of every id of the shards, from -1 (missing) on.
    categories: dict[str, list[Lookup]]
    unknown_classes: tuple[str, ...]  # classes of the shards that the network does not have
    notes: tuple[str, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """The network's modalities that the shards lack."""
        return tuple(name for name in self.model.modalities if name not in self.read.modalities)

    def labels(self, labels_B: NDArray[np.int32]) -> Lookup:
        """Returns labels of the shards as the network's classes, -1 where it has none."""
        labels: Lookup = self.labels_C[labels_B]
        return labels

    def apply(self, arrays: Arrays) -> Arrays:
        """Returns arrays decoded with `read` as the network takes them.

        A modality that the shards lack is added and marked as absent in every row.
        """
        rows = len(arrays["labels"])
        matched = {**arrays, "labels": self.labels(arrays["labels"])}
        for name, lookups in self.categories.items():
            ids_BK = arrays[f"categories/{name}"]
            matched[f"categories/{name}"] = np.stack(
                [lookup[ids_BK[:, k] + 1] for k, lookup in enumerate(lookups)], axis=1
            )
        if not self.absent:
            return matched
        missing_values = {"f": np.nan, "i": -1}
        for name, values in empty_arrays(self.model, rows).items():
            if name not in matched:
                values[...] = missing_values.get(values.dtype.kind, 0)
                matched[name] = values
        matched["present"] = np.zeros((rows, len(self.model.modalities)), dtype=bool)
        for m, name in enumerate(self.read.modalities):
            matched["present"][:, self.model.modalities.index(name)] = arrays["present"][:, m]
        return matched


def match_schemas(
    shards: Schema,
    model: Schema,
    shards_prepare: Preparation | None = None,
    model_prepare: Preparation | None = None,
) -> SchemaMatch:
    """Compares the shards with what the network takes; an error names the first thing that differs.

    shards_prepare, model_prepare: `prepare` of the manifests of the shards and of the checkpoint,
    where ingest wrote them.
    """
    notes = [
        f"the shards have no {name}: absent in every row"
        for name in model.modalities
        if name not in shards.modalities
    ]
    shared = tuple(name for name in model.modalities if name in shards.modalities)
    if not shared:
        raise OptionError(
            f"data must have a modality of the checkpoint ({', '.join(model.modalities)}); "
            f"it has {', '.join(shards.modalities) or 'none'}",
            "data",
        )
    _check_images(shards, model)
    notes += _compare_preparation(shared, shards_prepare or {}, model_prepare or {})
    categories, category_notes = _match_tables(shards, model)
    notes += category_notes
    labels_C = np.array([*_places(shards.classes, model.classes, -1), -1], dtype=np.int32)
    unknown = tuple(name for name, place in zip(shards.classes, labels_C) if place < 0)
    if len(unknown) == len(shards.classes):
        raise OptionError(
            f"data must have a class of the checkpoint ({join_names(model.classes)}); "
            f"it has {join_names(shards.classes)}",
            "data",
        )
    if shards.classes != model.classes and not unknown:
        notes.append("classes are numbered otherwise in the shards: matched by name")
    return SchemaMatch(model, model.keep(shared), labels_C, categories, unknown, tuple(notes))


def _check_images(shards: Schema, model: Schema) -> None:
    """Refuses image modalities that are tables in the shards or have another size."""
    tables = {table.name for table in shards.tables}
    images = {image.name: image for image in shards.images}
    for wanted in model.images:
        if wanted.name in tables:
            raise OptionError(
                f"modality {wanted.name!r} must be an image, as in the checkpoint; "
                "it is a table in data",
                "data",
            )
        available = images.get(wanted.name)
        if available and _shape(available) != _shape(wanted):
            raise OptionError(
                f"images of {wanted.name!r} must be {_size_text(wanted)}, as in the checkpoint; "
                f"data has {_size_text(available)}: ingest it so",
                "data",
            )


def _shape(image: Image) -> tuple[int, int, int]:
    return image.height, image.width, image.channels


def _size_text(image: Image) -> str:
    return f"{image.height}x{image.width} with {image.channels} channel(s)"


def _match_tables(shards: Schema, model: Schema) -> tuple[dict[str, list[Lookup]], list[str]]:
    """Returns lookups for the tables whose category ids differ, and a note for each of them."""
    images = {image.name for image in shards.images}
    tables = {table.name: table for table in shards.tables}
    categories: dict[str, list[Lookup]] = {}
    notes: list[str] = []
    for wanted in model.tables:
        if wanted.name in images:
            raise OptionError(
                f"modality {wanted.name!r} must be a table, as in the checkpoint; "
                "it is an image in data",
                "data",
            )
        if wanted.name in tables:
            lookups, changed = _match_columns(tables[wanted.name], wanted)
            if changed:
                categories[wanted.name] = lookups
                notes.append(f"categories of {wanted.name} matched by value: {', '.join(changed)}")
    return categories, notes


def _compare_preparation(
    names: Sequence[str], shards: Preparation, model: Preparation
) -> list[str]:
    """Refuses images prepared with another fit or window than those of the checkpoint.

    A window on one side only is noted, since it does nothing to images of 8 bits.
    """
    available = {image["name"]: image for image in shards.get("images", ())}
    wanted = {image["name"]: image for image in model.get("images", ())}
    notes: list[str] = []
    for name in names:
        if name in available and name in wanted:
            notes += _compare_image_preparation(name, available[name], wanted[name])
    return notes


def _compare_image_preparation(name: str, shards: Preparation, model: Preparation) -> list[str]:
    fit, shards_fit = model.get("fit"), shards.get("fit")
    window: Sequence[float] = model.get("window") or ()
    shards_window: Sequence[float] = shards.get("window") or ()
    if not window or not shards_window:
        if fit != shards_fit:
            raise _preparation_error(name, f"--fit {fit}", f"--fit {shards_fit}")
        if not window and not shards_window:
            return []
        low, high = window or shards_window
        lacking = "--data" if window else "the checkpoint"
        return [
            f"{name}: --window={low:g},{high:g}, but none in {lacking}: "
            "its images must be of 8 bits, or their greys differ"
        ]
    tolerance = WINDOW_TOLERANCE * (window[1] - window[0])
    if fit != shards_fit or not np.allclose(window, shards_window, rtol=0, atol=tolerance):
        raise _preparation_error(
            name,
            f"--window={window[0]:g},{window[1]:g} --fit {fit}",
            f"--window={shards_window[0]:g},{shards_window[1]:g} --fit {shards_fit}",
        )
    return []


def _preparation_error(name: str, wanted: str, available: str) -> OptionError:
    """An error that states the options of ingest.py which would make the images alike."""
    return OptionError(
        f"images of {name!r} must have {wanted}, as in the checkpoint; "
        f"data has {available}: ingest it with {wanted}",
        "data",
    )


def _column_kinds(table: Table) -> dict[str, str]:
    kinds = {column.name: "numeric" for column in table.numeric}
    return kinds | {column.name: "categorical" for column in table.categorical}


def _match_columns(shards: Table, model: Table) -> tuple[list[Lookup], list[str]]:
    """Returns lookups of a table's categorical columns, and the names of those whose ids differ."""
    available, wanted = _column_kinds(shards), _column_kinds(model)
    lacking = [name for name in wanted if name not in available]
    if lacking:
        raise OptionError(
            f"table {model.name!r} must have all columns of the checkpoint; "
            f"data lacks {', '.join(lacking)} (a column that is constant or empty there: "
            "ingest with --numeric or --categorical COLUMN)",
            "data",
        )
    for name, kind in wanted.items():
        if available[name] != kind:
            raise OptionError(
                f"column {name!r} must be {kind}, as in the checkpoint; "
                f"it is {available[name]} in data (ingest with --{kind})",
                "data",
            )
    vocabularies = {column.name: column.vocabulary for column in shards.categorical}
    lookups: list[Lookup] = []
    changed: list[str] = []
    for column in model.categorical:
        vocabulary = vocabularies[column.name]
        unseen = len(column.vocabulary)  # the id of a category that training did not have
        places = _places(vocabulary, column.vocabulary, unseen)
        lookups.append(np.array([-1, *places, unseen], dtype=np.int32))
        if vocabulary != column.vocabulary:
            changed.append(column.name)
    return lookups, changed


def _places(names: Sequence[str], wanted: Sequence[str], absent: int) -> list[int]:
    """Returns the place of every name among the wanted ones, `absent` where it is not.

    Spellings such as true and True are one name, as older shards hold either.
    """
    exact = {name: i for i, name in enumerate(wanted)}
    canonical = {canonical_spelling(name): i for name, i in exact.items()}
    return [exact.get(name, canonical.get(canonical_spelling(name), absent)) for name in names]


def keep_modalities(
    schema: Schema, prepare: Preparation, kept: Schema
) -> tuple[Schema, dict[str, Any]]:
    """Returns a manifest's schema and `prepare` with only the modalities that a network takes."""
    images = [image for image in prepare.get("images", ()) if image["name"] in kept.modalities]
    kept_schema = dataclasses.replace(schema.keep(kept.modalities), classes=kept.classes)
    return kept_schema, {**prepare, "images": images}
