"""The parameters of the built-in example data, for the command line and for Python."""

from __future__ import annotations

from dataclasses import dataclass

from model.declarations import option
from model.limits import MAX_SEED

# Goes up when the same parameters give other wafers or other shards of them: the example data in
# the user's cache folder, whose name holds this number, is then written anew.
WAFERS_VERSION = 3
MIN_ROWS_PER_CLASS = 3  # one for each split
CLASS_COUNT = 9
MIN_WAFERS = MIN_ROWS_PER_CLASS * CLASS_COUNT


@dataclass(frozen=True, kw_only=True)
class WaferOptions:
    """How the wafers are drawn, and what is written. The same parameters give the same bytes.

    The evidence in each half varies smoothly from wafer to wafer. `corrupt` is spoilt outright:
    by a faulty probe card (the map) or as often by a faulty logger (the readings). `missing`
    concerns the sensors that can fail; in addition, a quarter of that share of the wafers has no
    map, and as many have no readings.

    The table has `rows` wafers. Shards have these, split 70 : 10 : 20, and more for validation and
    test, so that differences between models are not lost in the chance of a few rare wafers.
    """

    rows: int = option(
        4000,
        f"wafers of the table, at least {MIN_WAFERS}; in shards 70 % of them are for training",
        low=MIN_WAFERS,
        metavar="INT",
    )
    val_rows: int = option(
        2000,
        "validation wafers of the shards: what the table lacks of them is drawn in addition",
        low=0,
        metavar="INT",
    )
    test_rows: int = option(5000, "the same for test", low=0, metavar="INT")
    imbalance: float = option(
        50.0,
        "count of the largest class over that of the smallest, at least 1",
        low=1,
        metavar="FLOAT",
    )
    image_informative: float = option(
        0.6, "mean share of the pattern that a map shows, 0 to 1", low=0, high=1, metavar="FLOAT"
    )
    table_informative: float = option(
        0.7,
        "mean share of the cause that the readings show, 0 to 1",
        low=0,
        high=1,
        metavar="FLOAT",
    )
    corrupt: float = option(
        0.1, "share of wafers with one half spoilt outright, 0 to 1", low=0, high=1, metavar="FLOAT"
    )
    missing: float = option(
        0.06, "share of lost sensor readings, 0 to 0.9", low=0, high=0.9, metavar="FLOAT"
    )
    size: int = option(32, "pixels of a map's side, 16 to 512", low=16, high=512, metavar="INT")
    seed: int = option(0, "the same seed gives the same bytes", low=0, high=MAX_SEED, metavar="INT")
    truth: bool = option(
        False,
        "--out gets two columns more: the evidence really left in each half; not features",
        shown="",
    )
    out: str | None = option(
        None,
        "write the table, with the maps in it as PNG bytes",
        metavar="T.parquet",
        shown="",
    )
    shards: str | None = option(
        None, "ingest the table into shards, lots kept whole", metavar="SHARDS", shown=""
    )
    sheet: str | None = option(
        None,
        "write a contact sheet: a row of maps for each class, from clear to faint",
        metavar="F.png",
        shown="",
    )
