"""The built-in example data set: wafer maps of nine defect patterns with a long tail, and a table of process readings.

Neither half is enough. Maps are washed out to varying degrees, and what is then hard to tell apart in a map (a faint scratch, a faint
local cluster, a faint edge cluster, a good wafer) leaves different traces in the readings; what the readings confuse (particles under
a local cluster and all over the wafer; an etch that is uneven at the edge or in the middle) is easy to tell apart in a map.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distributed.runtime.storage import absolute_location
from distributed.shards import layout

if TYPE_CHECKING:
    import pandas as pd

# From the most to the least frequent, in the order of WM-811K, the large public collection of such maps.
CLASSES = (
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
FEWEST = 3  # wafers of the rarest class: one for each split
FRACTIONS = {
    "image_informative": 1.0,
    "table_informative": 1.0,
    "corrupt": 1.0,
    "missing": 0.9,
}  # and the highest value of each


def check(*, rows: int, imbalance: float, size: int, seed: int, **fractions: float) -> None:
    """Raises ValueError (rule, offending value) for the first parameter out of range."""
    if rows < FEWEST * len(CLASSES):
        raise ValueError(
            f"rows must be at least {FEWEST * len(CLASSES)}, {FEWEST} for each of the nine classes; got {rows}"
        )
    if not 1 <= imbalance < float("inf"):
        raise ValueError(f"imbalance must be a ratio of class counts, at least 1; got {imbalance}")
    if not 16 <= size <= 512:
        raise ValueError(f"size must be 16 to 512 pixels; got {size}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0; got {seed}")
    for name, highest in FRACTIONS.items():
        if not 0 <= fractions[name] <= highest:
            raise ValueError(f"{name} must be from 0 to {highest}; got {fractions[name]}")


def class_counts(rows: int, imbalance: float) -> dict[str, int]:
    """An exponential long tail: the first class has `imbalance` times as many wafers as the last; each has at least three."""
    shares = [imbalance ** (-k / (len(CLASSES) - 1)) for k in range(len(CLASSES))]
    counts = [max(FEWEST, round(rows * share / sum(shares))) for share in shares]
    while (
        extra := sum(counts) - rows
    ):  # what the rounding and the floor cost is the largest class's; among equals, the order stays
        largest = [k for k, count in enumerate(counts) if count == max(counts)]
        if extra > 0:
            counts[largest[-1]] -= 1
        else:
            counts[largest[0]] += 1
    return dict(zip(CLASSES, counts))


def _order(counts: dict[str, int], rng: Any) -> list[str]:
    """Labels in the order of processing.

    Wafers of one cause come in short runs, as they do in a factory, but in runs so short that every class is spread over a dozen lots or
    more (or a lot for each wafer): a split that keeps lots whole still has every class in each part.
    """
    runs = []
    for name, left in counts.items():
        longest = max(1, min(4, left // 30))
        while left:
            length = min(left, int(rng.integers(1, longest + 1)))
            runs.append([name] * length)
            left -= length
    return [name for k in rng.permutation(len(runs)) for name in runs[k]]


def _evidence(mean: float, uniform_N: Any) -> Any:
    """A smooth spread over 0..1 with exactly this mean (u^k has the mean 1 / (1 + k)); rises with `mean` for every wafer."""
    return uniform_N * 0 if mean == 0 else uniform_N ** ((1 - mean) / mean)


def generate(
    rows: int = 4000,
    imbalance: float = 50.0,
    image_informative: float = 0.6,
    table_informative: float = 0.7,
    corrupt: float = 0.1,
    missing: float = 0.06,
    size: int = 32,
    seed: int = 0,
    truth: bool = False,
) -> pd.DataFrame:
    """Wafers: id, lot, label, map (grey PNG bytes) and the process readings. The same parameters give the same bytes.

    image_informative, table_informative: mean over the wafers of how much evidence is left in each half, 0 to 1; it varies smoothly.
    corrupt: share of the wafers of which one half is spoilt outright, by a faulty probe card or (as often) a faulty logger.
    missing: share of lost cells in the sensors that can fail; a quarter of that share of the wafers has no map, as many have no log.
    truth: adds map_evidence and table_evidence, what is really left in each half: for studies of the confidences, never a feature.
    """
    fractions = {
        "image_informative": image_informative,
        "table_informative": table_informative,
        "corrupt": corrupt,
        "missing": missing,
    }
    check(rows=rows, imbalance=imbalance, size=size, seed=seed, **fractions)
    import numpy as np
    import pandas as pd

    from distributed.wafers.maps import GRIDS, draw_maps
    from distributed.wafers.readings import draw_readings, draw_tools, lose_and_scale

    # One stream of random numbers for each aspect: changing one parameter leaves every other aspect of a wafer as it was.
    lot_seed, state_seed, reading_seed, tool_seed, loss_seed, map_seed = np.random.SeedSequence(
        seed
    ).spawn(6)
    rng = np.random.default_rng(lot_seed)
    labels = np.array(_order(class_counts(rows, imbalance), rng), object)
    lot_size = max(
        1, min(LOT_SIZE, rows // 100)
    )  # a small data set has smaller lots, so that it can still be split by lot
    lots = np.arange(rows) // lot_size
    recipes = np.array(sorted(GRIDS), object)[rng.integers(0, len(GRIDS), lots.max() + 1)][lots]

    map_u, table_u, spoilt, gone = np.random.default_rng(state_seed).random((4, rows))
    map_share, table_share = (
        _evidence(image_informative, map_u),
        _evidence(table_informative, table_u),
    )
    bad_map, bad_log = spoilt < corrupt / 2, (spoilt >= corrupt / 2) & (spoilt < corrupt)
    no_map, no_log = gone < missing / 4, (gone >= missing / 4) & (gone < missing / 2)

    maps = np.empty(rows, object)
    for chunk, maps_NSS in draw_maps(labels, recipes, map_share, bad_map, size, map_seed):
        for n, map_SS in zip(chunk, maps_NSS):
            maps[n] = None if no_map[n] else _png(map_SS)
    readings = lose_and_scale(
        draw_readings(labels, recipes, lots, table_share, bad_log, reading_seed), missing, loss_seed
    )
    tools = draw_tools(labels, table_share, bad_log, tool_seed)
    columns: dict[str, Any] = {
        "id": [f"L{lot:05d}-W{n % lot_size + 1:02d}" for n, lot in enumerate(lots)],
        "lot": [f"L{lot:05d}" for lot in lots],
        "label": labels,
        "map": maps,
        **{name: np.where(no_log, np.nan, value) for name, value in readings.items()},
        **{
            name: np.where(no_log, None, value)
            for name, value in {"recipe": recipes, **tools}.items()
        },
    }
    if truth:
        columns |= {
            "map_evidence": map_share * ~(bad_map | no_map),
            "table_evidence": table_share * ~(bad_log | no_log),
        }
    return pd.DataFrame(columns)


def _png(map_SS: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(map_SS).save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """One Parquet file with the maps as a column of PNG bytes; whole or not there at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    half_written = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        frame.to_parquet(half_written, index=False)
        half_written.replace(target)
    finally:
        half_written.unlink(missing_ok=True)


