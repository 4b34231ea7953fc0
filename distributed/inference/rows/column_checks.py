"""Checks the columns and the image folders that options name, against the table at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
from pyarrow.fs import FileType

from distributed.raw.table import RawTable
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import as_option_error, filesystem, is_uri
from distributed.runtime.suggestions import valid_names


def check_column(option: str, name: str, available: Sequence[str], source: str = "table") -> None:
    """Raises OptionError where an option names no column of the source."""
    if name not in available:
        raise OptionError(
            f"{option} must name a column of the {source}; got {name!r}; "
            f"{valid_names(name, available)}",
            option,
        )


def kept_columns(table: RawTable, names: Sequence[str]) -> pa.Schema | None:
    """Returns the types in which columns of a table are kept; None where none are.

    They stay as they are; a column that has different types in several files becomes text.
    """
    for name in names:
        check_column("keep", name, table.schema.names)
    if not names:
        return None
    return pa.schema(
        [
            pa.field(name, pa.string() if name in table.clashes else table.schema.field(name).type)
            for name in dict.fromkeys(names)
        ]
    )


def absolute_folder(folder: str) -> str:
    """Returns a local folder as an absolute path; a URI as it is."""
    return folder if is_uri(folder) else filesystem(folder)[1]


def image_folder(folder: str, option: str) -> str:
    """Returns the folder of an image column, absolute; raises OptionError where there is none."""
    system, path = filesystem(folder)
    with as_option_error(folder, option, "must name a folder that can be read"):
        if system.get_file_info(path).type != FileType.Directory:
            raise OptionError(f"{option} must name a folder that exists; got {folder!r}", option)
    return absolute_folder(folder)


def check_image_columns(
    names: Iterable[str],
    columns: Sequence[str],
    available: Sequence[str],
    option: str,
    source: str,
) -> None:
    """Raises OptionError where folders are given for columns that hold no images of the model.

    columns: the image columns of the checkpoint. available: the columns of the raw rows.
    source: what the raw rows are, for the message.
    """
    for name in names:
        if name not in columns:
            raise OptionError(
                f"{option} must name an image column of the checkpoint "
                f"({', '.join(columns) or 'it has none'}); got {name!r}",
                option,
            )
        check_column(option, name, available, source)
