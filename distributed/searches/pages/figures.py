"""Draws the figures of a search from its table of trials, with optuna.visualization.

The table becomes an Optuna study in memory, in trial_study.py. A trial that lacks a value which a
figure needs is left out of that figure only. Where the colour is the
metric, yellow is the best value.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from optuna.visualization import (
    plot_contour,
    plot_parallel_coordinate,
    plot_pareto_front,
    plot_slice,
)
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from distributed.reporting.figure_style import (
    COLOURS,
    GREY,
    empty_figure,
    short_label,
    with_opacity,
)
from distributed.searches.pages.trial_study import (
    Trials,
    is_number,
    number,
    reads_better_in_log,
    rebuild_study,
    shown_value,
    varied,
    with_metrics,
)
from model.metrics.names import Metric

COLOUR_SCALE = "Viridis"  # its highest colour is yellow
SLICES_IN_A_ROW = 3
MIN_CONTOUR_POINTS = 8


def slices(trials: Trials, names: Sequence[str], metric: Metric) -> go.Figure:
    """Draws the metric against one setting at a time.

    The colour is the trial's number, so the late trials show where the search went.
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
    figure.update_layout(empty_figure(60 + 240 * grid_rows, showlegend=False).layout)
    study = rebuild_study(rows, varying, metric)
    for i, name in enumerate(varying):
        place = {"row": i // SLICES_IN_A_ROW + 1, "col": i % SLICES_IN_A_ROW + 1}
        drawn = plot_slice(study, params=[name], target_name=short_label(metric.axis_title))
        figure.add_trace(drawn.data[0], **place)
        axis = drawn.layout.xaxis
        figure.update_xaxes(
            type=axis.type,
            title={"text": short_label(name, 26), "font": {"size": 12}},
            automargin=True,
            **place,
        )
        if axis.categoryarray:  # Optuna shows categories in quotes
            figure.update_xaxes(
                categoryorder="array",
                categoryarray=axis.categoryarray,
                tickvals=axis.categoryarray,
                ticktext=[ast.literal_eval(text) for text in axis.categoryarray],
                **place,
            )
    figure.update_traces(
        marker={"colorscale": COLOUR_SCALE, "showscale": False, "size": 7, "opacity": 0.8}
    )
    figure.update_yaxes(title={"text": short_label(metric.axis_title), "font": {"size": 12}}, col=1)
    return figure


def parallel(trials: Trials, names: Sequence[str], metric: Metric) -> go.Figure:
    """Draws each trial as a line across the metric and every searched setting.

    The colour is the metric; a setting that a trial does not have is at the foot of its axis.
    """
    figure = empty_figure(430, margin={"l": 70, "r": 40, "t": 80, "b": 24})
    rows = with_metrics(trials, metric)
    varying = sorted(varied(rows, names))  # the order of Optuna's axes
    if not varying:
        return figure
    metric_label = short_label(metric.axis_title, 26)
    study = rebuild_study(rows, varying, metric)
    drawn = plot_parallel_coordinate(study, params=varying, target_name=metric_label)
    *lines, colour_bar = drawn.data
    colours = _colours([shown_value(row, metric) for row in rows], metric)
    for line, colour in zip(lines, colours, strict=True):
        line.line.color = colour
    colour_bar.marker.update(colorscale=COLOUR_SCALE, reversescale=metric.lower_is_better)
    figure.add_traces(drawn.data)
    layout = drawn.layout
    figure.update_layout(xaxis=layout.xaxis, yaxis=layout.yaxis, shapes=layout.shapes)
    setting_labels = [short_label(name.split(".", 1)[-1], 22) for name in varying]
    figure.update_xaxes(
        ticktext=[metric_label, *setting_labels],
        tickangle=-12,
        ticks="",
        side="top",
        showline=False,
    )
    figure.update_layout(annotations=layout.annotations, hovermode=layout.hovermode)
    figure.update_annotations(font={"size": 10, "color": GREY})
    return figure


def _colours(values: Sequence[float], metric: Metric) -> list[str]:
    """Returns a colour for each value: yellow for the best."""
    lowest, spread = min(values), max(values) - min(values)
    shares = [(value - lowest) / spread if spread else 0.5 for value in values]
    if metric.lower_is_better:
        shares = [1 - share for share in shares]
    colours: list[str] = sample_colorscale(COLOUR_SCALE, shares)
    return colours


def contour(trials: Trials, x: str, y: str, metric: Metric) -> go.Figure:
    """Draws the metric over two numeric settings: trials as dots on a surface if they suffice."""
    figure = empty_figure(460, x=short_label(x), y=short_label(y), showlegend=False)
    points = [
        {"x": float(a), "y": float(b), metric.name: t[metric.name]}
        for t in with_metrics(trials, metric)
        if is_number(a := t.get(x)) and is_number(b := t.get(y))
    ]
    if not points:
        return figure
    study = rebuild_study(points, ["x", "y"], metric)
    drawn = plot_contour(study, params=["x", "y"], target_name=short_label(metric.axis_title, 26))
    surface, dots = drawn.data[:2]
    filled = _span_a_plane(points)
    if filled:
        surface.update(colorscale=COLOUR_SCALE, reversescale=metric.lower_is_better, opacity=0.85)
        figure.add_trace(surface)
    dots.update(
        x=[point["x"] for point in points],
        y=[point["y"] for point in points],
        hovertext=[metric.value(number(point[metric.name])) for point in points],
        marker={
            "color": [shown_value(point, metric) for point in points],
            "colorscale": COLOUR_SCALE,
            "reversescale": metric.lower_is_better,
            "size": 8,
            "line": {"color": "white", "width": 1},
            "showscale": not filled,
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
    beaten.update(name="trial", showlegend=True, marker=go.scatter.Marker(color=GREY, size=7))
    in_order = sorted(range(len(front.x)), key=lambda i: front.x[i])
    front.update(
        name="front",
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
    ordered = sorted(shares.items(), key=lambda item: item[1])
    figure = empty_figure(
        90 + 28 * max(2, len(ordered)), x="share of the variation explained", showlegend=False
    )
    figure.add_bar(
        x=[share for _, share in ordered],
        y=[short_label(name) for name, _ in ordered],
        orientation="h",
        marker={"color": with_opacity(COLOURS[0], 0.9)},
    )
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
