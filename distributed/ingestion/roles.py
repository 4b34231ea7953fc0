"""Decides what every column of the raw table is used for, from the options and the table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from distributed.ingestion.drop_list import read_drop_list
from distributed.ingestion.options import IngestOptions
from distributed.ingestion.picture_names import find_picture_names
from distributed.raw import cells
from distributed.raw.images import ImageSpec
from distributed.raw.reading_choice import ReadingHints
from distributed.raw.rows import RowPlan
from distributed.raw.table import RawTable
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import is_uri
from distributed.runtime.suggestions import valid_names

TABLE = "table"  # the modality of all columns that the user has not put into another one
MODALITY = "modality"
TYPE_OPTIONS = ("numeric", "categorical")


@dataclass
class ColumnRoles:
    """What every source column is used for.

    images: the folder of the paths in every image column.
    tables: the columns of every table modality.
    dropped: why a column is left out.
    forced: "numeric" or "categorical", where the user says what a column is.
    hints: what is known of numbers and dates with several meanings.
    drop_ids: ids of rows that are left out.
    """

    label: str
    id: str | None
    group: str | None
    split: str | None
    images: dict[str, str]
    tables: dict[str, list[str]]
    dropped: dict[str, str] = field(default_factory=dict)
    forced: dict[str, str] = field(default_factory=dict)
    hints: ReadingHints = field(default_factory=ReadingHints)
    drop_ids: frozenset[str] = frozenset()

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(column for members in self.tables.values() for column in members)

    def source_columns(self) -> list[str]:
        """Returns the columns to read, in a fixed order."""
        single = [name for name in (self.label, self.id, self.group, self.split) if name]
        return [*single, *self.features, *self.images]


@dataclass(frozen=True)
class _NamedColumns:
    """The columns that one use of an option names. text: the option as messages say it."""

    option: str
    columns: Sequence[str]
    text: str


def assign_roles(options: IngestOptions, table: RawTable) -> ColumnRoles:
    """Checks every option's columns against the table; the remaining columns are features."""
    image_folders = _image_folders(options.image, table)
    named_tables = _named_tables(options.modality)
    named = _columns_by_option(options, image_folders, named_tables)
    _check_columns_exist(named, table)
    _check_single_use(named)
    roles = ColumnRoles(
        label=options.label,
        id=options.id,
        group=options.group,
        split=options.split_column,
        images=image_folders,
        tables=named_tables,
        dropped=dict.fromkeys(options.drop, "--drop"),
        forced={
            **dict.fromkeys(options.numeric, "numeric"),
            **dict.fromkeys(options.categorical, "categorical"),
        },
        hints=ReadingHints(
            decimal=options.decimal or "",
            dates=options.dates or "",
            semicolons=table.delimiter == ";",
        ),
        drop_ids=read_drop_list(options.drop_ids) if options.drop_ids else frozenset(),
    )
    used = {options.label, options.id, options.group, options.split_column}
    used |= {*options.drop, *image_folders, *roles.features}
    remaining = [name for name in table.schema.names if name not in used]
    _drop_unusable(roles, remaining, table)
    remaining = [name for name in remaining if name not in roles.dropped]
    undecided = [name for name in remaining if name not in roles.forced]
    for column, example in find_picture_names(table, undecided).items():
        roles.dropped[column] = (
            f"names of pictures, such as {example!r} (--image {column}=DIR uses those in DIR)"
        )
        remaining.remove(column)
    if remaining:
        roles.tables[TABLE] = [*roles.tables.get(TABLE, []), *remaining]
    _check_modality_names(roles)
    clashing = next((name for name in roles.source_columns() if name in table.clashes), None)
    if clashing:
        raise OptionError(table.clashes[clashing], "drop")
    return roles


def _image_folders(words: Sequence[str], table: RawTable) -> dict[str, str]:
    """Returns the folder of every image column, from COL or COL=DIR."""
    folders: dict[str, str] = {}
    for word in words:
        if word in table.schema.names:
            column, folder = word, ""
        else:
            column, _, folder = word.partition("=")
        if column in folders:
            raise OptionError(f"image must name a column once; got {column!r} twice", "image")
        folders[column] = folder or table.folder
    return folders


def _named_tables(words: Sequence[str]) -> dict[str, list[str]]:
    """Returns the columns of every table modality, from NAME=COL,COL."""
    tables: dict[str, list[str]] = {}
    for word in words:
        name, separator, listed = word.partition("=")
        members = [column.strip() for column in listed.split(",") if column.strip()]
        if not separator or not name or not members:
            raise OptionError(f"modality takes NAME=COL,COL; got {word!r}", MODALITY)
        if name in tables:
            both = ",".join([*tables[name], *members])
            raise OptionError(
                f"modality must name a modality once; got {name!r} twice; valid: {name}={both}",
                MODALITY,
            )
        tables[name] = members
    return tables


