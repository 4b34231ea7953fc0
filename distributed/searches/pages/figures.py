"""Draws the figures of a search from its table of trials, with optuna.visualization.

Trials are rows `{dotted name of a setting or metric: value}`. They become an Optuna study in
memory, because the table also has the baselines, which are not in the search's own study. A trial
that lacks a value which a figure needs is left out of that figure only.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
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

COLOUR_SCALE = "Viridis"
SLICES_IN_A_ROW = 3
MIN_CONTOUR_POINTS = 8
Trials = Sequence[Mapping[str, object]]


def is_usable(value: object) -> bool:
    """Returns whether a trial has this value: it is set, and finite if it is a number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is not None and value != ""


def varied(trials: Trials, names: Iterable[str]) -> list[str]:
    """Returns the names that take at least two values."""
    return [
        name for name in names if len({str(t[name]) for t in trials if is_usable(t.get(name))}) > 1
    ]


def slices(trials: Trials, names: Sequence[str], metric: str, *, scale: float = 100) -> go.Figure:
    """Draws the metric against one setting at a time.

    The colour is the trial's number, so the late trials show where the search went.
    """
    rows = _with_metrics(trials, metric)
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
    study = _rebuild_study(rows, varying, [metric], scale=scale)
    for i, name in enumerate(varying):
        place = {"row": i // SLICES_IN_A_ROW + 1, "col": i % SLICES_IN_A_ROW + 1}
        drawn = plot_slice(study, params=[name], target_name=metric)
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
    figure.update_yaxes(title={"text": short_label(metric), "font": {"size": 12}}, col=1)
    return figure


def parallel(trials: Trials, names: Sequence[str], metric: str, *, scale: float = 100) -> go.Figure:
    """Draws each trial as a line across the metric and every searched setting.

    The colour is the metric; a setting that a trial does not have is at the foot of its axis.
    """
    figure = empty_figure(430, margin={"l": 70, "r": 40, "t": 80, "b": 24})
    rows = _with_metrics(trials, metric)
    varying = sorted(varied(rows, names))  # the order of Optuna's axes
    if not varying:
        return figure
    study = _rebuild_study(rows, varying, [metric], scale=scale)
    drawn = plot_parallel_coordinate(study, params=varying, target_name=short_label(metric, 22))
    *lines, colour_bar = drawn.data
    values = [_number(row[metric]) for row in rows]
    lowest, spread = min(values), max(values) - min(values)
    shares = [(value - lowest) / spread if spread else 0.5 for value in values]
    for line, colour in zip(lines, sample_colorscale(COLOUR_SCALE, shares), strict=True):
        line.line.color = colour
    colour_bar.marker.update(colorscale=COLOUR_SCALE, reversescale=False)
    figure.add_traces(drawn.data)
    layout = drawn.layout
    figure.update_layout(xaxis=layout.xaxis, yaxis=layout.yaxis, shapes=layout.shapes)
    labels = [metric, *(name.split(".", 1)[-1] for name in varying)]
    figure.update_xaxes(
        ticktext=[short_label(text, 22) for text in labels],
        tickangle=-12,
        ticks="",
        side="top",
        showline=False,
    )
    figure.update_layout(annotations=layout.annotations, hovermode=layout.hovermode)
    figure.update_annotations(font={"size": 10, "color": GREY})
    return figure


def contour(
    trials: Trials,
    x: str,
    y: str,
    metric: str,
    *,
    scale: float = 100,
    lower_is_better: bool = False,
) -> go.Figure:
    """Draws the metric over two numeric settings: trials as dots on a surface if they suffice."""
    figure = empty_figure(460, x=short_label(x), y=short_label(y), showlegend=False)
    points = [
        {"x": float(a), "y": float(b), metric: t[metric]}
        for t in _with_metrics(trials, metric)
        if _is_number(a := t.get(x)) and _is_number(b := t.get(y))
    ]
    if not points:
        return figure
    study = _rebuild_study(
        points, ["x", "y"], [metric], scale=scale, lower=[metric] * lower_is_better
    )
    drawn = plot_contour(study, params=["x", "y"], target_name=short_label(metric, 20))
    surface, dots = drawn.data[:2]
    filled = _span_a_plane(points)
    if filled:
        surface.update(colorscale=COLOUR_SCALE, reversescale=False, opacity=0.85)
        figure.add_trace(surface)
    values = [_number(point[metric]) * scale for point in points]
    dots.update(
        x=[point["x"] for point in points],
        y=[point["y"] for point in points],
        hovertext=[f"{value:.2f}" for value in values],
        marker={
            "color": values,
            "colorscale": COLOUR_SCALE,
            "size": 8,
            "line": {"color": "white", "width": 1},
            "showscale": not filled,
        },
    )
    figure.add_trace(dots)
    figure.update_xaxes(type=drawn.layout.xaxis.type, range=drawn.layout.xaxis.range)
    figure.update_yaxes(type=drawn.layout.yaxis.type, range=drawn.layout.yaxis.range)
    return figure


def pareto(trials: Trials, first: str, second: str, *, lower: Sequence[str] = ()) -> go.Figure:
    """Draws two metrics against each other and joins the trials that no other beats in both.

    lower: the metrics of which lower values are better.
    """
    figure = empty_figure(
        440,
        x=short_label(first) + (" (lower is better)" if first in lower else ""),
        y=short_label(second) + (" (lower is better)" if second in lower else ""),
    )
    rows = _with_metrics(trials, first, second)
    if not rows:
        return figure
    study = _rebuild_study(rows, [], [first, second], lower=lower)
    beaten, front = plot_pareto_front(study, target_names=[first, second]).data
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


def _with_metrics(trials: Trials, *metrics: str) -> list[Mapping[str, object]]:
    return [t for t in trials if all(is_usable(t.get(metric)) for metric in metrics)]


def _rebuild_study(
    rows: Trials,
    names: Sequence[str],
    metrics: Sequence[str],
    *,
    scale: float = 1,
    lower: Sequence[str] = (),
) -> optuna.Study:
    """Returns a study in memory with one finished trial for each row.

    names: the settings that the trials get; each must take at least two values.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # otherwise it logs every new study
    study = optuna.create_study(
        directions=["minimize" if metric in lower else "maximize" for metric in metrics]
    )
    settings = {name: _Setting(rows, name) for name in names}
    for row in rows:
        present = [name for name in names if is_usable(row.get(name))]
        study.add_trial(
            optuna.create_trial(
                params={name: settings[name].value(row[name]) for name in present},
                distributions={name: settings[name].distribution for name in present},
                values=[_number(row[metric]) * scale for metric in metrics],
            )
        )
    return study


class _Setting:
    """The values of one setting as an Optuna distribution: numbers as floats, all else as texts."""

    distribution: BaseDistribution

    def __init__(self, rows: Trials, name: str) -> None:
        values = [row[name] for row in rows if is_usable(row.get(name))]
        numbers = [float(value) for value in values if _is_number(value)]
        self.labels: dict[str, str] = {}
        if len(numbers) == len(values):
            self.distribution = FloatDistribution(
                min(numbers), max(numbers), log=_reads_better_in_log(numbers)
            )
        else:
            self.labels = _choice_labels({str(value) for value in values})
            self.distribution = CategoricalDistribution(sorted(self.labels.values()))

    def value(self, value: object) -> float | str:
        return self.labels[str(value)] if self.labels else _number(value)


def _choice_labels(choices: Iterable[str]) -> dict[str, str]:
    """Returns short texts for choices; choices whose short texts are equal keep all their text."""
    short = {choice: short_label(choice, 14) for choice in choices}
    count = Counter(short.values())
    return {
        choice: label if count[label] == 1 else short_label(choice, len(choice))
        for choice, label in short.items()
    }


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _reads_better_in_log(values: Sequence[float]) -> bool:
    """Returns whether the values are positive and span more than a factor of 50."""
    return min(values) > 0 and max(values) / min(values) > 50


def _span_a_plane(points: Sequence[Mapping[str, object]]) -> bool:
    """Returns whether enough points are distinct and do not lie on one line."""
    if len({(p["x"], p["y"]) for p in points}) < MIN_CONTOUR_POINTS:
        return False
    axes = []
    for name in ("x", "y"):
        values = [_number(p[name]) for p in points]
        drawn = np.log10(values) if _reads_better_in_log(values) else np.array(values)
        spread = np.ptp(drawn)
        axes.append((drawn - drawn.mean()) / (spread or 1))
    return bool(np.linalg.matrix_rank(np.stack(axes), tol=1e-9) == 2)
