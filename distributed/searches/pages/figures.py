"""The figures of a search, from its trials table: parallel coordinates, slices, contour, Pareto front, importances.

Trials are rows `{dotted name: value}`; a trial that lacks a value a figure needs is left out of that figure only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from distributed.reporting.figures import COLOURS, GREY, empty_figure, short_label, with_opacity

SCALE = "Viridis"
Trials = Sequence[Mapping[str, Any]]


def usable(value: Any) -> bool:
    """Whether a trial has this value: set, and finite when it is a number."""
    return (
        value is not None
        and value != ""
        and not (isinstance(value, float) and not math.isfinite(value))
    )


def _having(trials: Trials, *names: str) -> list[Mapping[str, Any]]:
    return [t for t in trials if all(usable(t.get(n)) for n in names)]


def _is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _is_log(values: Sequence[Any]) -> bool:
    """Values over more than a factor 50 read better on a logarithmic axis."""
    return (
        len(values) > 1
        and _is_number(values)
        and min(values) > 0
        and max(values) / min(values) > 50
    )


def varied(trials: Trials, names: Sequence[str]) -> list[str]:
    """The names that take at least two values."""
    return [n for n in names if len({str(t[n]) for t in _having(trials, n)}) > 1]


def parallel(trials: Trials, names: Sequence[str], metric: str, *, scale: float = 100) -> go.Figure:
    """One line a trial across every searched setting, coloured by the metric; a setting not asked for is at the foot of its axis."""
    rows = _having(trials, metric)
    dimensions = [_dimension(rows, n) for n in varied(rows, names)]
    scores = [t[metric] * scale for t in rows]
    figure = empty_figure(430, margin={"l": 70, "r": 40, "t": 80, "b": 24})
    line = {"color": scores, "colorscale": SCALE, "showscale": True}
    figure.add_parcoords(
        dimensions=[*dimensions, {"label": short_label(metric, 22), "values": scores}],
        line=line,
        labelangle=-12,
    )
    return figure


def _dimension(rows: Trials, name: str) -> dict[str, Any]:
    values = [t.get(name) for t in rows]
    known = [v for v in values if usable(v)]
    short = short_label(name.split(".", 1)[-1], 22)
    if not _is_number(known):
        kinds = sorted({str(v) for v in known})
        places = {k: i for i, k in enumerate(kinds)}
        ticks: dict[str, Any] = {
            "tickvals": list(places.values()),
            "ticktext": [short_label(k, 14) for k in kinds],
        }
        return {
            "label": short,
            "values": [places[str(v)] if usable(v) else -1 for v in values],
            **ticks,
        }
    if _is_log(known):
        low, high = math.log10(min(known)), math.log10(max(known))
        shown = [float(f"{10**p:.2g}") for p in np.linspace(low, high, 5)]
        ticks = {"tickvals": [math.log10(v) for v in shown], "ticktext": [f"{v:g}" for v in shown]}
        return {
            "label": short,
            "values": [math.log10(v) if usable(v) else low - 0.1 * (high - low) for v in values],
            **ticks,
        }
    gap = 0.1 * (max(known) - min(known))
    return {"label": short, "values": [v if usable(v) else min(known) - gap for v in values]}


def slices(
    trials: Trials,
    names: Sequence[str],
    metric: str,
    *,
    scale: float = 100,
    best: str = "",
    across: int = 3,
) -> go.Figure:
    """The metric against one setting at a time; colour is the trial's number, so late trials show where the search went."""
    kept = varied(_having(trials, metric), names)
    rows = max(1, math.ceil(len(kept) / across))
    figure = make_subplots(
        rows=rows,
        cols=across,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=min(0.25, 0.5 / rows),
    )
    figure.update_layout(empty_figure(60 + 240 * rows).layout)
    figure.update_layout(showlegend=False)
    for i, name in enumerate(kept):
        points = _having(trials, metric, name)
        values = [t[name] for t in points]
        place = {"row": i // across + 1, "col": i % across + 1}
        marker = {"color": list(range(len(points))), "colorscale": SCALE, "size": 7, "opacity": 0.8}
        xs = values if _is_number(values) else [short_label(v, 14) for v in values]
        figure.add_scatter(
            x=xs, y=[t[metric] * scale for t in points], mode="markers", marker=marker, **place
        )
        figure.update_xaxes(
            title={"text": short_label(name, 26), "font": {"size": 12}},
            type="log" if _is_log(values) else None,
            automargin=True,
            **place,
        )
    figure.update_yaxes(title={"text": short_label(metric)}, col=1)
    return figure


def contour(trials: Trials, x: str, y: str, metric: str, *, scale: float = 100) -> go.Figure:
    """The metric over two settings: trials as dots, filled between them where there are enough (never beyond them)."""
    points = [t for t in _having(trials, x, y, metric) if _is_number([t[x], t[y]])]
    figure = empty_figure(460, x=short_label(x), y=short_label(y), showlegend=False)
    xs, ys, zs = ([float(t[n]) for t in points] for n in (x, y, metric))
    log_x, log_y = _is_log(xs), _is_log(ys)
    zs = [z * scale for z in zs]
    if len({*zip(xs, ys)}) >= 8:
        grid = _grid(
            np.log10(xs) if log_x else np.array(xs),
            np.log10(ys) if log_y else np.array(ys),
            np.array(zs),
        )
        if grid is not None:
            gx, gy, gz = grid
            surface = {
                "colorscale": SCALE,
                "colorbar": {"title": {"text": short_label(metric, 20)}},
                "contours": {"coloring": "heatmap"},
                "line": {"width": 0.5},
            }
            figure.add_contour(
                x=10**gx if log_x else gx,
                y=10**gy if log_y else gy,
                z=gz,
                connectgaps=False,
                opacity=0.85,
                **surface,
            )
    marker = {
        "color": zs,
        "colorscale": SCALE,
        "size": 8,
        "line": {"color": "white", "width": 1},
        "showscale": len(figure.data) == 0,
    }
    figure.add_scatter(
        x=xs, y=ys, mode="markers", marker=marker, hovertext=[f"{z:.2f}" for z in zs]
    )
    figure.update_xaxes(type="log" if log_x else None)
    figure.update_yaxes(type="log" if log_y else None)
    return figure


def _grid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Linear interpolation inside the trials' convex hull; None when they lie on a line."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    gx, gy = np.linspace(x.min(), x.max(), 40), np.linspace(y.min(), y.max(), 40)
    try:
        gz = griddata((x, y), z, (gx[None, :], gy[:, None]), method="linear", rescale=True)
    except QhullError:
        return None
    return gx, gy, np.where(np.isfinite(gz), gz, np.nan)


def front(
    trials: Trials, first: str, second: str, *, lower: Sequence[str] = ()
) -> list[Mapping[str, Any]]:
    """The trials that no other beats in both metrics, ordered by the first."""
    signs = [-1 if m in lower else 1 for m in (first, second)]
    points = [
        (signs[0] * t[first], signs[1] * t[second], t) for t in _having(trials, first, second)
    ]
    beaten = [
        any(a >= x and b >= y and (a > x or b > y) for a, b, _ in points) for x, y, _ in points
    ]
    return sorted(
        (t for (_, _, t), lost in zip(points, beaten) if not lost), key=lambda t: t[first]
    )


def pareto(trials: Trials, first: str, second: str, *, lower: Sequence[str] = ()) -> go.Figure:
    """Two metrics against each other; the trials on the front are joined."""
    points, best = _having(trials, first, second), front(trials, first, second, lower=lower)
    figure = empty_figure(
        440,
        x=short_label(first) + (" (lower is better)" if first in lower else ""),
        y=short_label(second) + (" (lower is better)" if second in lower else ""),
    )
    figure.add_scatter(
        x=[t[first] for t in points],
        y=[t[second] for t in points],
        mode="markers",
        name="trial",
        marker={"color": GREY, "size": 7},
    )
    line = {"color": COLOURS[1], "width": 2, "shape": "linear"}
    figure.add_scatter(
        x=[t[first] for t in best],
        y=[t[second] for t in best],
        mode="lines+markers",
        name="front",
        line=line,
        marker={"size": 10},
    )
    return figure


def importances(shares: Mapping[str, float]) -> go.Figure:
    """How much of the metric's variation each setting explains."""
    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = empty_figure(
        90 + 28 * max(2, len(ordered)), x="share of the variation explained", showlegend=False
    )
    figure.add_bar(
        x=[v for _, v in ordered],
        y=[short_label(n) for n, _ in ordered],
        orientation="h",
        marker={"color": with_opacity(COLOURS[0], 0.9)},
    )
    return figure
