"""Which settings matter: the section of the report that looks at the whole search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distributed.reporting.page import Block, Figure
from distributed.searches.pages import figures
from distributed.searches.pages.trial_study import is_number, varied
from distributed.searches.records import SettingValue, is_finite
from distributed.searches.standings import Standings
from model.metrics import names

MIN_CONFIGURATIONS = 4  # with fewer, a picture of the space says nothing
DISTINCT_VALUES = 3  # of a setting, for an axis of the contour figure
PREFERRED_PAIR = ("loss.margin", "fusion.temperature")

Row = Mapping[
    str, SettingValue
]  # a configuration's settings, and its score under the metric's name


def space_figures(standings: Standings) -> list[Block]:
    """Importances, slices, contour and parallel coordinates."""
    metric = names.metric(standings.metric)
    rows, comparison = comparable_rows(standings)
    searched = list(dict.fromkeys(name for row in rows for name in row if name != metric.name))
    varied_names = varied(rows, searched)
    if len(rows) < MIN_CONFIGURATIONS or not varied_names:
        return []
    score = f"{metric.title}{comparison}"
    blocks: list[Block] = []
    shares = compute_importances(rows, varied_names, metric.name)
    if shares:
        caption = (
            f"How much of the spread of {score} each setting explains"
            " (by a random forest; few trials make it rough)."
        )
        blocks.append(
            Figure(figure=figures.importances(shares), caption=caption, name="importances")
        )
    slices = figures.slices(rows, varied_names, metric)
    blocks.append(Figure(figure=slices, caption=f"{score} against each setting.", name="slices"))
    pair = contour_pair(rows, shares)
    if pair:
        contour = figures.contour(rows, *pair, metric)
        caption = f"{score} over {pair[0]} and {pair[1]}."
        blocks.append(Figure(figure=contour, caption=caption, name="contour"))
    parallel = figures.parallel(rows, varied_names, metric)
    caption = f"Every configuration as a line; {score} is the first axis and the colour."
    blocks.append(Figure(figure=parallel, caption=caption, name="parallel"))
    return blocks


def comparable_rows(standings: Standings) -> tuple[list[Row], str]:
    """Settings and score of configurations after equally many epochs, and a note on the epoch.

    These are the ones that ran to their end. While they are few it is all that have ended, at the
    last epoch that each of them has reached; then the note says which one.
    """
    metric = standings.metric
    complete = [r for r in standings.finished() if r.state == "complete"]
    if len(complete) >= 2 * MIN_CONFIGURATIONS:
        return [{**r.job.settings, metric: r.value(metric)} for r in complete], ""
    ended = [
        r
        for r in standings.log.configurations()
        if r.state in ("complete", "stopped") and r.history
    ]
    epoch = min((int(r.history[-1]["epoch"]) for r in ended), default=0)
    rows: list[Row] = []
    for record in ended:
        scores = [entry.get(metric) for entry in record.history if entry["epoch"] == epoch]
        rows += [{**record.job.settings, metric: s} for s in scores[-1:] if is_finite(s)]
    return rows, f" after epoch {epoch} (reached by all trials)"


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
    if len(rows) < 2 * MIN_CONFIGURATIONS or len(set(scores)) < 2:
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
