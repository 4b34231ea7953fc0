"""The style of all figures: colours, labels and the empty figure that every plot begins with.

The colours can be told apart under the usual kinds of colour blindness, on light and dark paper.
The page sets the colours of paper, ink and grid.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections import Counter
from collections.abc import Iterable

import plotly.graph_objects as go

COLOURS = ("#2b7bba", "#e07b00", "#109e73", "#c65a9b", "#8c6bb1", "#c0392b", "#6b8e23", "#7f7f7f")
BETTER_COLOUR, WORSE_COLOUR, GREY = COLOURS[2], COLOURS[5], "#8a8f98"
# From the worst value to the best: each colour can be seen on light and on dark paper.
COLOUR_SCALE = ((0.0, GREY), (0.5, COLOURS[0]), (1.0, COLOURS[1]))
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")


def short_label(text: object, max_length: int = 40, *, wrap: int = 0) -> str:
    """Returns a user's text shortened and escaped, since plotly reads a little HTML.

    wrap: break the text into lines of about this many characters; 0 keeps it on one line.
    """
    plain = " ".join(str(text).split())
    if len(plain) > max_length:
        plain = f"{plain[: max_length - 1]}…"
    if not wrap:
        return html.escape(plain)
    return "<br>".join(html.escape(line) for line in textwrap.wrap(plain, wrap))


def name_in_lines(name: str, width: int = 16) -> str:
    """Returns a name whole, in lines of this width that end at dots, underscores and blanks."""
    lines = [""]
    for part in re.findall(r"[^._ ]*[._ ]?", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "<br>".join(html.escape(line.rstrip()) for line in lines)


def row_labels(names: Iterable[str]) -> dict[str, str]:
    """Returns labels for the left side of a figure, in lines that fit a narrow screen.

    Names whose shortened labels would be equal are not shortened.
    """
    short = {name: short_label(name, 52, wrap=28) for name in names}
    uses = Counter(short.values())
    return {
        name: label if uses[label] == 1 else short_label(name, len(name), wrap=28)
        for name, label in short.items()
    }


def with_opacity(colour: str, opacity: float) -> str:
    """Returns a colour such as #2b7bba with an opacity from 0 to 1."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def empty_figure(height: int = 380, *, x: str = "", y: str = "", **layout: object) -> go.Figure:
    """Returns a figure without data, in the common style.

    height: in pixels.
    x, y: titles of the axes.
    layout: further settings of plotly's layout.
    """
    axis = {
        "automargin": True,
        "gridcolor": "#d8dee6",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "rgba(0,0,0,0)",
    }
    return go.Figure(
        layout={
            "template": None,
            "height": height,
            "margin": {"l": 10, "r": 16, "t": 24, "b": 10},
            "font": {"size": 13},
            "colorway": COLOURS,
            "xaxis": {**axis, "title": {"text": x, "font": {"size": 13}}},
            "yaxis": {**axis, "title": {"text": y, "font": {"size": 13}}},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": COLOURS[0]},
            "hoverlabel": {"namelength": -1},
            **layout,
        }
    )
