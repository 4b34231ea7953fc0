"""The figures of reports, as plotly figures: forest, strips, curves, bars, ranks, confusion. Those of a search are in search_figures.py.

Colours tell apart under the usual colour blindness and on light and dark paper; the page sets paper, ink and grid. Users' names are
escaped, since plotly reads a little HTML.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from distributed.reporting.ranking import Ranking
from distributed.reporting.significance import Comparison, Summary

COLOURS = ("#2b7bba", "#e07b00", "#109e73", "#c65a9b", "#8c6bb1", "#c0392b", "#6b8e23", "#7f7f7f")
BETTER_COLOUR, WORSE_COLOUR, GREY = COLOURS[2], COLOURS[5], "#8a8f98"
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")


def short_label(words: object, longest: int = 40, *, wrap: int = 0) -> str:
    """Users' text, shortened, that plotly shows as it is; wrap breaks it into lines of about that length."""
    plain = " ".join(str(words).split())
    plain = plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
    return (
        "<br>".join(html.escape(line) for line in textwrap.wrap(plain, wrap))
        if wrap
        else html.escape(plain)
    )


def row_labels(names: Iterable[str]) -> dict[str, str]:
    """Names down the left side: two lines leave room for the figure on a narrow screen. Names that would become one are kept whole."""
    short = {name: short_label(name, 52, wrap=28) for name in names}
    twice = Counter(short.values())
    return {
        name: words if twice[words] == 1 else short_label(name, len(name), wrap=28)
        for name, words in short.items()
    }


def with_opacity(colour: str, share: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def empty_figure(height: int = 380, *, x: str = "", y: str = "", **layout: Any) -> go.Figure:
    """An empty figure in the house style."""
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


def _rows_height(rows: int) -> int:
    return 130 + 34 * max(2, rows)


def forest_plot(
    comparisons: Sequence[Comparison],
    metric: str,
    *,
    scale: float = 100,
    unit: str = "points",
    lower_is_better: bool = False,
) -> go.Figure:
    """Difference to the reference with its interval, a line a variant; colour and symbol tell better, worse and noise apart."""
    shown = [c for c in comparisons if c.difference is not None]
    labels = row_labels(c.name for c in shown)
    reference = shown[0].reference if shown else ""
    figure = empty_figure(
        _rows_height(len(shown)),
        x=f"{metric} against {short_label(reference, 60)}" + (f" ({unit})" if unit else ""),
        showlegend=True,
    )
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash", "width": 1})
    kinds = {
        "better": (BETTER_COLOUR, "circle"),
        "worse": (WORSE_COLOUR, "x"),
        "not shown to differ": (GREY, "circle-open"),
    }
    for kind, (colour, symbol) in kinds.items():
        rows = [c for c in shown if _kind(c, lower_is_better) == kind]
        if not rows:
            continue
        middle = [c.difference * scale for c in rows]  # type: ignore[operator]
        above = [0 if c.high is None else c.high * scale - m for c, m in zip(rows, middle)]
        below = [0 if c.low is None else m - c.low * scale for c, m in zip(rows, middle)]
        figure.add_scatter(
            x=middle,
            y=[labels[c.name] for c in rows],
            mode="markers",
            name=kind,
            marker={"color": colour, "symbol": symbol, "size": 10},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": above,
                "arrayminus": below,
                "color": colour,
                "thickness": 2,
            },
        )
    figure.update_yaxes(
        categoryorder="array", categoryarray=[labels[c.name] for c in reversed(shown)]
    )
    return figure


def _kind(c: Comparison, lower_is_better: bool) -> str:
    if c.verdict not in ("higher", "lower"):
        return "not shown to differ"
    return "better" if (c.verdict == "higher") != lower_is_better else "worse"


def strip_plot(
    scores: Mapping[str, Sequence[float]],
    means: Mapping[str, Summary],
    metric: str,
    *,
    scale: float = 100,
) -> go.Figure:
    """Every seed as a dot, the mean with its interval beside it."""
    figure = empty_figure(_rows_height(len(scores)), x=metric, showlegend=True)
    names = [n for n in scores if means[n].mean is not None]
    labels = row_labels(names)
    points = [(v * scale, labels[n]) for n in names for v in sorted(scores[n])]
    dot = {"color": COLOURS[0], "opacity": 0.45, "size": 7}
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="markers",
        name="one seed",
        marker=dot,
    )
    figure.add_scatter(
        x=[means[n].mean * scale for n in names],  # type: ignore[operator]
        y=[labels[n] for n in names],
        mode="markers",
        name="mean, 95 % interval",
        marker={
            "color": COLOURS[1],
            "symbol": "line-ns",
            "size": 15,
            "line": {"width": 3, "color": COLOURS[1]},
        },
        error_x=_errors([means[n] for n in names], scale, COLOURS[1]),
    )
    figure.update_yaxes(categoryorder="array", categoryarray=[labels[n] for n in reversed(names)])
    return figure


def _errors(
    summaries: Sequence[Summary], scale: float, colour: str | None = None
) -> dict[str, Any]:
    above = [
        0 if s.high is None or s.mean is None else (s.high - s.mean) * scale for s in summaries
    ]
    below = [0 if s.low is None or s.mean is None else (s.mean - s.low) * scale for s in summaries]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.6,
        **({"color": colour} if colour else {}),
    }


