"""A picture of the example data set: a row of wafer maps for each class."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from distributed.wafers.maps import FAIL
from distributed.wafers.table import WAFER_CLASSES

MARGIN = 110  # pixels for a row's title
GAP = 4
DARK = 32


def contact_sheet(
    frame: pd.DataFrame, path: str | os.PathLike[str], columns: int = 14, scale: int = 64
) -> None:
    """Writes a PNG with a row of maps for each class, evenly spread from clearest to faintest.

    The clarity is the column map_evidence where the table has it, else how many dies failed.
    columns: maps in a row. scale: pixels of a map's side.
    """
    step = scale + GAP
    groups = {
        name: frame[(frame["label"] == name) & frame["map"].notna()] for name in WAFER_CLASSES
    }
    groups = {name: group for name, group in groups.items() if len(group)}
    sheet = Image.new("L", (MARGIN + columns * step, len(groups) * step + GAP), DARK)
    pen = ImageDraw.Draw(sheet)
    for row, (name, group) in enumerate(groups.items()):
        maps = [Image.open(io.BytesIO(png)).convert("L") for png in group["map"]]
        if "map_evidence" in group:
            clarity = group["map_evidence"].to_numpy(float)
        else:
            clarity = np.array([np.mean(np.asarray(m) == FAIL) for m in maps])
        order = np.argsort(-clarity, kind="stable")
        title = f"{name}\n{(frame['label'] == name).sum()} wafers"
        pen.text((6, row * step + scale // 2 - 8), title, fill=255)
        places = np.linspace(0, len(maps) - 1, min(columns, len(maps))).round().astype(int)
        for column, k in enumerate(places):
            tile = maps[order[k]].resize((scale, scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * step, row * step + GAP))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
