"""Draws the figures of a search from its table of trials, with optuna.visualization.

The table becomes an Optuna study in memory, in trial_study.py. A trial that lacks a value which a
figure needs is left out of that figure only. Where the colour is the
metric, orange is the best value.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from optuna.visualization import (
    plot_contour,
    plot_pareto_front,
    plot_slice,
)
from plotly.subplots import make_subplots

from distributed.reporting.figure_style import (
    COLOUR_SCALE,
    COLOURS,
    GREY,
    empty_figure,
    name_in_lines,
    short_label,
    with_opacity,
)
from distributed.searches.pages.trial_study import (
    TRIAL,
    DrawnSetting,
    Trials,
    is_number,
    is_usable,
    number,
    reads_better_in_log,
    rebuild_study,
    shown_value,
    tooltip,
    varied,
    with_metrics,
)
from model.metrics.names import Metric

SLICES_IN_A_ROW = 3
MOST_BARS = 20
MIN_CONTOUR_POINTS = 8


def slices(trials: Trials, names: Sequence[str], metric: Metric, stopped: Trials = ()) -> go.Figure:
    """Draws the metric against one setting at a time.

    The colour is the trial's place in the order, so the late ones show where the search went.

    stopped: trials without a final score; they are crosses at the worse end of the axis.
    """
    rows = with_metrics(trials, metric)
    varying = varied(rows, names)
    grid_rows = max(1, math.ceil(len(varying) / SLICES_IN_A_ROW))
    figure = make_subplots(
        rows=grid_rows,
        cols=SLICES_IN_A_ROW,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=min(0.25, 0.5 / grid_rows),
    )
    figure.update_layout(empty_figure(80 + 240 * grid_rows, showlegend=True).layout)
    study = rebuild_study(rows, varying, metric)
    for i, name in enumerate(varying):
        place = {"row": i // SLICES_IN_A_ROW + 1, "col": i % SLICES_IN_A_ROW + 1}
        drawn = plot_slice(study, params=[name], target_name=short_label(metric.axis_title))
        dots, axis = drawn.data[0], drawn.layout.xaxis
        _style_dots(dots, rows, metric, is_first=i == 0)
        figure.add_trace(dots, **place)
        if stopped:
            crosses = _stopped_crosses(stopped, rows, name, metric)
            figure.add_trace(crosses.update(showlegend=i == 0), **place)
        title = {"text": short_label(name), "font": {"size": 12}}
        figure.update_xaxes(
            type=axis.type, title=title, automargin=True, exponentformat="power", **place
        )
        if axis.categoryarray:  # Optuna shows categories in quotes
            figure.update_xaxes(
                categoryorder="array",
                categoryarray=axis.categoryarray,
                tickvals=axis.categoryarray,
                ticktext=[ast.literal_eval(text) for text in axis.categoryarray],
                **place,
            )
    figure.update_yaxes(title={"text": short_label(metric.axis_title), "font": {"size": 12}}, col=1)
    return figure


def _style_dots(dots: go.Scatter, rows: Trials, metric: Metric, *, is_first: bool) -> None:
    """Gives dots of Optuna's slices, whose colour is the trial's number, tooltips and a legend."""
    texts = [tooltip(rows[number], metric) for number in dots.marker.color]
    dots.update(
        name="ran to its end",
        showlegend=is_first,
        legendgroup="ended",
        hovertext=texts,
        hovertemplate="%{hovertext}<br>setting: %{x}<extra></extra>",
        marker={
            "colorscale": COLOUR_SCALE,
            "cmin": 0,
            "cmax": max(1, len(rows) - 1),
            "showscale": is_first,
            "size": 8,
            "opacity": 0.85,
            "colorbar": {
                "title": {"text": "tried", "side": "top", "font": {"size": 12}},
                "lenmode": "pixels",
                "len": 200,
                "y": 1,
                "yanchor": "top",
                "tickvals": [0, max(1, len(rows) - 1)],
                "ticktext": ["first", "last"],
                "thickness": 12,
                "x": 1.01,
                "xpad": 4,
            },
        },
    )


def _stopped_crosses(stopped: Trials, rows: Trials, name: str, metric: Metric) -> go.Scatter:
    """A setting's values in trials that were stopped, at the worse end of the metric's axis."""
    scores = [shown_value(row, metric) for row in rows]
    margin = 0.08 * (max(scores) - min(scores) or 1.0)
    height = max(scores) + margin if metric.lower_is_better else min(scores) - margin
    present = [row for row in stopped if is_usable(row.get(name))]
    setting = DrawnSetting(rows, name)
    values = [setting.value_on_axis(row[name]) for row in present]
    drawn = [(value, row) for value, row in zip(values, present) if value is not None]
    return go.Scatter(
        x=[value for value, _ in drawn],
        y=[height] * len(drawn),
        mode="markers",
        name="stopped early",
        legendgroup="stopped",
        marker={"symbol": "x-thin", "size": 7, "line": {"width": 1.5, "color": GREY}},
        hovertext=[short_label(row.get(TRIAL, "trial"), 60) for _, row in drawn],
        hovertemplate="%{hovertext}<br>setting: %{x}<extra></extra>",
    )


def contour(trials: Trials, x: str, y: str, metric: Metric) -> go.Figure:
    """Draws the metric over two numeric settings: trials as dots on a surface if they suffice."""
    figure = empty_figure(460, x=short_label(x), y=short_label(y), showlegend=False)
    points = [
        {"x": float(a), "y": float(b), metric.name: t[metric.name], TRIAL: t.get(TRIAL, "trial")}
        for t in with_metrics(trials, metric)
        if is_number(a := t.get(x)) and is_number(b := t.get(y))
    ]
    if not points:
        return figure
    study = rebuild_study(points, ["x", "y"], metric)
    drawn = plot_contour(study, params=["x", "y"], target_name=short_label(metric.axis_title, 26))
    surface, dots = drawn.data[:2]
    bar_title = {"text": name_in_lines(metric.axis_title), "font": {"size": 12}}
    colour_bar = {"title": bar_title, "thickness": 12}
    filled = _span_a_plane(points)
    if filled:
        surface.update(colorscale=COLOUR_SCALE, reversescale=metric.lower_is_better, opacity=0.85)
        surface.colorbar.update(colour_bar)
        figure.add_trace(surface)
    dots.update(
        x=[point["x"] for point in points],
        y=[point["y"] for point in points],
        hovertext=[tooltip(point, metric) for point in points],
        hovertemplate="%{hovertext}<br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y}"
        "<extra></extra>",
        marker={
            "color": [shown_value(point, metric) for point in points],
            "colorscale": COLOUR_SCALE,
            "reversescale": metric.lower_is_better,
            "size": 8,
            "line": {"color": "white", "width": 1},
            "showscale": not filled,
            "colorbar": colour_bar,
        },
    )
    figure.add_trace(dots)
    figure.update_xaxes(type=drawn.layout.xaxis.type, range=drawn.layout.xaxis.range)
    figure.update_yaxes(type=drawn.layout.yaxis.type, range=drawn.layout.yaxis.range)
    return figure


def pareto(trials: Trials, first: Metric, second: Metric) -> go.Figure:
    """Draws two metrics against each other and joins the trials that no other beats in both."""
    figure = empty_figure(440, x=_directed_title(first), y=_directed_title(second))
    rows = with_metrics(trials, first, second)
    if not rows:
        return figure
    study = rebuild_study(rows, [], first, second)
    titles = [first.axis_title, second.axis_title]
    beaten, front = plot_pareto_front(study, target_names=titles).data
    for trace in (beaten, front):
        trace.text = [
            tooltip(rows[json.loads(text.replace("<br>", ""))["number"]], first, second)
            for text in trace.text
        ]
        trace.hovertemplate = "%{text}<extra></extra>"
    beaten.update(
        name="beaten in both", showlegend=True, marker=go.scatter.Marker(color=GREY, size=7)
    )
    in_order = sorted(range(len(front.x)), key=lambda i: front.x[i])
    front.update(
        name="beaten by none",
        showlegend=True,
        mode="lines+markers",
        x=[front.x[i] for i in in_order],
        y=[front.y[i] for i in in_order],
        text=[front.text[i] for i in in_order],
        line={"color": COLOURS[1], "width": 2},
        marker=go.scatter.Marker(color=COLOURS[1], size=10),
    )
    figure.add_traces([beaten, front])
    return figure


def _directed_title(metric: Metric) -> str:
    """Returns the title of a metric's axis, which says where lower values are better."""
    return short_label(metric.axis_title) + (" (lower is better)" if metric.lower_is_better else "")


