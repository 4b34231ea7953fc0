"""The built-in example data set as a table: labels, lots, wafer maps and process readings.

Legend: N wafers, S pixels of a map's side.
"""

from __future__ import annotations

import dataclasses
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from distributed.ingestion.options import FRACTIONS
from distributed.ingestion.splits import assign_splits, hash_ids, reseed
from distributed.runtime.option_values import check_options
from distributed.shards.layout import SPLITS, TEST, VAL
from distributed.wafers.maps import GRIDS, draw_maps
from distributed.wafers.options import MIN_ROWS_PER_CLASS, MIN_WAFERS, WaferOptions
from distributed.wafers.readings import draw_readings, draw_tools, lose_and_scale

# From the most to the least frequent, in the order of WM-811K, the large public collection of
# such maps.
WAFER_CLASSES = (
    "none",
    "edge-ring",
    "edge-loc",
    "center",
    "loc",
    "scratch",
    "random",
    "donut",
    "near-full",
)
LOT_SIZE = 25
MAX_RUN = 4  # wafers of one cause in a row
SPLIT_COLUMN = "split"
EVIDENCE_COLUMNS = ["map_evidence", "table_evidence"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def class_counts(rows: int, imbalance: float) -> dict[str, int]:
    """Returns the wafers of every class: an exponential long tail.

    The first class has `imbalance` times as many as the last; each has at least three.
    """
    shares = [imbalance ** (-k / (len(WAFER_CLASSES) - 1)) for k in range(len(WAFER_CLASSES))]
    counts = [max(MIN_ROWS_PER_CLASS, round(rows * share / sum(shares))) for share in shares]
    # What rounding and the minimum add or take away is made up for by the largest class; among
    # equal ones by that which keeps the order.
    while extra := sum(counts) - rows:
        largest = [k for k, count in enumerate(counts) if count == max(counts)]
        if extra > 0:
            counts[largest[-1]] -= 1
        else:
            counts[largest[0]] += 1
    return dict(zip(WAFER_CLASSES, counts))


def _processing_order(counts: dict[str, int], rng: np.random.Generator) -> list[str]:
    """Returns the labels in the order of processing.

    Wafers of one cause come in short runs, as they do in a factory. The runs are so short that
    every class is spread over a dozen lots or more (or one lot for each wafer): a split that
    keeps lots whole still has every class in each part.
    """
    runs = []
    for name, left in counts.items():
        longest = max(1, min(MAX_RUN, left // 30))
        while left:
            length = min(left, int(rng.integers(1, longest + 1)))
            runs.append([name] * length)
            left -= length
    return [name for k in rng.permutation(len(runs)) for name in runs[k]]


def _evidence(mean: float, uniform_N: FloatArray) -> FloatArray:
    """Returns values spread smoothly over 0..1 with exactly this mean.

    u^k has the mean 1 / (1 + k). For every wafer the value rises with the mean.
    """
    return uniform_N * 0 if mean == 0 else uniform_N ** ((1 - mean) / mean)


@dataclass(frozen=True)
class _WaferStates:
    """How much of its defect each wafer shows in the map and in the readings, and what it lost."""

    map_share_N: FloatArray
    table_share_N: FloatArray
    faulty_map_N: BoolArray
    faulty_log_N: BoolArray
    no_map_N: BoolArray
    no_log_N: BoolArray

    def evidence(self) -> dict[str, FloatArray]:
        """Returns what is really left in each half."""
        return {
            "map_evidence": self.map_share_N * ~(self.faulty_map_N | self.no_map_N),
            "table_evidence": self.table_share_N * ~(self.faulty_log_N | self.no_log_N),
        }


def _draw_states(options: WaferOptions, seed: np.random.SeedSequence) -> _WaferStates:
    corrupt, missing = options.corrupt, options.missing
    map_N, table_N, spoilt_N, lost_N = np.random.default_rng(seed).random((4, options.rows))
    return _WaferStates(
        map_share_N=_evidence(options.image_informative, map_N),
        table_share_N=_evidence(options.table_informative, table_N),
        faulty_map_N=spoilt_N < corrupt / 2,
        faulty_log_N=(spoilt_N >= corrupt / 2) & (spoilt_N < corrupt),
        no_map_N=lost_N < missing / 4,
        no_log_N=(lost_N >= missing / 4) & (lost_N < missing / 2),
    )


def generate_table(options: WaferOptions) -> pd.DataFrame:
    """Returns wafers: id, lot, label, map (grey PNG bytes) and the process readings.

    The same options give the same bytes. options.truth adds map_evidence and table_evidence, what
    is really left in each half: for studies of the confidences, never as a feature.
    """
    options = check_options(WaferOptions, options)
    return _draw_table(options, _lot_size(options))


def _lot_size(options: WaferOptions) -> int:
    """A small data set has smaller lots, so that it can still be split by lot."""
    return max(1, min(LOT_SIZE, options.rows // 100))


def generate_split_table(options: WaferOptions) -> pd.DataFrame:
    """Returns the wafers of generate_table with their split, then those drawn for val and test.

    The split of the first is the one that ingest would give them. The others are of lots of their
    own, and drawn from other random numbers.
    """
    table = generate_table(options)
    split_N = _ingested_split(table, options.seed)
    tables = [table.assign(**{SPLIT_COLUMN: np.array(SPLITS, object)[split_N]})]
    first_lot = table["lot"].nunique()
    for place, wanted in ((VAL, options.val_rows), (TEST, options.test_rows)):
        lacking = wanted - int((split_N == place).sum())
        if lacking <= 0:
            continue
        seed = np.random.SeedSequence([options.seed, place]).generate_state(1)[0]
        more = dataclasses.replace(options, rows=max(lacking, MIN_WAFERS), seed=int(seed))
        drawn = _draw_table(more, _lot_size(options), first_lot)
        first_lot += drawn["lot"].nunique()
        tables.append(drawn.assign(**{SPLIT_COLUMN: SPLITS[place]}))
    return pd.concat(tables, ignore_index=True)


def _ingested_split(table: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Returns the split of every wafer, lots kept whole, as ingest decides it."""
    _, labels_N = np.unique(table["label"].to_numpy().astype(str), return_inverse=True)
    lots, units_N = np.unique(table["lot"].to_numpy().astype(str), return_inverse=True)
    return assign_splits(labels_N, units_N, reseed(hash_ids(lots), seed), FRACTIONS)


def _draw_table(options: WaferOptions, lot_size: int, first_lot: int = 0) -> pd.DataFrame:
    rows, missing = options.rows, options.missing
    # One stream of random numbers for each aspect: changing one parameter leaves every other
    # aspect of a wafer as it was.
    seeds = np.random.SeedSequence(options.seed).spawn(6)
    lot_seed, state_seed, reading_seed, tool_seed, loss_seed, map_seed = seeds
    rng = np.random.default_rng(lot_seed)
    counts = class_counts(rows, options.imbalance)
    labels_N = np.array(_processing_order(counts, rng), object)
    lots_N = np.arange(rows) // lot_size
    recipe_of_lot = rng.integers(0, len(GRIDS), lots_N.max() + 1)
    recipes_N = np.array(sorted(GRIDS), object)[recipe_of_lot][lots_N]

    states = _draw_states(options, state_seed)
    maps_N = np.empty(rows, object)
    for chunk, maps_NSS in draw_maps(
        labels_N, recipes_N, states.map_share_N, states.faulty_map_N, options.size, map_seed
    ):
        for n, map_SS in zip(chunk, maps_NSS):
            maps_N[n] = None if states.no_map_N[n] else _png(map_SS)
    share_N, faulty_N = states.table_share_N, states.faulty_log_N
    z_scores = draw_readings(labels_N, recipes_N, lots_N, share_N, faulty_N, reading_seed)
    readings = lose_and_scale(z_scores, missing, loss_seed)
    tools = draw_tools(labels_N, share_N, faulty_N, tool_seed)
    no_log_N = states.no_log_N
    columns: dict[str, object] = {
        "id": [f"L{first_lot + lot:05d}-W{n % lot_size + 1:02d}" for n, lot in enumerate(lots_N)],
        "lot": [f"L{first_lot + lot:05d}" for lot in lots_N],
        "label": labels_N,
        "map": maps_N,
    }
    columns |= {name: np.where(no_log_N, np.nan, values) for name, values in readings.items()}
    lost_N = np.full(rows, None, object)
    categories = {"recipe": recipes_N, **tools}
    columns |= {name: np.where(no_log_N, lost_N, values) for name, values in categories.items()}
    if options.truth:
        columns |= states.evidence()
    return pd.DataFrame(columns)


def _png(map_SS: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(map_SS).save(buffer, "PNG")
    return buffer.getvalue()


def write_wafer_table(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Writes one Parquet file, with the maps as a column of PNG bytes; whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    half_written = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        frame.to_parquet(half_written, index=False)
        half_written.replace(target)
    finally:
        half_written.unlink(missing_ok=True)