def write_shards(out: str | os.PathLike[str], **parameters: Any) -> None:
    """Generates wafers (`parameters` are those of generate) and ingests them as any user's table would be, lots kept whole."""
    _ingest(
        generate(**parameters),
        out,
        parameters.get("size", DEFAULTS["size"]),
        parameters.get("seed", DEFAULTS["seed"]),
    )


def default_shards() -> str:
    """The shards of the built-in example with its default parameters, made on first use in the user's cache folder.

    That is a folder of this machine: on a cluster of several, write the shards to shared storage (--shards) and name them by --data.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sources = (Path(__file__).parent / f"{name}.py" for name in ("generator", "maps", "readings"))
    version = hashlib.sha256(
        b"".join(source.read_bytes() for source in sources) + bytes([layout.VERSION])
    ).hexdigest()[:10]
    out = home / "longtail-fusion" / f"wafers-{version}"
    if not (out / layout.MANIFEST).exists():
        print(f"making the built-in wafer data in {out}", file=sys.stderr)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                write_shards(out)
        except (ValueError, OSError):
            if not (
                out / layout.MANIFEST
            ).exists():  # else another process was faster, and its shards are the same
                raise
    return str(out)


def _ingest(frame: pd.DataFrame, out: str | os.PathLike[str], size: int, seed: int) -> None:
    from distributed.ingestion.options import IngestOptions
    from distributed.ingestion.pipeline import ingest

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "wafers.parquet"
        write_table(table, frame)
        options = IngestOptions(
            table=str(table),
            label="label",
            image=("map",),
            group="lot",
            id="id",
            image_size=str(size),
            seed=seed,
            out=str(out),
        )
        ingest(options).show()


def contact_sheet(
    frame: pd.DataFrame, path: str | os.PathLike[str], columns: int = 14, scale: int = 64
) -> None:
    """A picture of the data set: a row of maps for each class, evenly spread from the clearest to the faintest.

    Clear is what the column map_evidence says (generate with truth=True), or else how many dies failed.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    margin, gap, step = 110, 4, scale + 4
    groups = {name: frame[(frame["label"] == name) & frame["map"].notna()] for name in CLASSES}
    groups = {name: group for name, group in groups.items() if len(group)}
    sheet = Image.new("L", (margin + columns * step, len(groups) * step + gap), 32)
    pen = ImageDraw.Draw(sheet)
    for row, (name, group) in enumerate(groups.items()):
        maps = [Image.open(io.BytesIO(png)).convert("L") for png in group["map"]]
        clarity = (
            group["map_evidence"]
            if "map_evidence" in group
            else [np.mean(np.asarray(m) == 255) for m in maps]
        )
        order = np.argsort(-np.asarray(clarity, float), kind="stable")
        pen.text(
            (6, row * step + scale // 2 - 8),
            f"{name}\n{(frame['label'] == name).sum()} wafers",
            fill=255,
        )
        for column, k in enumerate(
            np.linspace(0, len(maps) - 1, min(columns, len(maps))).round().astype(int)
        ):
            tile = maps[order[k]].resize((scale, scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + column * step, row * step + gap))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


DEFAULTS: dict[str, Any] = {
    name: p.default for name, p in inspect.signature(generate).parameters.items()
}

# Option: what it takes, what it means.
OPTIONS: dict[str, tuple[type, str]] = {
    "rows": (int, "wafers, at least 27"),
    "imbalance": (float, "count of the largest class over that of the smallest, at least 1"),
    "image_informative": (float, "mean share of the pattern that a map shows, 0 to 1"),
    "table_informative": (float, "mean share of the cause that the readings show, 0 to 1"),
    "corrupt": (float, "share of wafers with one half spoilt outright, 0 to 1"),
    "missing": (float, "share of lost sensor readings, 0 to 0.9"),
    "size": (int, "pixels of a map's side, 16 to 512"),
    "seed": (int, "the same seed gives the same bytes"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")  # cli.run makes it one line and exit code 2


def parser() -> argparse.ArgumentParser:
    words = _Parser(
        prog="wafers.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, (kind, meaning) in OPTIONS.items():
        flag = "--" + name.replace("_", "-")
        words.add_argument(
            flag,
            type=kind,
            default=DEFAULTS[name],
            metavar=kind.__name__.upper(),
            help=f"{meaning} (default {DEFAULTS[name]})",
        )
    words.add_argument(
        "--truth",
        action="store_true",
        help="--out gets two columns more: the evidence really left in each half; not features",
    )
    words.add_argument(
        "--out", metavar="T.parquet", help="write the table, with the maps in it as PNG bytes"
    )
    words.add_argument(
        "--shards", metavar="SHARDS", help="ingest the table into shards, lots kept whole"
    )
    words.add_argument(
        "--sheet",
        metavar="F.png",
        help="write a contact sheet: a row of maps for each class, from clear to faint",
    )
    return words


def main(argv: list[str]) -> int:
    options = vars(parser().parse_args(argv))
    keep_truth, out, shards, sheet = (
        options.pop(name) for name in ("truth", "out", "shards", "sheet")
    )
    if not (out or shards or sheet):
        raise ValueError("nothing to write: give at least one of --out, --shards, --sheet")
    if folder := next((name for name in (out, sheet) if name and Path(name).is_dir()), None):
        raise ValueError(f"--out and --sheet must name files; got the folder {folder}")
    full = generate(**options, truth=True)
    frame = full.drop(columns=["map_evidence", "table_evidence"])
    try:
        if out:
            write_table(out, full if keep_truth else frame)
        if sheet:
            contact_sheet(full, sheet)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        wanted = " and ".join(name for name in (out, sheet) if name)
        raise ValueError(
            f"--out and --sheet must be in a folder that can be written to; got {wanted}: {error.strerror}"
        ) from None
    if shards:
        _ingest(frame, shards, options["size"], options["seed"])
    print(
        f"{len(frame)} wafers: "
        + ", ".join(
            f"{name} {count}"
            for name, count in frame["label"].value_counts().reindex(CLASSES).items()
        )
    )
    return 0


def resolve_shards(place: str | None) -> str:
    """The shards to work on: those named, or the built-in wafers, which are made on first use."""
    return absolute_location(place) if place else default_shards()
