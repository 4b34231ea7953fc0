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
    class_counts,
    generate_table,
    write_wafer_table,
)


def write_wafers(options: WaferOptions) -> dict[str, int]:
    """Writes what options.out, options.sheet and options.shards name.

    Returns the wafers of every class.
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
    everything = generate_table(dataclasses.replace(options, truth=True))
    features = everything.drop(columns=EVIDENCE_COLUMNS)
    try:
        if options.out:
            write_wafer_table(options.out, everything if options.truth else features)
        if options.sheet:
            contact_sheet(everything, options.sheet)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise OptionError(
            "out and sheet must be in a folder that can be written to; "
            f"got {' and '.join(files)}: {error.strerror}",
            "out",
            "sheet",
        ) from None
    if options.shards:
        ingest_wafers(features, options).show()
    return class_counts(options.rows, options.imbalance)


def write_wafer_shards(options: WaferOptions) -> None:
    """Draws wafers and ingests them into options.shards."""
    ingest_wafers(generate_table(options), options).show()


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
                id="id",
                image_size=str(options.size),
                seed=options.seed,
                out=options.shards,
            )
        )
