"""How a trained model meets broken pictures and rows, made otherwise than in training.

All rows of a table of raw records are predicted as they are, and again with one modality changed in
every row. A harmless change (another orientation, coarser JPEG) should cost little, and a modality
that says nothing any more should leave the score of the other one alone, which is measured by
leaving the modality out. Prints one JSON line: for each failure balanced accuracy in percent,
class-balanced log-loss and the mean weight of the changed modality.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed import load
from distributed.inference.loaded import LoadedModel

Picture = Callable[[Image.Image, np.random.Generator], Image.Image]
Pixels = NDArray[np.float32]
COARSE = 6  # pixels of a side that become one
POOR_JPEG = 5  # quality
DARK, FOG = 0.35, 0.75


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run with one image and a table")
    parser.add_argument("--table", required=True, help="a Parquet file with raw records")
    parser.add_argument("--split", default="", help="only rows whose column `split` says so")
    parser.add_argument("--rows", type=int, default=0, help="at most this many rows; 0 is all")
    parser.add_argument(
        "--trust-unfamiliar",
        action="store_true",
        help="also use what is unlike anything in training",
    )
    parser.add_argument("--only", default="", help="comma-separated failures; empty is all")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    model = load(args.checkpoint, trust_unfamiliar=args.trust_unfamiliar)
    schema = model.checkpoint.network.schema
    image, table = schema.images[0].name, schema.tables[0]
    frame = pd.read_parquet(args.table)
    if args.split:
        frame = frame[frame["split"] == args.split]
    frame = frame.reset_index(drop=True)[: args.rows or None]
    columns = [column.name for column in table.columns]
    failures: dict[str, tuple[str, Callable[[], pd.DataFrame]]] = {
        "nothing": (image, lambda: frame),
        "no picture": (image, lambda: frame.assign(**{image: None})),
        "no row": (table.name, lambda: frame.drop(columns=columns)),
    }
    for name, change in PICTURES.items():
        failures[name] = (image, partial(with_pictures, frame, image, change))
    for name, redraw in ROWS.items():
        failures[name] = (table.name, partial(redraw, frame, columns))
    chosen = [name for name in args.only.split(",") if name] or list(failures)
    results: dict[str, object] = {"benchmark": "failures", "rows": len(frame)}
    for name in chosen:
        modality, changed = failures[name]
        results[name] = score(model, changed(), modality)
    return results


def score(model: LoadedModel, rows: pd.DataFrame, modality: str) -> list[float]:
    """Returns balanced accuracy, class-balanced log-loss and the modality's mean weight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on unfamiliar rows, which are what is measured
        predictions = model.predict(rows)
    weight = float(predictions[f"weight/{modality}"].mean())
    accuracy = 100 * predictions.attrs["score"]["balanced_accuracy"]
    # A refused row has neither label nor probabilities.
    scored = predictions[predictions["label"].notna() & predictions["prediction"].notna()]
    own = pd.Series(
        [row[f"p/{row['label']}"] for _, row in scored.iterrows()], scored.index, dtype=float
    )
    losses = -np.log(own.clip(lower=1e-7)).groupby(scored["label"]).mean()
    return [round(accuracy, 1), round(float(losses.mean()), 3), round(weight, 2)]


def with_pictures(frame: pd.DataFrame, column: str, change: Picture) -> pd.DataFrame:
    """Returns the rows with every picture changed; each is stored without loss."""
    rng = np.random.default_rng(0)
    return frame.assign(**{column: [_changed(cell, change, rng) for cell in frame[column]]})


def _changed(cell: object, change: Picture, rng: np.random.Generator) -> bytes | None:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        return None
    picture = Image.open(io.BytesIO(data))
    buffer = io.BytesIO()
    change(picture.convert("L" if picture.mode == "L" else "RGB"), rng).save(buffer, "PNG")
    return buffer.getvalue()


def _by_pixels(change: Callable[[Pixels, np.random.Generator], Pixels]) -> Picture:
    """Returns a change of a picture, given one of its pixels, [H, W] or [H, W, 3] in 0..1."""

    def changed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = change(np.asarray(picture, np.float32) / np.float32(255), rng)
        return Image.fromarray((255 * pixels.clip(0, 1) + 0.5).astype(np.uint8))

    return changed


