"""Records as cards: their pictures, their row, what each modality said, and the likely classes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distributed.reporting.tables import ReportTable

LARGEST_SIDE = 320  # pixels of a picture on a card; larger ones are made smaller
LOSSLESS_PIXELS = 96 * 96  # up to here a picture is a PNG, beyond a JPEG


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a record.

    source: its content as a data URI. patches: what each patch of it contributes to the class,
    rows of numbers from -1 to 1; NaN where that is not known.
    """

    name: str
    source: str
    patches: Sequence[Sequence[float]] = ()

    def shades(self) -> Iterator[tuple[float, float, float, float, float, bool]]:
        """Yields the patches as x, y, width, height, opacity, and whether it speaks for the class.

        Positions are shares of the picture; the strongest patch is the darkest.
        """
        values = [abs(value) for row in self.patches for value in row if value == value]
        largest = max(values, default=0.0)
        if not largest:
            return
        height = 1 / len(self.patches)
        for r, row in enumerate(self.patches):
            for c, value in enumerate(row):
                opacity = 0.75 * abs(value) / largest
                if opacity > 0.04:
                    width = 1 / len(row)
                    yield c * width, r * height, width, height, round(opacity, 2), value > 0


@dataclass(frozen=True)
class Answer:
    """A class and its probability."""

    name: str
    probability: float
    is_true: bool


@dataclass(frozen=True)
class Voice:
    """What a modality says of the record. said: the class that it alone finds most likely."""

    modality: str
    said: str
    probability: float | None
    weight: float | None  # in the fusion
    note: str = ""


@dataclass(frozen=True)
class RowCell:
    """A cell of the record's row. contribution: to the probability of the class, from -1 to 1."""

    column: str
    value: str
    contribution: float | None = None


@dataclass(frozen=True)
class Neighbour:
    """A record that is much like the one on the card. source: its picture, if it has one."""

    label: str
    source: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One record. outcome: what it is and what the model said.

    verdict_id: the id under which the reader's verdict is saved; empty where none is asked for.
    """

    title: str
    outcome: str
    pictures: Sequence[Picture] = ()
    answers: Sequence[Answer] = ()
    voices: Sequence[Voice] = ()
    cells: Sequence[RowCell] = ()
    neighbours: Sequence[Neighbour] = ()
    verdict_id: str = ""


@dataclass(frozen=True)
class VerdictButton:
    """A button that saves a CSV file of what the reader ticked on the cards. name: of the file."""

    template: ClassVar[str] = "verdict"
    text: str
    name: str = "verdict.csv"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cards side by side, as many in a line as there is space for."""

    template: ClassVar[str] = "gallery"  # the macro in blocks.html.j2 that writes it
    cards: Sequence[Card]
    caption: str = ""

    def as_table(self) -> ReportTable:
        """Returns the cards as a table, for readers without pictures."""
        return ReportTable(
            columns=("record", "outcome", "likely classes"),
            rows=[
                (
                    card.title,
                    card.outcome,
                    ", ".join(f"{a.name} {100 * a.probability:.0f} %" for a in card.answers),
                )
                for card in self.cards
            ],
            caption=self.caption,
        )


def picture_source(pixels_CHW: NDArray[np.uint8]) -> str:
    """Returns an image as a data URI: of one channel grey, of three colour, of others the first."""
    channels = pixels_CHW.shape[0]
    values: NDArray[Any] = pixels_CHW.transpose(1, 2, 0)
    picture = Image.fromarray(
        np.ascontiguousarray(values[..., :3] if channels >= 3 else values[..., 0])
    )
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    is_small = picture.width * picture.height <= LOSSLESS_PIXELS
    buffer = io.BytesIO()
    if is_small:
        picture.save(buffer, "PNG", compress_level=6)
    else:
        picture.save(buffer, "JPEG", quality=85)
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
