"""Draws the figures of reports with plotly: differences, seeds, curves, bars, ranks.

The figures of a search are in searches/pages/figures.py. Names come from users and are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import plotly.graph_objects as go

from distributed.reporting.figure_style import (
    BETTER_COLOUR,
    COLOURS,
    DASHES,
    GREY,
    SYMBOLS,
    WORSE_COLOUR,
    empty_figure,
    row_labels,
    short_label,
    with_opacity,
)
from distributed.reporting.ranking import Ranking
from distributed.reporting.significance import Comparison, Summary
from distributed.reporting.verdicts import is_better
from model.metrics.names import Metric

PATTERNS = ("", "/", ".", "x")


def forest_plot(comparisons: Sequence[Comparison], metric: Metric) -> go.Figure:
    """Draws each variant's difference to the reference with its interval, one variant per line.

    Colour and symbol say whether it is better, worse or not shown to differ.
    """
    drawn = [c for c in comparisons if c.difference is not None]
    labels = row_labels(c.name for c in drawn)
    reference = short_label(drawn[0].reference, 60) if drawn else ""
    unit = f" ({metric.difference_unit})" if metric.difference_unit else ""
    figure = empty_figure(
        _rows_height(len(drawn)), x=f"{metric.title} against {reference}{unit}", showlegend=True
    )
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash", "width": 1})
    styles = {
        "better": (BETTER_COLOUR, "circle"),
        "worse": (WORSE_COLOUR, "x"),
        "not shown to differ": (GREY, "circle-open"),
    }
    for outcome, (colour, symbol) in styles.items():
        rows = [c for c in drawn if _outcome(c, metric) == outcome]
        if rows:
            intervals = [(c.difference, c.low, c.high) for c in rows]
            figure.add_scatter(
                x=[c.difference * metric.scale for c in rows if c.difference is not None],
                y=[labels[c.name] for c in rows],
                mode="markers",
                name=outcome,
                marker={"color": colour, "symbol": symbol, "size": 10},
                error_x=_error_bars(intervals, metric.scale, color=colour, thickness=2),
            )
    _order_rows(figure, [labels[c.name] for c in drawn])
    return figure


def _outcome(comparison: Comparison, metric: Metric) -> str:
    if comparison.verdict not in ("higher", "lower"):
        return "not shown to differ"
    return "better" if is_better(comparison, metric) else "worse"


def strip_plot(
    scores: Mapping[str, Sequence[float]], means: Mapping[str, Summary], metric: Metric
) -> go.Figure:
    """Draws every seed of a variant as a dot, and the mean with its interval."""
    figure = empty_figure(_rows_height(len(scores)), x=metric.axis_title, showlegend=True)
    names = [name for name in scores if means[name].mean is not None]
    labels = row_labels(names)
    points = [(value, labels[name]) for name in names for value in sorted(scores[name])]
    figure.add_scatter(
        x=[value * metric.scale for value, _ in points],
        y=[label for _, label in points],
        mode="markers",
        name="one seed",
        marker={"color": COLOURS[0], "opacity": 0.45, "size": 7},
    )
    summaries = [means[name] for name in names]
    figure.add_scatter(
        x=_scaled_means(summaries, metric.scale),
        y=[labels[name] for name in names],
        mode="markers",
        name="mean, 95 % interval",
        marker={
            "color": COLOURS[1],
            "symbol": "line-ns",
            "size": 15,
            "line": {"width": 3, "color": COLOURS[1]},
        },
        error_x=_summary_bars(summaries, metric.scale, color=COLOURS[1]),
    )
    _order_rows(figure, [labels[name] for name in names])
    return figure


def line_plot(
    series: Mapping[str, Sequence[tuple[float | str, Summary]]],
    *,
    x: str,
    y: str,
    scale: float = 100,
    log_x: bool = False,
    height: int = 420,
) -> go.Figure:
    """Draws means with intervals along an axis of numbers or names, such as the imbalance."""
    figure = empty_figure(height, x=x, y=y)
    for i, (name, points) in enumerate(series.items()):
        measured = [(position, s) for position, s in points if s.mean is not None]
        summaries = [s for _, s in measured]
        figure.add_scatter(
            x=[short_label(p) if isinstance(p, str) else p for p, _ in measured],
            y=_scaled_means(summaries, scale),
            name=short_label(name, 60),
            mode="lines+markers",
            line={"color": _colour(i), "dash": DASHES[i // len(COLOURS) % 4], "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            error_y=_summary_bars(summaries, scale),
        )
    if log_x:
        ticks = sorted({float(p) for points in series.values() for p, _ in points})
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks])
    return figure


def bar_plot(
    groups: Mapping[str, Mapping[str, Summary]], *, y: str, scale: float = 100
) -> go.Figure:
    """Draws grouped bars with intervals, such as many, medium and few-shot accuracy.

    groups: `{variant: {group: summary}}`.
    """
    figure = empty_figure(420, y=y, barmode="group")
    for i, (name, values) in enumerate(groups.items()):
        measured = {group: s for group, s in values.items() if s.mean is not None}
        figure.add_bar(
            x=[short_label(group) for group in measured],
            y=_scaled_means(list(measured.values()), scale),
            name=short_label(name, 60),
            marker={
                "color": _colour(i),
                "pattern": {"shape": PATTERNS[i // len(COLOURS) % len(PATTERNS)]},
            },
            error_y=_summary_bars(list(measured.values()), scale),
        )
    return figure


def learning_curves(
    histories: Mapping[str, Sequence[tuple[float, float]]],
    metric: Metric,
    *,
    best: str = "",
    stopped: Collection[str] = (),
) -> go.Figure:
    """Draws one line a run over its epochs; the best run is drawn last and stands out.

    histories: `{run: [(epoch, score), ...]}`. stopped: runs that did not reach their last epoch.
    """
    show_legend = bool(best) or len(histories) <= 8
    figure = empty_figure(400, x="epoch", y=metric.axis_title, showlegend=show_legend)
    if max((epoch for points in histories.values() for epoch, _ in points), default=0) <= 12:
        figure.update_xaxes(dtick=1)
    in_legend: set[str] = set()
    ordered = sorted(histories.items(), key=lambda item: (item[0] == best, item[0] not in stopped))
    for i, (name, points) in enumerate(ordered):
        label = short_label(name)
        line: dict[str, object] = {"width": 1.2, "color": with_opacity(_colour(i), 0.55)}
        group = label
        if best and name == best:
            group, line = f"{label} (best)", {"width": 3, "color": COLOURS[1]}
        elif best and name in stopped:
            group, line = "stopped early", {"width": 1.2, "color": GREY, "dash": "dot"}
        elif best:
            group, line = "ran to their end", {**line, "color": with_opacity(COLOURS[0], 0.55)}
        figure.add_scatter(
            x=[epoch for epoch, _ in points],
            y=[score * metric.scale for _, score in points],
            mode="lines" if len(points) > 1 else "markers",
            name=group,
            legendgroup=group,
            showlegend=group not in in_legend,
            line=line,
            hovertemplate=f"{label}<br>epoch %{{x}}: %{{y:.{metric.digits}f}}<extra></extra>",
        )
        in_legend.add(group)
    return figure


def rank_plot(ranking: Ranking) -> go.Figure:
    """Draws mean ranks with half of Nemenyi's critical difference on either side.

    Variants whose bars do not overlap differ. Without a critical difference no variant is called
    worse than the best.
    """
    labels = row_labels(ranking.ranks)
    figure = empty_figure(
        _rows_height(len(ranking.ranks)),
        x="mean rank over data sets (1 is the best)",
        showlegend=True,
    )
    best = min(ranking.ranks.values(), default=0.0)
    distance = math.inf if ranking.critical_difference is None else ranking.critical_difference
    worse = {name for name, rank in ranking.ranks.items() if rank - best > distance}
    parts = {
        "not told apart from the best": (ranking.ranks.keys() - worse, COLOURS[0], "circle"),
        "worse than the best": (worse, WORSE_COLOUR, "x"),
    }
    for outcome, (members, colour, symbol) in parts.items():
        names = [name for name in ranking.ranks if name in members]
        if not names:
            continue
        bars = None
        if ranking.critical_difference is not None:
            bars = {"type": "constant", "value": distance / 2, "color": colour, "thickness": 2}
        figure.add_scatter(
            x=[ranking.ranks[name] for name in names],
            y=[labels[name] for name in names],
            mode="markers",
            name=outcome,
            marker={"color": colour, "symbol": symbol, "size": 10},
            error_x=bars,
        )
    _order_rows(figure, [labels[name] for name in ranking.ranks])
    figure.update_xaxes(range=[0.5, len(ranking.ranks) + 0.5])
    return figure


def _rows_height(rows: int) -> int:
    """Returns the height in pixels of a figure with so many rows."""
    return 130 + 34 * max(2, rows)


def _order_rows(figure: go.Figure, labels: Sequence[str]) -> None:
    """Puts the rows in this order from top to bottom."""
    figure.update_yaxes(categoryorder="array", categoryarray=list(reversed(labels)))


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _scaled_means(summaries: Sequence[Summary], scale: float) -> list[float]:
    return [s.mean * scale for s in summaries if s.mean is not None]


def _summary_bars(
    summaries: Sequence[Summary], scale: float, color: str | None = None
) -> dict[str, object]:
    intervals = [(s.mean, s.low, s.high) for s in summaries]
    return _error_bars(intervals, scale, color=color, thickness=1.6)


def _error_bars(
    intervals: Sequence[tuple[float | None, float | None, float | None]],
    scale: float,
    *,
    color: str | None,
    thickness: float,
) -> dict[str, object]:
    """Returns plotly's error bars.

    intervals: middle, low and high of each point; no bar is drawn where one is None.
    """
    above, below = [], []
    for middle, low, high in intervals:
        above.append(0 if middle is None or high is None else (high - middle) * scale)
        below.append(0 if middle is None or low is None else (middle - low) * scale)
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": thickness,
        "color": color,
    }
