"""From the command line and a look at the table to a plan: which column is what, and how each image modality is prepared."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from distributed.ingestion.options import IngestOptions
from distributed.raw import columns, images
from distributed.raw.rows import RowPlan
from distributed.raw.table import RawTable, sample_rows
from distributed.runtime.storage import is_uri

LONGEST = 64  # pixels of the longer side that --image-size auto chooses at most
SMALLEST = 8
TABLE = "table"


@dataclass
class ColumnRoles:
    """What every source column is used for. tables: modality -> its columns."""

    label: str
    id: str | None
    group: str | None
    split: str | None
    images: dict[str, str]  # column -> folder
    tables: dict[str, list[str]]
    dropped: dict[str, str] = field(default_factory=dict)
    forced: dict[str, str] = field(default_factory=dict)
    commas: bool = False  # cells are separated by ;, so that 1,234 is a decimal

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(c for names in self.tables.values() for c in names)


def assign_roles(options: IngestOptions, table: RawTable) -> ColumnRoles:
    """Every option's columns checked against the table; what is left over is features."""
    names = table.schema.names
    image_folders = {}
    for word in options.image:
        column, _, folder = (word, "", "") if word in names else word.partition("=")
        if column in image_folders:
            raise ValueError(f"--image must name a column once; got {column!r} twice")
        image_folders[column] = folder or table.folder
    split_tables = _named_tables(options.modality)
    single = {
        "--label": options.label,
        "--id": options.id,
        "--group": options.group,
        "--split-column": options.split_column,
    }
    asked: dict[str, Sequence[str]] = {k: [v] for k, v in single.items() if v is not None}
    asked |= {
        "--image": list(image_folders),
        "--drop": options.drop,
        "--numeric": options.numeric,
        "--categorical": options.categorical,
    }
    asked |= {f"--modality {name}": found for name, found in split_tables.items()}
    for option, wanted in asked.items():
        for column in wanted:
            if column not in names:
                raise ValueError(
                    f"{option} must name a column of the table; got {column!r}; valid: {', '.join(names)}"
                )
    for option, name in single.items():
        if name is not None and pa.types.is_nested(kind := table.schema.field(name).type):
            raise ValueError(
                f"{option} must name a column of numbers or words; {name!r} holds {kind}"
            )
    _check_once(asked)
    taken = {
        c
        for c in (
            options.label,
            options.id,
            options.group,
            options.split_column,
            *options.drop,
            *image_folders,
        )
        if c
    }
    found = ColumnRoles(
        label=options.label,
        id=options.id,
        group=options.group,
        split=options.split_column,
        images=image_folders,
        tables=split_tables,
        dropped=dict.fromkeys(options.drop, "--drop"),
        forced=dict.fromkeys(options.numeric, "numeric")
        | dict.fromkeys(options.categorical, "categorical"),
        commas=table.delimiter == ";",
    )
    rest = [n for n in names if n not in taken and n not in found.features]
    for column in [*rest, *found.features]:
        kind = table.schema.field(column).type
        if not columns.is_usable(kind):
            if column in found.features:
                raise ValueError(
                    f"--modality must name columns of numbers or words; {column!r} holds {kind}"
                )
            found.dropped[column] = f"holds {kind}: no feature (images are named with --image)"
    rest = [n for n in rest if n not in found.dropped]
    if rest:
        found.tables[TABLE] = [*found.tables.get(TABLE, []), *rest]
    _check_names(found)
    if clashing := [c for c in source_columns(found) if c in table.clashes]:
        raise ValueError(table.clashes[clashing[0]])
    return found


