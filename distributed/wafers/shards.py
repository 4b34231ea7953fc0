"""Writes the example data set: as a table, as a picture, and as shards like any user's table."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pandas as pd

from distributed.ingestion.options import IngestOptions
from distributed.ingestion.pipeline import IngestResult, ingest
from distributed.runtime.errors import OptionError
from distributed.wafers.options import WaferOptions
from distributed.wafers.sheet import contact_sheet
from distributed.wafers.table import (
    EVIDENCE_COLUMNS,
    SPLIT_COLUMN,
    WAFER_CLASSES,
    generate_split_table,
    generate_table,
    write_wafer_table,
)


def write_wafers(options: WaferOptions) -> dict[str, int]:
    """Writes what options.out, options.sheet and options.shards name.

    Returns the wafers of every class, those that only the shards have included.
    """
    if not (options.out or options.shards or options.sheet):
        raise OptionError(
            "nothing to write: give at least one of out, shards, sheet", "out", "shards", "sheet"
        )
    files = [name for name in (options.out, options.sheet) if name]
    folder = next((name for name in files if Path(name).is_dir()), None)
    if folder:
        raise OptionError(f"out and sheet must name files; got the folder {folder}", "out", "sheet")
    if options.out and not options.out.endswith(".parquet"):
        raise OptionError(f"out must name a .parquet file; got {options.out!r}", "out")
    truth = dataclasses.replace(options, truth=True)
    everything = generate_split_table(truth) if options.shards else generate_table(truth)
    table = everything.iloc[: options.rows].drop(columns=SPLIT_COLUMN, errors="ignore")
    try:
        if options.out:
            written = table if options.truth else table.drop(columns=EVIDENCE_COLUMNS)
            write_wafer_table(options.out, written)
        if options.sheet:
            contact_sheet(table, options.sheet)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise OptionError(
            "out and sheet must be in a folder that can be written to; "
            f"got {' and '.join(files)}: {error.strerror}",
            "out",
            "sheet",
        ) from None
    if options.shards:
        ingest_wafers(everything.drop(columns=EVIDENCE_COLUMNS), options).show()
    counts = everything["label"].value_counts()
    return {name: int(counts[name]) for name in WAFER_CLASSES}


def write_wafer_shards(options: WaferOptions) -> None:
    """Draws wafers and ingests them into options.shards."""
    ingest_wafers(generate_split_table(options), options).show()


def ingest_wafers(frame: pd.DataFrame, options: WaferOptions) -> IngestResult:
    """Ingests the wafers as any user's table would be, lots kept whole."""
    assert options.shards is not None
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "wafers.parquet"
        write_wafer_table(table, frame)
        return ingest(
            IngestOptions(
                table=str(table),
                label="label",
                image=("map",),
                group="lot",
                split_column=SPLIT_COLUMN,
                id="id",
                image_size=str(options.size),
                seed=options.seed,
                out=options.shards,
            )
        )