def _turned(method: Image.Transpose) -> Picture:
    return lambda picture, rng: picture.transpose(method)


def _pixelated(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    small = (max(1, picture.width // COARSE), max(1, picture.height // COARSE))
    return picture.resize(small, Image.Resampling.BOX).resize(
        picture.size, Image.Resampling.NEAREST
    )


def _poor_jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=POOR_JPEG)
    return Image.open(buffer).convert(picture.mode)


def _lines(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Every third line is black or white."""
    pixels = pixels.copy()
    pixels[::6], pixels[3::6] = 0, 1
    return pixels


def _half_covered(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    pixels = pixels.copy()
    pixels[:, : pixels.shape[1] // 2] = 0
    return pixels


def _salt(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """A fifth of the pixels are black or white."""
    draws = rng.random(pixels.shape[:2])
    pixels = pixels.copy()
    pixels[draws < 0.1], pixels[draws > 0.9] = 0, 1
    return pixels


def _stripes(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Shifts blocks of lines sideways, as a camera that loses synchronisation does."""
    pixels = pixels.copy()
    for top in range(0, len(pixels), 8):
        pixels[top : top + 8] = np.roll(pixels[top : top + 8], rng.integers(pixels.shape[1]), 1)
    return pixels


def _colours_exchanged(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.merge("RGB", picture.split()[::-1]) if picture.mode == "RGB" else picture


PICTURES: dict[str, Picture] = {
    "pixelated": _pixelated,
    "JPEG quality 5": _poor_jpeg,
    "every third line": _by_pixels(_lines),
    "red and blue exchanged": _colours_exchanged,
    "grey": lambda picture, rng: picture.convert("L").convert(picture.mode),
    "negative": _by_pixels(lambda pixels, rng: 1 - pixels),
    "fog": _by_pixels(lambda pixels, rng: FOG + (1 - FOG) * pixels),
    "dark": _by_pixels(lambda pixels, rng: DARK * pixels),
    "turned by 90 degrees": _turned(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": _turned(Image.Transpose.ROTATE_180),
    "mirrored": _turned(Image.Transpose.FLIP_LEFT_RIGHT),
    "left half black": _by_pixels(_half_covered),
    "salt and pepper": _by_pixels(_salt),
    "lines out of step": _by_pixels(_stripes),
    "white noise": _by_pixels(lambda p, rng: rng.random(p.shape, np.float32)),
}


def _is_number(frame: pd.DataFrame, column: str) -> bool:
    return bool(pd.api.types.is_numeric_dtype(frame[column]))


def _garbled(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Replaces every category by one that training did not have."""
    texts = [column for column in columns if not _is_number(frame, column)]
    return frame.assign(**{column: frame[column].astype(str) + "?" for column in texts})


def _same_row(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Every record has the row of the first complete record."""
    first = frame[columns].dropna().iloc[0] if len(frame[columns].dropna()) else frame.iloc[0]
    return frame.assign(**{column: first[column] for column in columns})


def _another_unit(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Every number is a thousandfold, as in another unit."""
    numbers = [column for column in columns if _is_number(frame, column)]
    return frame.assign(**{column: frame[column] * 1000.0 for column in numbers})


def _cells_drawn(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Every column is shuffled by itself."""
    rng = np.random.default_rng(0)
    return frame.assign(**{c: frame[c].to_numpy()[rng.permutation(len(frame))] for c in columns})


def _rows_exchanged(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Every record has the row of another one."""
    order = np.random.default_rng(0).permutation(len(frame))
    return frame.assign(**{column: frame[column].to_numpy()[order] for column in columns})


def _half_empty(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Every second cell is empty."""
    rng = np.random.default_rng(0)
    return frame.assign(**{c: frame[c].where(rng.random(len(frame)) < 0.5) for c in columns})


ROWS: dict[str, Callable[[pd.DataFrame, list[str]], pd.DataFrame]] = {
    "categories garbled": _garbled,
    "every row the same": _same_row,
    "numbers times 1000": _another_unit,
    "columns shuffled one by one": _cells_drawn,
    "rows exchanged": _rows_exchanged,
    "half of the cells empty": _half_empty,
}

if __name__ == "__main__":
    main()
