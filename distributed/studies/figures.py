"""The figures of a study: seeds, forests, shot groups, curves along an axis of conditions, ranks over data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distributed.reporting import figures
from distributed.reporting.files import slug
from distributed.reporting.page import Figure
from distributed.reporting.ranking import Ranking, rank_variants
from distributed.reporting.significance import Summary, summarise
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Choice, Study
from distributed.studies.views import ConditionView, in_percent, name_of, scale_of
from model.metrics.names import metric as metric_named

SHOTS = {"many": "many_shot_accuracy", "medium": "medium_shot_accuracy", "few": "few_shot_accuracy"}
MOST_FORESTS = (
    6  # of a metric: the first condition of every data set, then others; the tables have all
)


def score_figures(study: Study, seen: Sequence[ConditionView]) -> list[Figure]:
    """Every seed of the main metric, and the shot groups, under the first condition of each data set."""
    found = []
    for view in _first(seen):
        scores = view.scores(study.metric)
        if scores:
            percent = in_percent(study.metric)
            words = f"{name_of(study.metric)}{' (%)' if percent else ''}"
            figure = figures.strip_plot(
                {n: list(v.values()) for n, v in scores.items()},
                view.means(study.metric),
                words,
                scale=100 if percent else 1,
            )
            caption = f"{_place(view)}: {name_of(study.metric)} on the test split, every seed and the mean with its interval."
            found.append(Figure(figure=figure, caption=caption, name=slug(f"seeds-{view.data}")))
        bars = {name: {} for name in view.variants}  # type: dict[str, dict[str, Summary]]
        for shot, metric in SHOTS.items():
            for name, summary in view.means(metric).items():
                bars[name][shot] = summary
        bars = {name: values for name, values in bars.items() if values}
        if bars:
            caption = (
                f"{_place(view)}: accuracy of the classes with many, medium and few training rows."
            )
            found.append(
                Figure(
                    figure=figures.bar_plot(bars, y="accuracy (%)"),
                    caption=caption,
                    name=slug(f"shots-{view.data}"),
                )
            )
    return found


def forest_figures(study: Study, seen: Sequence[ConditionView], metric: str) -> list[Figure]:
    """Differences to the reference under every condition."""
    scale, unit = scale_of(metric)
    found = []
    for view in [*_first(seen), *(v for v in seen if v not in _first(seen))][:MOST_FORESTS]:
        comparisons = view.comparisons(metric)
        if comparisons:
            lower = metric_named(metric).lower_is_better
            figure = figures.forest_plot(
                comparisons, name_of(metric), scale=scale, unit=unit, lower_is_better=lower
            )
            caption = f"{_place(view)}: {name_of(metric)} against {study.reference}, paired over seeds, 95 % intervals."
            found.append(
                Figure(
                    figure=figure,
                    caption=caption,
                    name=slug(f"forest-{metric}-{view.data}-{view.condition}"),
                )
            )
    return found


def axis_figures(
    study: Study, plans: Mapping[str, DataSetCells], seen: Sequence[ConditionView]
) -> list[Figure]:
    """Curves over the conditions of one axis: the metrics of every variant, the weight of the modality concerned, the experts' weights."""
    found = []
    for data, plan in plans.items():
        mine = {v.condition: v for v in seen if v.data == data}
        for axis in dict.fromkeys(c.axis for c in plan.conditions if c.axis):
            line = [
                c for c in plan.conditions if c.axis == axis and c.name in mine and c.at is not None
            ]
            if len({c.at for c in line}) < 2:
                continue
            place = f"{data}: "
            for metric in (study.metric, study.tail):
                found += _curve(
                    axis,
                    line,
                    mine,
                    metric,
                    f"{place}{name_of(metric)}",
                    slug(f"curve-{metric}-{data}-{axis}"),
                )
            for modality in dict.fromkeys(
                c.bound["modality"] for c in line if "modality" in c.bound
            ):
                caption = f"{place}mean fusion weight of {modality}"
                found += _curve(
                    axis,
                    line,
                    mine,
                    f"weight/{modality}",
                    caption,
                    slug(f"weight-{modality}-{data}-{axis}"),
                )
            found += _expert_curves(axis, line, mine, place, slug(f"experts-{data}-{axis}"))
    return found


