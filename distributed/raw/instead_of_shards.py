"""Recognises a table where a SHARDS folder is expected, and says how to make shards of it."""

from __future__ import annotations

import posixpath

from pyarrow.fs import FileSelector, FileType

from distributed.raw.table import TABLE_KINDS, open_raw_table
from distributed.runtime import shell
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import filesystem
from distributed.shards.manifest import has_manifest
from model.schema import join_names

# Names that a column of classes often has, the likeliest first.
LABEL_NAMES = ("label", "class", "target", "diagnosis", "category", "y")


def refuse_table(place: str) -> None:
    """Raises OptionError, with the command that ingests it, if the place is a table."""
    if has_manifest(place) or not _holds_only_tables(place):
        return
    try:
        columns = open_raw_table(place, option="data").schema.names
    except ValueError:  # a damaged table; that it is none of shards is told by its manifest
        return
    by_spelling = {name.lower(): name for name in columns}
    label = next((by_spelling[name] for name in LABEL_NAMES if name in by_spelling), "COLUMN")
    name = _without_ending(posixpath.basename(place.rstrip("/")))
    words = ["--table", shell.shown_location(place), "--label", label]
    words += ["--out", f"{name}-shards"]
    raise OptionError(
        f"data must be a SHARDS folder; got the table {place!r}: ingest it first:"
        f" {shell.script_command('distributed/ingest.py', *words)}"
        f" (--label is the column of the classes: {join_names(columns)})",
        "data",
    )


def _holds_only_tables(place: str) -> bool:
    """Whether a file is a table by its name, or a folder holds such files and nothing else."""
    system, path = filesystem(place)
    files = [system.get_file_info(path)]
    if files[0].type == FileType.Directory:
        files = system.get_file_info(FileSelector(path))
    return bool(files) and all(
        file.type == FileType.File and _without_ending(file.base_name) != file.base_name
        for file in files
    )


def _without_ending(name: str) -> str:
    """Returns the name of a table's file without the ending that tells its kind."""
    endings = sorted(TABLE_KINDS, key=len, reverse=True)
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]
