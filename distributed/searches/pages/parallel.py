"""The figure of parallel coordinates: each trial as a line across the metric and its settings."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from optuna.visualization import plot_parallel_coordinate
from plotly.colors import sample_colorscale

from distributed.reporting.figure_style import (
    COLOUR_SCALE,
    GREY,
    empty_figure,
    name_in_lines,
    short_label,
)
from distributed.searches.pages.trial_study import (
    Trials,
    number,
    rebuild_study,
    shown_value,
    tooltip,
    varied,
    with_metrics,
)
from model.metrics.names import Metric

AXIS_WIDTH = 96  # pixels that an axis needs for the name above it
NAME_WIDTH = 13  # characters of a line of that name


def parallel(trials: Trials, names: Sequence[str], metric: Metric) -> go.Figure:
    """Draws the metric and the settings as axes, in the order of `names`, and each trial as a line.

    The colour is the metric, and the best line is drawn last and wide; a setting that a trial does
    not have is at the foot of its axis.
    """
    rows = with_metrics(trials, metric)
    varying = varied(rows, names)
    labels = [name_in_lines(name, NAME_WIDTH) for name in (metric.axis_title, *varying)]
    top = 28 + 15 * max(label.count("<br>") + 1 for label in labels)
    figure = empty_figure(370 + top, margin={"l": 50, "r": 30, "t": top, "b": 64})
    if not varying:
        return figure
    sign = -1 if metric.lower_is_better else 1
    rows = sorted(rows, key=lambda row: sign * number(row[metric.name]))
    # Optuna sorts the axes by name: numbers before the names keep them in order.
    numbered = {name: f"{i:03d} {name}" for i, name in enumerate(varying)}
    drawn_rows = [{numbered.get(key, key): value for key, value in row.items()} for row in rows]
    study = rebuild_study(drawn_rows, list(numbered.values()), metric)
    drawn = plot_parallel_coordinate(study, params=list(numbered.values()))
    *lines, colour_bar = drawn.data
    for line, row, colour in zip(lines, rows, _colours(rows, metric), strict=True):
        line.update(
            line={"color": colour, "width": 1.6},
            opacity=0.8,
            customdata=[[label, value] for label, (_, value) in zip(labels, line.customdata)],
            hovertemplate=f"{tooltip(row, metric)}"
            "<br>%{customdata[0]}: %{customdata[1]}<extra></extra>",
        )
    lines[-1].update(line={"width": 4}, opacity=1)
    colour_bar.marker.update(
        colorscale=COLOUR_SCALE,
        reversescale=metric.lower_is_better,
        colorbar={
            "title": {"text": short_label(metric.axis_title), "font": {"size": 12}},
            "orientation": "h",
            "thickness": 8,
            "len": 0.5,
            "y": 0,
            "yanchor": "top",
        },
    )
    figure.add_traces(drawn.data)
    _label_axes(figure, drawn.layout, labels)
    return figure


def _label_axes(figure: go.Figure, layout: go.Layout, labels: Sequence[str]) -> None:
    """Gives a figure the axes that Optuna has laid out, with whole names above them."""
    figure.update_layout(
        xaxis=layout.xaxis,
        yaxis=layout.yaxis,
        shapes=layout.shapes,
        annotations=layout.annotations,
        hovermode=layout.hovermode,
    )
    figure.update_xaxes(
        ticktext=labels,
        tickfont={"size": 12},
        tickangle=0,
        ticks="",
        side="top",
        showline=False,
    )
    figure.update_annotations(font={"size": 11, "color": GREY})
    figure.update_annotations({"text": "not set"}, {"text": "None"})  # Optuna's word


def _colours(rows: Trials, metric: Metric) -> list[str]:
    """Returns a colour for each trial: orange for the best."""
    values = [shown_value(row, metric) for row in rows]
    lowest, spread = min(values), max(values) - min(values)
    shares = [(value - lowest) / spread if spread else 0.5 for value in values]
    if metric.lower_is_better:
        shares = [1 - share for share in shares]
    colours: list[str] = sample_colorscale([list(stop) for stop in COLOUR_SCALE], shares)
    return colours