def line_plot(
    series: Mapping[str, Sequence[tuple[Any, Summary]]],
    *,
    x: str,
    y: str,
    scale: float = 100,
    log_x: bool = False,
    height: int = 420,
) -> go.Figure:
    """Means with intervals along an axis of numbers or names: accuracy against imbalance, weight against corruption, and their like."""
    figure = empty_figure(height, x=x, y=y)
    for i, (name, points) in enumerate(series.items()):
        kept = [(at, s) for at, s in points if s.mean is not None]
        figure.add_scatter(
            x=[short_label(at) if isinstance(at, str) else at for at, _ in kept],
            y=[s.mean * scale for _, s in kept],  # type: ignore[operator]
            name=short_label(name, 60),
            mode="lines+markers",
            line={"color": COLOURS[i % 8], "dash": DASHES[i // 8 % 4], "width": 2},
            marker={"symbol": SYMBOLS[i % 8], "size": 8},
            error_y=_errors([s for _, s in kept], scale),
        )
    if log_x:
        ticks = sorted({at for points in series.values() for at, _ in points})
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks])
    return figure


def bar_plot(
    groups: Mapping[str, Mapping[str, Summary]], *, y: str, scale: float = 100
) -> go.Figure:
    """Grouped bars, `{variant: {group: summary}}`: many, medium and few-shot accuracy."""
    figure = empty_figure(420, y=y, barmode="group")
    for i, (name, values) in enumerate(groups.items()):
        kept = {g: s for g, s in values.items() if s.mean is not None}
        figure.add_bar(
            x=[short_label(g) for g in kept],
            y=[s.mean * scale for s in kept.values()],  # type: ignore[operator]
            name=short_label(name, 60),
            marker={"color": COLOURS[i % 8], "pattern": {"shape": ("", "/", ".", "x")[i // 8 % 4]}},
            error_y=_errors(list(kept.values()), scale),
        )
    return figure


def learning_curves(
    histories: Mapping[str, Sequence[tuple[float, float]]],
    *,
    y: str,
    best: str = "",
    scale: float = 100,
) -> go.Figure:
    """One line a run over its epochs; the best one stands out."""
    figure = empty_figure(400, x="epoch", y=y, showlegend=not best and len(histories) <= 8)
    for i, (name, points) in enumerate(sorted(histories.items(), key=lambda item: item[0] == best)):
        line = (
            {"width": 3, "color": COLOURS[1]}
            if name == best
            else {"width": 1.2, "color": with_opacity(COLOURS[0 if best else i % 8], 0.55)}
        )
        mode = "lines" if len(points) > 1 else "markers"
        figure.add_scatter(
            x=[p[0] for p in points],
            y=[p[1] * scale for p in points],
            mode=mode,
            name=short_label(name),
            line=line,
        )
    return figure


def rank_plot(ranking: Ranking) -> go.Figure:
    """Critical-difference view: mean ranks with half the critical difference either side; what does not overlap differs (Nemenyi). Without
    a critical difference nothing is said to be worse."""
    labels = row_labels(ranking.ranks)
    figure = empty_figure(
        _rows_height(len(ranking.ranks)),
        x="mean rank over data sets (1 is the best)",
        showlegend=True,
    )
    best = min(ranking.ranks.values(), default=0.0)
    reach = math.inf if ranking.critical_difference is None else ranking.critical_difference
    tied = {n: r for n, r in ranking.ranks.items() if r - best <= reach}
    parts = {
        "not told apart from the best": (tied, COLOURS[0], "circle"),
        "worse than the best": (ranking.ranks.keys() - tied, WORSE_COLOUR, "x"),
    }
    for kind, (names, colour, symbol) in parts.items():
        kept = [n for n in ranking.ranks if n in names]
        if kept:
            error = (
                {"type": "constant", "value": reach / 2, "color": colour, "thickness": 2}
                if math.isfinite(reach)
                else None
            )
            figure.add_scatter(
                x=[ranking.ranks[n] for n in kept],
                y=[labels[n] for n in kept],
                mode="markers",
                name=kind,
                marker={"color": colour, "symbol": symbol, "size": 10},
                error_x=error,
            )
    figure.update_yaxes(
        categoryorder="array", categoryarray=[labels[n] for n in reversed(ranking.ranks)]
    )
    figure.update_xaxes(range=[0.5, len(ranking.ranks) + 0.5])
    return figure


def confusion_heatmap(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> go.Figure:
    """Share of each true class predicted as each class; the text is the count."""
    counts = np.asarray(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short_label(c, 20) for c in classes]
    figure = empty_figure(140 + 34 * len(names), x="predicted", y="true")
    texts = [[f"{v:g}" for v in row] for row in counts] if len(names) <= 20 else None
    figure.add_heatmap(
        z=shares,
        x=names,
        y=names,
        text=texts,
        texttemplate="%{text}" if texts else None,
        colorscale="Blues",
        zmin=0,
        zmax=1,
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    return figure


def save_png_files(pictures: Mapping[str | Path, go.Figure], *, width: int = 900) -> str:
    """Writes PNG files through kaleido, which starts a Chrome, once for all; returns "" or one line that says why there are none."""
    try:
        import kaleido  # noqa: F401
    except ImportError:
        return "no PNG figures: they need `pip install kaleido` and a Chrome or Chromium; the HTML report has them all"
    import plotly.io

    light = {"paper_bgcolor": "white", "plot_bgcolor": "white", "font_color": "#1c2430"}
    drawn = [go.Figure(figure).update_layout(**light, width=width) for figure in pictures.values()]
    try:
        for path in pictures:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        plotly.io.write_images(
            fig=drawn, file=[str(path) for path in pictures], format="png", scale=2
        )
    except Exception as error:  # kaleido raises its own and the browser's errors of many types; figures are never worth a failed run
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return (
            f"no PNG figures: kaleido could not draw ({first[:140]}); the HTML report has them all"
        )
    return ""
