"""Which settings matter: the section of the report that looks at the whole search space.

Only configurations that ran to their end count: the score of one that was stopped is of an early
epoch, and what makes a network learn fast in its first epochs is not what makes it good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distributed.reporting.page import Block, Figure, Text
from distributed.searches.pages import figures, parallel
from distributed.searches.pages.trial_study import TRIAL, is_number, varied
from distributed.searches.pages.verdict import short_title
from distributed.searches.state.records import SearchRecord, SettingValue, is_finite
from distributed.searches.state.standings import Standings
from model.metrics import names
from model.metrics.names import Metric

MIN_CONFIGURATIONS = 4  # with fewer, a picture of the space says nothing
MIN_FOR_IMPORTANCES = 2 * MIN_CONFIGURATIONS
MOST_AXES = 8  # settings in the figure of parallel coordinates
MOST_SLICES = 12
DISTINCT_VALUES = 3  # of a setting, for an axis of the contour figure
PREFERRED_PAIR = ("loss.margin", "fusion.temperature")

# A configuration's settings, its name, and its score under the metric's name.
Row = Mapping[str, SettingValue]


def space_figures(standings: Standings) -> list[Block]:
    """Importances, slices, contour and parallel coordinates."""
    metric = names.metric(standings.metric)
    rows, stopped = final_rows(standings), stopped_rows(standings)
    searched = list(dict.fromkeys(name for row in rows for name in row))
    shown = varied(rows, [name for name in searched if name not in (metric.name, TRIAL)])
    if len(rows) < MIN_CONFIGURATIONS or not shown:
        return []
    shares = compute_importances(rows, shown, metric.name)
    shown = by_importance(rows, shown, shares)
    return [
        _importances(rows, stopped, shares),
        _slices(rows, stopped, shown, shares, metric),
        *_contour(rows, shares, metric),
        _parallel(rows, shown, shares, metric),
    ]


def _importances(rows: Sequence[Row], stopped: Sequence[Row], shares: Mapping[str, float]) -> Block:
    """The figure of importances, or why there is none."""
    if not shares:
        return Text(
            f"How much each setting matters is shown from {MIN_FOR_IMPORTANCES} configurations on."
            f" So far there are only {counted(rows, stopped)}"
        )
    caption = (
        "How much of the spread of the final score each setting explains, by a random forest over"
        f" {counted(rows, stopped)} Few configurations make it rough."
    )
    return Figure(figure=figures.importances(shares), caption=caption, name="importances")


def _slices(
    rows: Sequence[Row],
    stopped: Sequence[Row],
    shown: Sequence[str],
    shares: Mapping[str, float],
    metric: Metric,
) -> Figure:
    caption = f"The final {metric.title} against each setting{_which(shown, MOST_SLICES, shares)}."
    if stopped:
        caption += " A cross is a configuration that was stopped early; its height means nothing."
    figure = figures.slices(rows, shown[:MOST_SLICES], metric, stopped)
    return Figure(figure=figure, caption=caption, name="slices", min_width=640)


def _contour(rows: Sequence[Row], shares: Mapping[str, float], metric: Metric) -> list[Figure]:
    pair = contour_pair(rows, shares)
    if pair is None:
        return []
    caption = (
        f"The final {metric.title} over {pair[0]} and {pair[1]}: dots are configurations, the"
        " colours between them are interpolated."
    )
    figure = figures.contour(rows, *pair, metric)
    return [Figure(figure=figure, caption=caption, name="contour", min_width=480)]


def _parallel(
    rows: Sequence[Row], shown: Sequence[str], shares: Mapping[str, float], metric: Metric
) -> Figure:
    axes = shown[:MOST_AXES]
    caption = (
        f"Every configuration that ran to its end as a line: its final {metric.title} on the first"
        f" axis, then its settings{_which(shown, MOST_AXES, shares)}. The best line is orange and"
        " wide; at the foot of an axis are the configurations without that setting."
    )
    width = parallel.AXIS_WIDTH * (len(axes) + 1)
    figure = parallel.parallel(rows, axes, metric)
    return Figure(figure=figure, caption=caption, name="parallel", min_width=width)


def final_rows(standings: Standings) -> list[Row]:
    """Settings and final score of the configurations of the space that ran to their end.

    The baselines outside the space are left out: they change what the search does not.
    """
    metric = standings.metric
    return [
        {**record.job.settings, metric: record.value(metric), TRIAL: short_title(record)}
        for record in _of_space(standings, "complete")
        if is_finite(record.metrics.get(metric))
    ]


def stopped_rows(standings: Standings) -> list[Row]:
    """The settings of the configurations that were stopped early."""
    return [
        {**record.job.settings, TRIAL: f"{short_title(record)}, stopped at epoch {record.epoch}"}
        for record in _of_space(standings, "stopped")
    ]


def _of_space(standings: Standings, state: str) -> list[SearchRecord]:
    return [
        record
        for record in standings.log.configurations()
        if record.job.kind == "search" and record.state == state
    ]


def counted(rows: Sequence[Row], stopped: Sequence[Row]) -> str:
    """How many configurations the figures rest on, as the end of a sentence."""
    text = f"the {len(rows)} configurations that ran to their end"
    if not stopped:
        return f"{text}."
    were = "was" if len(stopped) == 1 else "were"
    return f"{text}; {len(stopped)} that {were} stopped early have no final score and do not count."


def _which(shown: Sequence[str], most: int, shares: Mapping[str, float]) -> str:
    """Says which of the settings a figure has, where it has not all."""
    if len(shown) <= most:
        return ""
    chosen = "that matter most" if shares else "that took the most values"
    return f" (the {most} of {len(shown)} {chosen})"


def by_importance(
    rows: Sequence[Row], shown: Sequence[str], shares: Mapping[str, float]
) -> list[str]:
    """The settings, those first that matter most; without importances the most varied ones."""
    values = {name: len({str(row[name]) for row in rows if name in row}) for name in shown}
    return sorted(shown, key=lambda name: (-shares.get(name, 0.0), -values[name], name))


def contour_pair(rows: Sequence[Row], shares: Mapping[str, float]) -> tuple[str, str] | None:
    """Margin and fusion temperature if both were searched, else the two most important numbers."""

    def has_axis(name: str) -> bool:
        values = [row[name] for row in rows if name in row]
        return len(set(values)) >= DISTINCT_VALUES and all(is_number(v) for v in values)

    with_pair = [row for row in rows if all(name in row for name in PREFERRED_PAIR)]
    if len(with_pair) >= MIN_CONFIGURATIONS and all(
        len({row[name] for row in with_pair}) >= DISTINCT_VALUES for name in PREFERRED_PAIR
    ):
        return PREFERRED_PAIR
    ranked = [name for name in sorted(shares, key=lambda n: -shares[n]) if has_axis(name)]
    return (ranked[0], ranked[1]) if len(ranked) >= 2 else None


def compute_importances(
    rows: Sequence[Row], searched: Sequence[str], metric: str
) -> dict[str, float]:
    """The share of the score's variance that each setting explains, by a random forest.

    Optuna's own importances leave out every setting that was not asked for in all trials.
    """
    scores = [row[metric] for row in rows]
    if len(rows) < MIN_FOR_IMPORTANCES or len(set(scores)) < 2:
        return {}
    from sklearn.ensemble import RandomForestRegressor  # a second, which a short search can save

    columns = [_numbers([row.get(name) for row in rows]) for name in searched]
    forest = RandomForestRegressor(n_estimators=100, random_state=0)
    forest.fit(np.array(columns).T, scores)
    return {name: float(share) for name, share in zip(searched, forest.feature_importances_)}


def _numbers(values: Sequence[SettingValue | None]) -> list[float]:
    """A setting as a column of numbers: text becomes its rank in the alphabet.

    A value that is missing, since the trial was not asked for it, lies below all others.
    """
    present = [value for value in values if value is not None]
    if all(is_number(value) for value in present):
        numbers = [float(value) for value in present]
        missing = min(numbers) - (max(numbers) - min(numbers) or 1.0)
        return [missing if value is None else float(value) for value in values]
    ranks = {text: rank for rank, text in enumerate(sorted({str(value) for value in present}))}
    return [-1.0 if value is None else float(ranks[str(value)]) for value in values]
