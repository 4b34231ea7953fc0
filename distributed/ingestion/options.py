"""The options of `ingest`: for the command line, for Python and for the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from model.declarations import option, required
from model.limits import MAX_SEED

FRACTIONS = (0.7, 0.1, 0.2)  # of the rows for train, val and test


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """What `ingest` reads and how: a table, its images, and where the shards go."""

    table: str = required(
        "CSV or Parquet: a file, a folder of them, or a URI (s3://, gs://)", "TABLE"
    )
    label: str = required("column of the classes", "COL")
    image: tuple[str, ...] = option(
        (),
        "image columns: encoded bytes, or paths relative to DIR, else to the table",
        metavar="COL[=DIR]",
        shown="no images",
    )
    group: str | None = option(
        None,
        "rows of one group stay in one split: a patient, a lot",
        metavar="COL",
    )
    id: str | None = option(None, "column of unique ids", metavar="COL", shown="rows are numbered")
    drop: tuple[str, ...] = option((), "columns to leave out", metavar="COL")
    drop_ids: str = option(
        "",
        "rows to leave out: a CSV file with a column id, and perhaps a column drop with yes or no, "
        "as evaluate.py --audit writes it; all other rows keep their splits",
        metavar="F.csv",
        shown="none",
    )
    numeric: tuple[str, ...] = option(
        (),
        "columns that are numbers, whatever they look like",
        metavar="COL",
        shown="by their values",
    )
    categorical: tuple[str, ...] = option(
        (),
        "columns that are categories, whatever they look like",
        metavar="COL",
        shown="by their values",
    )
    decimal: str | None = option(
        None,
        "the decimal mark of text such as 1,234, which may be thousands",
        choices=("point", "comma"),
        shown="by the column's other cells",
    )
    dates: str | None = option(
        None,
        "the order of dates such as 03/04/2024",
        choices=("day-first", "month-first"),
        shown="by the column's other cells",
    )
    modality: tuple[str, ...] = option(
        (),
        "table modalities of their own",
        metavar="NAME=COL,COL",
        shown="one modality named table",
    )
    split_column: str | None = option(
        None,
        "column that says train, val or test",
        metavar="COL",
        shown="none: rows are split by --split",
    )
    split: str | None = option(
        None,
        "shares of a stratified split",
        metavar="TRAIN,VAL,TEST",
        shown=",".join(map(str, FRACTIONS)),
    )
    image_size: str = option(
        "auto", "pixels; auto: the median size, longer side at most 64", metavar="N|HxW|auto"
    )
    fit: str = option(
        "pad", "how an image of another shape is fitted", choices=("pad", "crop", "stretch")
    )
    window: str = option(
        "auto",
        "16-bit grey values that become black and white; auto: 0.5 and 99.5 % of them",
        metavar="LOW,HIGH|auto",
    )
    max_pixels: int = option(
        64_000_000,
        "larger images are refused, and those whose file or decoding takes too many bytes for it",
        low=1,
        metavar="N",
        shown="64 million pixels",
    )
    encoding: str = option("utf-8", "text encoding of a CSV table", metavar="NAME")
    rows_per_file: int = option(
        0,
        "rows of one part file",
        low=0,
        metavar="N",
        shown="0: about 32 MiB per file, larger beyond 2,000 files",
    )
    overwrite: bool = option(False, "replace a SHARDS folder at --out", shown="refuse")
    seed: int = option(
        0, "of the split and of the order of the rows", low=0, high=MAX_SEED, metavar="N"
    )
    out: str = required("folder or URI to write", "SHARDS")