def importances(shares: Mapping[str, float]) -> go.Figure:
    """Draws how much of the metric's variation each setting explains."""
    ordered = sorted(shares.items(), key=lambda item: item[1])[-MOST_BARS:]
    figure = empty_figure(
        90 + 32 * max(2, len(ordered)), x="share explained", showlegend=False, bargap=0.3
    )
    figure.add_bar(
        x=[share for _, share in ordered],
        y=[name_in_lines(name, 20) for name, _ in ordered],
        orientation="h",
        marker={"color": with_opacity(COLOURS[0], 0.9)},
        hovertemplate="%{y}: %{x:.2f}<extra></extra>",
    )
    figure.update_xaxes(nticks=5, tickangle=0, rangemode="tozero")
    return figure


def _span_a_plane(points: Sequence[Mapping[str, object]]) -> bool:
    """Returns whether enough points are distinct and do not lie on one line."""
    if len({(p["x"], p["y"]) for p in points}) < MIN_CONTOUR_POINTS:
        return False
    axes = []
    for name in ("x", "y"):
        values = [number(p[name]) for p in points]
        drawn = np.log10(values) if reads_better_in_log(values) else np.array(values)
        spread = np.ptp(drawn)
        axes.append((drawn - drawn.mean()) / (spread or 1))
    return bool(np.linalg.matrix_rank(np.stack(axes), tol=1e-9) == 2)
