"""Shards of another ingest in a checkpoint's terms: classes and categories matched by name, columns by name, everything else refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distributed.raw.cells import canonical_spelling
from distributed.shards.decode import Arrays, empty_arrays
from model.schema import Schema, Table, join_names

Lookup = NDArray[np.int32]

ALIKE = 0.01  # of a window: what its ends may differ by, which is two or three of 255 greys


@dataclass(frozen=True)
class SchemaMatch:
    """How to read one SHARDS folder for one checkpoint."""

    model: Schema  # what the network takes
    read: Schema  # what to decode: the network's modalities that the shards have
    labels_C: Lookup  # the network's class of every class of the shards, -1 where it has none; a -1 more at the end, for no label
    categories: dict[
        str, list[Lookup]
    ]  # for each table and column: the network's id of every id of the shards, from -1 (missing) on
    strangers: tuple[str, ...]  # classes of the shards that the network does not know
    notes: tuple[str, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        return tuple(name for name in self.model.modalities if name not in self.read.modalities)

    def labels(self, labels_B: NDArray[Any]) -> Lookup:
        return self.labels_C[labels_B]

    def apply(self, arrays: Arrays) -> Arrays:
        """Arrays decoded by `read` as the network takes them; a modality that the shards lack is there, and absent in every row."""
        rows = len(arrays["labels"])
        found = {**arrays, "labels": self.labels(arrays["labels"])}
        for name, lookups in self.categories.items():
            ids_BK = arrays[f"categories/{name}"]
            found[f"categories/{name}"] = np.stack(
                [lookup[ids_BK[:, k] + 1] for k, lookup in enumerate(lookups)], axis=1
            )
        if not self.absent:
            return found
        blank = empty_arrays(self.model, rows)
        for name, values in blank.items():
            if name not in found:
                values[...] = {"f": np.nan, "i": -1}.get(values.dtype.kind, 0)
                found[name] = values
        found["present"] = np.zeros((rows, len(self.model.modalities)), dtype=bool)
        for m, name in enumerate(self.read.modalities):
            found["present"][:, self.model.modalities.index(name)] = arrays["present"][:, m]
        return found


def match_schemas(
    data: Schema,
    model: Schema,
    made: Mapping[str, Any] | None = None,
    as_made: Mapping[str, Any] | None = None,
) -> SchemaMatch:
    """Compares what the shards hold with what the network takes; one error names the first thing that cannot be matched.

    made, as_made: `prepare` of the manifests of the shards and of the checkpoint, where ingest made them.
    """
    notes = [
        f"the shards have no {name}: absent in every row"
        for name in model.modalities
        if name not in data.modalities
    ]
    kept = tuple(name for name in model.modalities if name in data.modalities)
    if not kept:
        raise ValueError(
            f"--data must have a modality of the checkpoint ({', '.join(model.modalities)}); it has {', '.join(data.modalities) or 'none'}"
        )
    images, tables = {m.name: m for m in data.images}, {m.name: m for m in data.tables}
    for wanted in model.images:
        if wanted.name in tables:
            raise ValueError(
                f"modality {wanted.name!r} must be an image, as in the checkpoint; it is a table in --data"
            )
        there = images.get(wanted.name)
        if there and (there.height, there.width, there.channels) != (
            wanted.height,
            wanted.width,
            wanted.channels,
        ):
            sizes = [f"{m.height}x{m.width} with {m.channels} channel(s)" for m in (wanted, there)]
            raise ValueError(
                f"images of {wanted.name!r} must be {sizes[0]}, as in the checkpoint; --data has {sizes[1]}: ingest it so"
            )
    notes += _images_alike(kept, made or {}, as_made or {})
    categories = {}
    for table in model.tables:
        if table.name in images:
            raise ValueError(
                f"modality {table.name!r} must be a table, as in the checkpoint; it is an image in --data"
            )
        if table.name in tables:
            lookups, changed = _columns(tables[table.name], table)
            if changed:
                categories[table.name] = lookups
                notes.append(f"categories of {table.name} matched by value: {', '.join(changed)}")
    labels_C = np.array([*_places(data.classes, model.classes, -1), -1], dtype=np.int32)
    strangers = tuple(name for name, place in zip(data.classes, labels_C) if place < 0)
    if len(strangers) == len(data.classes):
        raise ValueError(
            f"--data must have a class of the checkpoint ({join_names(model.classes)}); it has {join_names(data.classes)}"
        )
    if data.classes != model.classes and not strangers:
        notes.append("classes are numbered otherwise in the shards: matched by name")
    return SchemaMatch(model, model.keep(kept), labels_C, categories, strangers, tuple(notes))


def _images_alike(
    names: Sequence[str], made: Mapping[str, Any], as_made: Mapping[str, Any]
) -> list[str]:
    """Refuses pictures of another fit or window; a window on one side only is noted, as it does nothing to 8-bit images."""
    there, wanted = (
        {image["name"]: image for image in plain.get("images", ())} for plain in (made, as_made)
    )
    notes = []
    for name in names:
        if name not in there or name not in wanted:
            continue
        (fit, window), (fit_there, window_there) = (
            (image[name].get("fit"), image[name].get("window")) for image in (wanted, there)
        )
        both = bool(window and window_there)
        if fit != fit_there or (
            both
            and not np.allclose(window, window_there, rtol=0, atol=ALIKE * (window[1] - window[0]))
        ):
            is_so, must_be = (
                f"--window={w[0]:g},{w[1]:g} --fit {f}" if both else f"--fit {f}"
                for w, f in ((window_there, fit_there), (window, fit))
            )
            raise ValueError(
                f"images of {name!r} must have {must_be}, as in the checkpoint; --data has {is_so}: ingest it with {must_be}"
            )
        if bool(window) != bool(window_there):
            low, high = window or window_there
            lacks = "--data" if window else "the checkpoint"
            notes.append(
                f"{name}: --window={low:g},{high:g}, but none in {lacks}: its images must be of 8 bits, or their greys differ"
            )
    return notes


def _columns(there: Table, wanted: Table) -> tuple[list[Lookup], list[str]]:
    """Lookups of a table's categorical columns, and the names of those whose ids differ."""
    kinds = [
        {**{c.name: "numeric" for c in t.numeric}, **{c.name: "categorical" for c in t.categorical}}
        for t in (there, wanted)
    ]
    lacking = [name for name in kinds[1] if name not in kinds[0]]
    if lacking:
        raise ValueError(
            f"table {wanted.name!r} must have all columns of the checkpoint; --data lacks {', '.join(lacking)} "
            "(a column that is constant or empty there: ingest with --numeric or --categorical COLUMN)"
        )
    for name, kind in kinds[1].items():
        if kinds[0][name] != kind:
            raise ValueError(
                f"column {name!r} must be {kind}, as in the checkpoint; it is {kinds[0][name]} in --data (ingest with --{kind})"
            )
    vocabularies = {c.name: c.vocabulary for c in there.categorical}
    lookups, changed = [], []
    for column in wanted.categorical:
        unseen = len(column.vocabulary)
        lookups.append(
            np.array(
                [-1, *_places(vocabularies[column.name], column.vocabulary, unseen), unseen],
                dtype=np.int32,
            )
        )
        if vocabularies[column.name] != column.vocabulary:
            changed.append(column.name)
    return lookups, changed


def _places(names: Sequence[str], wanted: Sequence[str], absent: int) -> list[int]:
    """The place of every name among the wanted ones; true and True are one name, as older shards hold either."""
    exact = {name: i for i, name in enumerate(wanted)}
    alike = {canonical_spelling(name): i for name, i in exact.items()}
    return [exact.get(name, alike.get(canonical_spelling(name), absent)) for name in names]


def keep_modalities(
    schema: Schema, plain: dict[str, Any], kept: Schema
) -> tuple[Schema, dict[str, Any]]:
    """A manifest's schema and `prepare` with only the modalities that a network takes."""
    images = [image for image in plain.get("images", ()) if image["name"] in kept.modalities]
    return dataclasses.replace(schema.keep(kept.modalities), classes=kept.classes), {
        **plain,
        "images": images,
    }
