"""Writes figures as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import plotly.io


def save_png_files(figures: Mapping[str | Path, go.Figure], *, width: int = 900) -> str:
    """Writes PNG files through kaleido, which starts a Chrome once for all of them.

    figures: `{path: figure}`.
    Returns "", or one line that says why there are no files: a figure is never worth a failed run.
    """
    try:
        import kaleido  # noqa: F401  here, because it is an optional package
    except ImportError:
        return (
            "no PNG figures: they need `pip install kaleido` and a Chrome or Chromium; "
            "the HTML report has them all"
        )
    light = {"paper_bgcolor": "white", "plot_bgcolor": "white", "font_color": "#1c2430"}
    drawn = [go.Figure(figure).update_layout(**light, width=width) for figure in figures.values()]
    try:
        for path in figures:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        plotly.io.write_images(
            fig=drawn, file=[str(path) for path in figures], format="png", scale=2
        )
    except Exception as error:  # kaleido raises its own and the browser's errors of many types
        lines = str(error).strip().splitlines()
        reason = lines[0][:140] if lines else type(error).__name__
        return f"no PNG figures: kaleido could not draw ({reason}); the HTML report has them all"
    return ""
