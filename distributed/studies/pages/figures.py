"""The figures of a study: seeds, shot groups, forests, curves along an axis, and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributed.reporting.figures import (
    bar_plot,
    forest_plot,
    line_plot,
    rank_plot,
    strip_plot,
)
from distributed.reporting.files import slug
from distributed.reporting.page import Figure
from distributed.reporting.ranking import Ranking, rank_variants
from distributed.reporting.significance import Summary, summarise
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Choice, Study
from distributed.studies.views import ConditionView
from model.metrics import names

SHOT_METRICS = {
    "many": "many_shot_accuracy",
    "medium": "medium_shot_accuracy",
    "few": "few_shot_accuracy",
}
# Forests of one metric: the first condition of every data set, then others. The tables have all.
MAX_FORESTS = 6
# The largest over the smallest value on an axis from which on it is logarithmic.
LOG_AXIS_RATIO = 20


def score_figures(study: Study, views: Sequence[ConditionView]) -> list[Figure]:
    """Every seed of the main metric, and the shot groups, under each data set's first condition."""
    drawn: list[Figure] = []
    for view in _first_views(views):
        drawn += _seed_figure(study, view)
        drawn += _shot_figure(view)
    return drawn


def _seed_figure(study: Study, view: ConditionView) -> list[Figure]:
    """The main metric of every seed; none if no cell has it."""
    scores = view.scores(study.metric)
    if not scores:
        return []
    metric = names.metric(study.metric)
    figure = strip_plot(
        {variant: list(by_seed.values()) for variant, by_seed in scores.items()},
        view.means(study.metric),
        metric,
    )
    caption = (
        f"{_place(view)}: {metric.title} on the test split, "
        "every seed and the mean with its interval."
    )
    return [Figure(figure=figure, caption=caption, name=slug(f"seeds-{view.data}"))]


def _shot_figure(view: ConditionView) -> list[Figure]:
    """The accuracy of each shot group as bars; none if no cell has them."""
    bars: dict[str, dict[str, Summary]] = {}
    for shot, metric in SHOT_METRICS.items():
        for variant, summary in view.means(metric).items():
            bars.setdefault(variant, {})[shot] = summary
    if not bars:
        return []
    in_order = {variant: bars[variant] for variant in view.variants if variant in bars}
    place = _place(view)
    caption = f"{place}: accuracy of the classes with many, medium and few training rows."
    figure = bar_plot(in_order, y="accuracy (%)")
    return [Figure(figure=figure, caption=caption, name=slug(f"shots-{view.data}"))]


def forest_figures(study: Study, views: Sequence[ConditionView], metric: str) -> list[Figure]:
    """Differences to the reference under every condition, as far as MAX_FORESTS allows."""
    first = _first_views(views)
    ordered = [*first, *(view for view in views if view not in first)]
    unit = names.metric(metric)
    drawn = []
    for view in ordered[:MAX_FORESTS]:
        comparisons = view.comparisons(metric)
        if comparisons:
            figure = forest_plot(comparisons, unit)
            caption = (
                f"{_place(view)}: {unit.title} against {study.reference}, "
                "paired over seeds, 95 % intervals."
            )
            name = slug(f"forest-{metric}-{view.data}-{view.condition}")
            drawn.append(Figure(figure=figure, caption=caption, name=name))
    return drawn


@dataclass(frozen=True)
class Axis:
    """The conditions of one data set along one axis, with their views by condition."""

    data: str
    name: str
    conditions: Sequence[Choice]
    views: Mapping[str, ConditionView]

    @property
    def is_logarithmic(self) -> bool:
        """Whether all places are positive numbers over a wide range."""
        numbers = [c.at for c in self.conditions if isinstance(c.at, float)]
        if len(numbers) < len(self.conditions) or min(numbers) <= 0:
            return False
        return max(numbers) / min(numbers) >= LOG_AXIS_RATIO


Series = dict[str, list[tuple[float | str, Summary]]]  # of each curve: (place on the axis, mean)


def axis_figures(
    study: Study, planned: Mapping[str, DataSetCells], views: Sequence[ConditionView]
) -> list[Figure]:
    """Curves over the conditions of each axis.

    They show the metrics of every variant, the fusion weight of the modality that the conditions
    concern, and the weights of the experts.
    """
    drawn: list[Figure] = []
    for axis in _axes(planned, views):
        for metric in (study.metric, study.tail):
            caption = f"{axis.data}: {names.metric(metric).title}"
            name = slug(f"curve-{metric}-{axis.data}-{axis.name}")
            drawn += _metric_curves(axis, metric, caption, name)
        modalities = [c.placeholders.get("modality", "") for c in axis.conditions]
        for modality in dict.fromkeys(filter(None, modalities)):
            caption = f"{axis.data}: mean fusion weight of {modality}"
            name = slug(f"weight-{modality}-{axis.data}-{axis.name}")
            drawn += _metric_curves(axis, f"weight/{modality}", caption, name)
        drawn += _expert_curves(axis)
    return drawn