def _named_tables(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        name, separator, listed = word.partition("=")
        members = [c.strip() for c in listed.split(",") if c.strip()]
        if not separator or not name or not members:
            raise ValueError(f"--modality takes NAME=COL,COL; got {word!r}")
        if name in found:
            both = ",".join([*found[name], *members])
            raise ValueError(
                f"--modality must name a modality once; got {name!r} twice; valid: {name}={both}"
            )
        found[name] = members
    return found


def _check_once(asked: dict[str, Sequence[str]]) -> None:
    used: dict[str, str] = {}
    for option, wanted in asked.items():
        if option in ("--numeric", "--categorical"):
            continue
        for column in wanted:
            if column in used:
                raise ValueError(
                    f"a column must have one use; {column!r} is given to {used[column]} and {option}"
                )
            used[column] = option
    both = set(asked["--numeric"]) & set(asked["--categorical"])
    if both:
        raise ValueError(
            f"a column must be --numeric or --categorical, not both; got {', '.join(sorted(both))}"
        )
    for option in ("--numeric", "--categorical"):
        for column in asked[option]:
            if column in used and not used[column].startswith("--modality"):
                raise ValueError(
                    f"{option} is for feature columns; {column!r} is given to {used[column]}"
                )


def _check_names(found: ColumnRoles) -> None:
    """Modality names become column prefixes and parts of metric names."""
    for name in found.tables:
        if name == "image" or not re.fullmatch(r"[\w -]+", name):
            raise ValueError(
                f"a modality's name must be letters, digits, spaces, - or _, and not 'image'; got {name!r}"
            )
        if name in found.images:
            raise ValueError(
                f"modality names must differ; {name!r} is an image column and a table (name tables with --modality NAME=COL,COL)"
            )
    bad = [c for c in found.images if "," in c or "/" in c]
    if bad:
        raise ValueError(
            f"an image column's name must hold neither ',' nor '/': it names the modality; got {bad[0]!r}"
        )
    if not found.images and not found.tables:
        raise ValueError(
            "no column is left to learn from: every one is the label, an id, a group, a split or dropped"
        )


def inspect_image_column(
    options: IngestOptions, table: RawTable, column: str, folder: str
) -> tuple[images.ImageSpec, float]:
    """Size, channels and grey window of an image modality, and the mean pixels of its sources, from a sample."""
    cells = sample_rows(table, [column])[column]
    if not _holds_images(cells.type):
        raise ValueError(
            f"--image must name a column of encoded bytes or of paths; {column!r} holds {cells.type}"
        )
    reader = images.ImageFolder(folder)
    shapes, greys, deep = [], [], []
    why = ""
    for cell in cells.to_pylist():
        try:
            data = reader.read(cell)
            if data is None:
                continue
            seen = images.inspect_image(data, options.max_pixels)
        except images.RowRefused as refused:
            why = why or str(refused)
            continue
        shapes.append((seen.height, seen.width))
        greys.append(seen.grey)
        if seen.values is not None:
            deep.append(seen.values)
    if why and not shapes:
        raise ValueError(
            f"no image of a sample of column {column!r} could be read: {why} (folder {folder or '.'!r})"
        )
    height, width = _size(options.image_size, shapes)
    spec = images.ImageSpec(
        name=column,
        height=height,
        width=width,
        channels=1 if greys and all(greys) else 3,
        fit=options.fit,
        window=_window(options.window, deep),
        max_pixels=options.max_pixels,
    )
    return spec, statistics.fmean(h * w for h, w in shapes) if shapes else 0.0


def _holds_images(kind: pa.DataType) -> bool:
    """Bytes, paths, or the records of both that Hugging Face data sets hold."""
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        return {"bytes", "path"} & {kind.field(i).name for i in range(kind.num_fields)} != set()
    tests = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def _size(wanted: str, shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    if wanted != "auto":
        sides = re.fullmatch(r"(\d+)(?:x(\d+))?", wanted)
        size = (int(sides[1]), int(sides[2] or sides[1])) if sides else (0, 0)
        if not all(SMALLEST <= s <= 4096 for s in size):
            raise ValueError(
                f"--image-size must be auto, N or HxW with sides from {SMALLEST} to 4096; got {wanted!r}"
            )
        return size
    if not shapes:
        return LONGEST, LONGEST
    height, width = statistics.median(h for h, _ in shapes), statistics.median(w for _, w in shapes)
    scale = min(1.0, LONGEST / max(height, width))
    return max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale))


def _window(wanted: str, deep: Sequence[np.ndarray]) -> tuple[float, float] | None:
    if wanted != "auto":
        try:
            low, high = (float(w) for w in wanted.split(","))
        except ValueError:
            low = high = 0.0
        if not low < high:
            raise ValueError(f"--window must be auto or LOW,HIGH with LOW < HIGH; got {wanted!r}")
        return low, high
    if not deep:
        return None
    values = np.concatenate(deep)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.5]))
    return (low, high) if high > low else (low, low + 1.0)


def row_plan(found: ColumnRoles, specs: Sequence[images.ImageSpec]) -> RowPlan:
    """What the workers are told."""
    sources = tuple(
        (spec, column, _absolute(folder))
        for spec, (column, folder) in zip(specs, found.images.items())
    )
    return RowPlan(
        label=found.label,
        id=found.id,
        group=found.group,
        split=found.split,
        features=found.features,
        images=sources,
    )


def _absolute(folder: str) -> str:
    """A worker's current folder is not the user's."""
    return folder if is_uri(folder) else os.path.abspath(folder)


def source_columns(found: ColumnRoles) -> list[str]:
    """The columns to read, in a fixed order."""
    singles = [c for c in (found.label, found.id, found.group, found.split) if c]
    return [*singles, *found.features, *found.images]