def _curve(
    axis: str,
    line: Sequence[Choice],
    mine: Mapping[str, ConditionView],
    metric: str,
    caption: str,
    name: str,
) -> list[Figure]:
    series: dict[str, list[tuple[float | str, Summary]]] = {}
    for condition in line:
        assert condition.at is not None
        for variant, summary in mine[condition.name].means(metric).items():
            series.setdefault(variant, []).append((condition.at, summary))
    if not series or (
        metric.startswith("weight/") and all(_flat(points) for points in series.values())
    ):
        return []
    numbers = all(isinstance(c.at, float) for c in line)
    places = [c.at for c in line if isinstance(c.at, float)]
    log = numbers and min(places) > 0 and max(places) / min(places) >= 20
    percent = in_percent(metric)
    words = f"{name_of(metric)}{' (%)' if percent else ''}"
    figure = figures.line_plot(series, x=axis, y=words, scale=100 if percent else 1, log_x=log)
    return [
        Figure(
            figure=figure,
            caption=f"{caption} by {axis}, means with 95 % intervals over seeds.",
            name=name,
        )
    ]


def _flat(points: Sequence[tuple[float | str, Summary]]) -> bool:
    """Weights that are 1 or 1 / M everywhere tell nothing."""
    return len({s.mean for _, s in points}) == 1


def _expert_curves(
    axis: str, line: Sequence[Choice], mine: Mapping[str, ConditionView], place: str, name: str
) -> list[Figure]:
    """One figure a variant whose expert weights move along the axis."""
    found = []
    variants = dict.fromkeys(v for c in line for v in mine[c.name].variants)
    for variant in variants:
        series: dict[str, list[tuple[float | str, Summary]]] = {}
        for condition in line:
            assert condition.at is not None
            for metric in _expert_metrics(mine[condition.name], variant):
                values = mine[condition.name].scores(metric)[variant]
                series.setdefault(f"expert {metric.split('/')[1]}", []).append(
                    (condition.at, summarise(list(values.values())))
                )
        if series and not all(_flat(points) for points in series.values()):
            caption = f"{place}weights of the experts of {variant} by {axis}, means with 95 % intervals over seeds."
            found.append(
                Figure(
                    figure=figures.line_plot(series, x=axis, y="expert weight", scale=1),
                    caption=caption,
                    name=slug(f"{name}-{variant}"),
                )
            )
    return found


def _expert_metrics(view: ConditionView, variant: str) -> list[str]:
    names = {
        n.removeprefix("test/")
        for r in view.rows
        if r["variant"] == variant
        for n in r
        if n.startswith("test/expert_weight/")
    }
    return sorted(n for n in names if variant in view.scores(n))


def rank_over_data_sets(
    study: Study, plans: Mapping[str, DataSetCells], seen: Sequence[ConditionView]
) -> tuple[Ranking, list[str], list[Figure]]:
    """The critical-difference view over data sets, of the mean over seeds under each data set's first condition; and the names of the
    variants that it leaves out, since some data set has no result of them there."""
    table: dict[str, dict[str, float]] = {}
    for view in seen:
        if view.condition == plans[view.data].conditions[0].name:
            for name, summary in view.means(study.metric).items():
                if summary.mean is not None:
                    table.setdefault(view.common.get(name, name), {})[view.data] = summary.mean
    whole = {name: values for name, values in table.items() if values.keys() == plans.keys()}
    known = dict.fromkeys(v.common or v.name for p in plans.values() for v in p.variants)
    ranking = rank_variants(whole, lower_is_better=metric_named(study.metric).lower_is_better)
    left_out = [name for name in known if name not in whole]
    if ranking.data_sets < 2 or not ranking.ranks:
        return ranking, left_out, []
    told = (
        ""
        if ranking.critical_difference is None
        else "; variants whose bars do not overlap differ (Nemenyi, 5 %)"
    )
    caption = f"Mean rank of {name_of(study.metric)} over {ranking.data_sets} data sets, under the first condition of each{told}."
    return (
        ranking,
        left_out,
        [Figure(figure=figures.rank_plot(ranking), caption=caption, name="ranks")],
    )


def _first(seen: Sequence[ConditionView]) -> list[ConditionView]:
    """The first view of every data set."""
    return list({view.data: view for view in reversed(seen)}.values())[::-1]


def _place(view: ConditionView) -> str:
    return f"{view.data}, {view.condition}"
