"""Rows that an ingest leaves out by their ids, such as those whose label was found to be wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from distributed.ingestion.summary import IngestReport
from distributed.reporting.tables import from_csv_text
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import as_option_error, read_file
from distributed.shards.layout import REFUSED_SPLIT
from distributed.shards.sampling import IntArray
from model.schema import join_names

ID, VERDICT = "id", "drop"  # columns of the list; without the second, every row is left out
YES, NO = ("yes", "true", "1", "x"), ("no", "false", "0", "")
REASON = "left out by --drop-ids"


def read_drop_list(location: str) -> frozenset[str]:
    """Returns the ids that a CSV file says are to be left out.

    It has a column id and perhaps a column drop, with yes or no: what evaluate.py --audit writes.
    """
    with as_option_error(location, "drop_ids", "must name a CSV file that can be read"):
        content = read_file(location)
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"drop_ids must be a CSV file; {location}: {error}", "drop_ids") from None
    columns = list(rows[0]) if rows else []
    if ID not in columns:
        raise OptionError(
            f"drop_ids must have rows and a column {ID!r}; {location} has "
            f"{join_names([str(name) for name in columns]) or 'none'}",
            "drop_ids",
        )
    return frozenset(
        from_csv_text(row[ID].strip())
        for row in rows
        if row[ID] and (VERDICT not in columns or _is_yes(row[VERDICT], location))
    )


def _is_yes(verdict: str | None, location: str) -> bool:
    word = (verdict or "").strip().lower()
    if word not in (*YES, *NO):
        raise OptionError(
            f"drop_ids must have yes or no in its column {VERDICT!r}; {location} has {verdict!r}",
            "drop_ids",
        )
    return word in YES


def refuse_listed(
    ids: Sequence[str | None],
    listed: frozenset[str],
    split: IntArray,
    reasons: list[str | None],
    report: IngestReport,
) -> None:
    """Takes the listed rows out of their splits and writes the reason of each.

    It comes after the splits are dealt out, so that all other rows stay where they are without it.
    """
    if not listed:
        return
    dropped = np.array([name in listed for name in ids]) & (split != REFUSED_SPLIT)
    split[dropped] = REFUSED_SPLIT
    for row in np.flatnonzero(dropped):
        reasons[row] = REASON
    unknown = sorted(listed - {name for name in ids if name is not None})
    if unknown:
        report.warn(f"drop_ids has ids that no row has: {join_names(unknown)}")
    report.note(f"{int(dropped.sum())} rows were left out by --drop-ids")
