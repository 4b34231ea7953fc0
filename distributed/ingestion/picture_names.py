"""Recognises columns of picture file names that the user has not named with --image."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from distributed.raw.cells import as_text, is_text
from distributed.raw.image_files import ImageFolder
from distributed.raw.limits import ImageLimits, RowRefused
from distributed.raw.table import RawTable, sample_rows
from distributed.runtime.errors import OptionError

PICTURE_NAME = r"(?i)\.(png|jpe?g|tiff?|bmp|gif|webp|p[gnp]m)$"
MIN_SHARE = 0.95  # of a sample's cells that are such names


def find_picture_names(table: RawTable, columns: Sequence[str]) -> dict[str, str]:
    """Returns the columns whose cells are names of pictures, each with an example.

    columns: those that the user has given no use. Raises OptionError where the pictures are under
    the table's folder, so that they could be used: the user must say whether they should be.
    """
    texts = [name for name in columns if _may_be_text(table.schema.field(name).type)]
    if not texts:
        return {}
    sample = sample_rows(table, texts)
    found: dict[str, str] = {}
    for column in texts:
        names = as_text(sample[column]).drop_null()
        is_picture = pc.match_substring_regex(names, PICTURE_NAME)
        if not len(names) or (pc.sum(is_picture).as_py() or 0) < MIN_SHARE * len(names):
            continue
        found[column] = names.filter(is_picture)[0].as_py()
        if _all_readable(names.to_pylist(), table.folder):
            raise OptionError(
                f"the use of column {column!r} must be given: it holds names of pictures under the "
                f"table's folder, such as {found[column]!r}; valid: image {column!r} (use the "
                f"pictures), drop {column!r} (leave them out)",
                "image",
                "drop",
            )
    return found


def _may_be_text(kind: pa.DataType) -> bool:
    return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _all_readable(names: Sequence[str], folder: str) -> bool:
    """Whether every name is that of a file that can be read below the folder."""
    reader = ImageFolder(folder, ImageLimits())
    try:
        return all(reader.read(name) for name in names)
    except RowRefused:
        return False