def _axes(planned: Mapping[str, DataSetCells], views: Sequence[ConditionView]) -> list[Axis]:
    """Every axis of every data set with results at two places at least."""
    axes = []
    for data, part in planned.items():
        by_condition = {view.condition: view for view in views if view.data == data}
        for name in dict.fromkeys(c.axis for c in part.conditions if c.axis):
            conditions = [
                c
                for c in part.conditions
                if c.axis == name and c.name in by_condition and c.at is not None
            ]
            if len({c.at for c in conditions}) >= 2:
                axes.append(Axis(data, name, conditions, by_condition))
    return axes


def _metric_curves(axis: Axis, metric: str, caption: str, name: str) -> list[Figure]:
    """One curve per variant; none for fusion weights that are the same everywhere."""
    series: Series = {}
    for condition in axis.conditions:
        assert condition.at is not None
        for variant, summary in axis.views[condition.name].means(metric).items():
            series.setdefault(variant, []).append((condition.at, summary))
    if not series or (metric.startswith("weight/") and _all_constant(series)):
        return []
    described = names.metric(metric)
    figure = line_plot(
        series,
        x=axis.name,
        y=described.axis_title,
        scale=described.scale,
        log_x=axis.is_logarithmic,
    )
    caption = f"{caption} by {axis.name}, means with 95 % intervals over seeds."
    return [Figure(figure=figure, caption=caption, name=name)]


def _all_constant(series: Series) -> bool:
    """Whether no curve changes: weights that are 1 or 1 / M everywhere show nothing."""
    return all(len({summary.mean for _, summary in points}) == 1 for points in series.values())


def _expert_curves(axis: Axis) -> list[Figure]:
    """One figure for each variant whose experts' weights change along the axis."""
    drawn = []
    variants = [v for c in axis.conditions for v in axis.views[c.name].variants]
    for variant in dict.fromkeys(variants):
        series = _expert_series(axis, variant)
        if not series or _all_constant(series):
            continue
        figure = line_plot(series, x=axis.name, y="expert weight", scale=1)
        caption = (
            f"{axis.data}: weights of the experts of {variant} by {axis.name}, "
            "means with 95 % intervals over seeds."
        )
        name = slug(f"{slug(f'experts-{axis.data}-{axis.name}')}-{variant}")
        drawn.append(Figure(figure=figure, caption=caption, name=name))
    return drawn


def _expert_series(axis: Axis, variant: str) -> Series:
    """The mean weight of each expert of a variant along the axis."""
    series: Series = {}
    for condition in axis.conditions:
        assert condition.at is not None
        view = axis.views[condition.name]
        for metric in view.test_metrics("expert_weight"):
            by_seed = view.scores(metric).get(variant)
            if by_seed:
                expert = f"expert {metric.split('/')[1]}"
                point = (condition.at, summarise(list(by_seed.values())))
                series.setdefault(expert, []).append(point)
    return series


@dataclass(frozen=True)
class DataSetRanking:
    """The variants ranked over data sets.

    left_out: variants that some data set has no result of.
    """

    ranking: Ranking
    left_out: list[str]
    figures: list[Figure]


def rank_over_data_sets(
    study: Study, planned: Mapping[str, DataSetCells], views: Sequence[ConditionView]
) -> DataSetRanking:
    """Ranks variants by the mean over seeds under the first condition of each data set.

    The figure is the critical-difference diagram; there is none without a ranking.
    """
    scores: dict[str, dict[str, float]] = {}
    for view in views:
        if view.condition == planned[view.data].conditions[0].name:
            for variant, summary in view.means(study.metric).items():
                if summary.mean is not None:
                    scores.setdefault(view.common_name(variant), {})[view.data] = summary.mean
    complete = {
        variant: by_data for variant, by_data in scores.items() if by_data.keys() == planned.keys()
    }
    metric = names.metric(study.metric)
    ranking = rank_variants(complete, lower_is_better=metric.lower_is_better)
    variants = [v.common_name or v.name for part in planned.values() for v in part.variants]
    left_out = [variant for variant in dict.fromkeys(variants) if variant not in complete]
    if ranking.data_sets < 2 or not ranking.ranks:
        return DataSetRanking(ranking, left_out, [])
    caption = (
        f"Mean rank of {metric.title} over {ranking.data_sets} data sets, "
        "under the first condition of each"
    )
    if ranking.critical_difference is not None:
        caption += "; variants whose bars do not overlap differ (Nemenyi, 5 %)"
    figure = Figure(figure=rank_plot(ranking), caption=f"{caption}.", name="ranks")
    return DataSetRanking(ranking, left_out, [figure])


def _first_views(views: Sequence[ConditionView]) -> list[ConditionView]:
    """The first view of every data set."""
    first: dict[str, ConditionView] = {}
    for view in views:
        first.setdefault(view.data, view)
    return list(first.values())


def _place(view: ConditionView) -> str:
    return f"{view.data}, {view.condition}"