def _columns_by_option(
    options: IngestOptions, images: Mapping[str, str], tables: Mapping[str, Sequence[str]]
) -> list[_NamedColumns]:
    """Returns the columns that each option names, in a fixed order."""
    single = {
        "label": options.label,
        "id": options.id,
        "group": options.group,
        "split_column": options.split_column,
    }
    several = {
        "image": list(images),
        "drop": options.drop,
        "numeric": options.numeric,
        "categorical": options.categorical,
    }
    named = [_NamedColumns(o, [column], o) for o, column in single.items() if column is not None]
    named += [_NamedColumns(option, names, option) for option, names in several.items()]
    named += [
        _NamedColumns(MODALITY, members, f"{MODALITY} {name}") for name, members in tables.items()
    ]
    return named


def _check_columns_exist(named: Sequence[_NamedColumns], table: RawTable) -> None:
    names = table.schema.names
    for use in named:
        for column in use.columns:
            if column not in names:
                raise OptionError(
                    f"{use.text} must name a column of the table; got {column!r}; "
                    f"{valid_names(column, names)}",
                    use.option,
                )
    for use in named:
        if use.option not in ("label", "id", "group", "split_column"):
            continue
        kind = table.schema.field(use.columns[0]).type
        if pa.types.is_nested(kind):
            raise OptionError(
                f"{use.text} must name a column of numbers or words; "
                f"{use.columns[0]!r} holds {kind}",
                use.option,
            )


def _check_single_use(named: Sequence[_NamedColumns]) -> None:
    """Raises OptionError where a column has two uses that exclude each other."""
    used: dict[str, _NamedColumns] = {}
    for use in named:
        if use.option in TYPE_OPTIONS:
            continue
        for column in use.columns:
            if column in used:
                raise OptionError(
                    f"a column must have one use; {column!r} is given to "
                    f"{used[column].text} and {use.text}",
                    used[column].option,
                    use.option,
                )
            used[column] = use
    types = {use.option: use.columns for use in named if use.option in TYPE_OPTIONS}
    both = set(types["numeric"]) & set(types["categorical"])
    if both:
        raise OptionError(
            f"a column must be numeric or categorical, not both; got {', '.join(sorted(both))}",
            *TYPE_OPTIONS,
        )
    for option, names in types.items():
        for column in names:
            if column in used and used[column].option != MODALITY:
                raise OptionError(
                    f"{option} is for feature columns; {column!r} is given to {used[column].text}",
                    option,
                    used[column].option,
                )


def _drop_unusable(roles: ColumnRoles, remaining: Sequence[str], table: RawTable) -> None:
    """Drops remaining columns of a type that is no feature; one that the user named is an error."""
    for column in [*remaining, *roles.features]:
        kind = table.schema.field(column).type
        if cells.is_usable(kind):
            continue
        if column in roles.features:
            raise OptionError(
                f"modality must name columns of numbers or words; {column!r} holds {kind}",
                MODALITY,
            )
        roles.dropped[column] = f"holds {kind}: no feature (images are named with --image)"


def _check_modality_names(roles: ColumnRoles) -> None:
    """Raises an error for a name that could not precede column names and be part of metrics'."""
    for name in roles.tables:
        if name == "image" or not re.fullmatch(r"[\w -]+", name):
            raise ValueError(
                "a modality's name must be letters, digits, spaces, - or _, and not 'image'; "
                f"got {name!r}"
            )
        if name in roles.images:
            raise OptionError(
                f"names of modalities must differ; {name!r} is an image column and a table "
                "(name tables with modality NAME=COL,COL)",
                MODALITY,
            )
    bad = next((column for column in roles.images if "," in column or "/" in column), None)
    if bad:
        raise ValueError(
            "an image column's name must hold neither ',' nor '/': it names the modality; "
            f"got {bad!r}"
        )
    if not roles.images and not roles.tables:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in roles.dropped.items())
        raise ValueError(
            "no column is left to learn from: every one is the label, an id, a group, a split "
            f"or dropped ({reasons or 'none was'})"
        )


def row_plan(roles: ColumnRoles, specs: Sequence[ImageSpec]) -> RowPlan:
    """Returns what the workers read of each row. specs: of the image columns, in their order."""
    images = tuple(
        (spec, column, folder if is_uri(folder) else os.path.abspath(folder))
        for spec, (column, folder) in zip(specs, roles.images.items())
    )
    return RowPlan(
        label=roles.label,
        id=roles.id,
        group=roles.group,
        split=roles.split,
        features=roles.features,
        images=images,
    )
