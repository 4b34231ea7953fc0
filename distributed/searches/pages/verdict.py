"""The conclusion of a search in sentences, with the names and scores that they mention."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from statistics import NormalDist

from distributed.reporting.significance import (
    ALPHA,
    Comparison,
    Summary,
    compare_to_reference,
    summarise,
)
from distributed.reporting.verdicts import describe_comparison, seed_limit_note, smallest_wilcoxon_p
from distributed.searches.choosing.baselines import ALONE, BOOSTING, STARTING_POINT
from distributed.searches.resolution import NORMAL_95
from distributed.searches.state.records import (
    FOLD_ERROR,
    OVER_START,
    OVER_START_ERROR,
    SearchRecord,
    is_finite,
)
from distributed.searches.state.standings import Standing, Standings
from model.metrics import names

TITLES = {
    BOOSTING: "gradient boosting on the tables",
    "defaults": "this project's defaults",
    STARTING_POINT: "the starting point",
    "concatenation": "plain concatenation: modalities count alike",
    "one expert": "a single expert",
    "plain softmax": "plain softmax: experts without class priors",
}


def title(record: SearchRecord) -> str:
    """A configuration's name for a reader."""
    if record.job.label.endswith(ALONE):
        return f"the {record.job.label}"
    return TITLES.get(record.job.label, record.job.label) or f"trial {record.name}"


def short_title(record: SearchRecord) -> str:
    """The name without its explanation."""
    return title(record).partition(":")[0]


def seed_scores(standings: Standings, record: SearchRecord, metric: str) -> dict[Hashable, float]:
    """A configuration's values by seed, from its replicates.

    Without replicates its only run counts as seed 0.
    """
    replicates = standings.replicates_of(record.name)
    runs = {r.job.seed or 0: r for r in replicates} if replicates else {0: record}
    return {
        seed: run.value(metric) for seed, run in runs.items() if is_finite(run.metrics.get(metric))
    }


def summarise_seeds(standings: Standings, record: SearchRecord, metric: str) -> Summary:
    """The mean over a configuration's seeds with its interval, or the value of all its folds.

    The interval of the folds is that of the deciding metric, by a bootstrap of the rows.
    """
    pooled = standings.standing(record).pooled
    if pooled is not None:
        return summarise_folds(pooled, metric, metric == standings.metric)
    return summarise(list(seed_scores(standings, record, metric).values()))


def summarise_folds(pooled: SearchRecord, metric: str, has_interval: bool) -> Summary:
    """A metric of all held-out rows of a configuration's folds together."""
    value, error = pooled.metrics.get(metric), pooled.metrics.get(FOLD_ERROR)
    if not is_finite(value):
        return Summary(n=pooled.job.fold + 1)
    if not has_interval or not is_finite(error):
        return Summary(n=pooled.job.fold + 1, mean=value)
    low, high = value - NORMAL_95 * error, value + NORMAL_95 * error
    return Summary(n=pooled.job.fold + 1, mean=value, low=low, high=high)


def interval(summary: Summary, metric: str) -> str:
    """The interval behind a mean, in the digits of the mean: (62.1 to 64.9), (0.481 to 0.502)."""
    if summary.low is None or summary.high is None:
        return ""
    named = names.metric(metric)
    return f" ({named.value(summary.low)} to {named.value(summary.high)})"


def score_text(standings: Standings, record: SearchRecord, metric: str) -> str:
    """A mean with its interval; a single run beside means says that it is one."""
    summary = summarise_seeds(standings, record, metric)
    text = names.metric(metric).text(summary.mean, missing="none") + interval(summary, metric)
    is_repeated = standings.standing(record).repeats > 0
    is_single = (standings.replicates > 0 or standings.folds > 1) and not is_repeated
    return f"{text} (1 run)" if is_single else text


def interval_name(seeds: int) -> str:
    """How to read an interval of so few seeds: with few of them it covers less than it says."""
    missed = smallest_wilcoxon_p(seeds)
    if seeds < 2 or missed <= ALPHA:
        return "95 % interval"
    return f"95 % interval, which of {seeds} seeds covers at most {100 - 100 * missed:.0f} %"


def starting_point_title(start: SearchRecord) -> str:
    return "the starting point" if start.job.label == STARTING_POINT else "the defaults"


def compare_winner(standings: Standings, winner: Standing) -> Comparison | None:
    """The winner against the starting point over the seeds that both have.

    p is corrected for all configurations that were compared, since the winner is the best of them.
    None where the starting point has not finished or is the winner.
    """
    start = standings.starting_point()
    if start is None or start is winner.record:
        return None
    scores = {r.name: seed_scores(standings, r, standings.metric) for r in standings.candidates()}
    comparisons = compare_to_reference(scores, start.name)
    comparison = next(c for c in comparisons if c.name == winner.record.name)
    return dataclasses.replace(
        comparison, name="the best found", reference=starting_point_title(start)
    )


def verdict(standings: Standings) -> str:
    """What the search gave, how much was compared, and what was not."""
    return " ".join(filter(None, (_verdict(standings), single_runs(standings))))


def single_runs(standings: Standings) -> str:
    """The baselines that have one run beside configurations with several; "" without any."""
    metric = names.metric(standings.metric)
    listed = [
        f"{short_title(s.record)} {metric.text(s.score(metric.name), missing='none')}"
        for s in standings.ran_once()
    ]
    if not listed:
        return ""
    return (
        f"Of one run each, by which nothing is shown to be better or worse: {', '.join(listed)}"
        f" in {metric.title}."
    )


def _verdict(standings: Standings) -> str:
    winner = standings.winner()
    if winner is None:
        return "No configuration has finished yet."
    if winner.record is standings.starting_point():
        return (
            f"The search found no better settings than those of"
            f" {starting_point_title(winner.record)}: keep these."
        )
    if winner.pooled is not None:
        return fold_verdict(standings, winner.pooled)
    comparison = compare_winner(standings, winner)
    if comparison is None:
        return (
            f"The best so far is {title(winner.record)};"
            " there is no finished run of the starting point to compare it with."
        )
    sentence = describe_comparison(comparison, names.metric(standings.metric))
    sentence = sentence[0].upper() + sentence[1:]
    if comparison.family <= 1:
        return sentence
    return (
        f"{sentence} p is corrected for the {comparison.family} that were compared with"
        f" {comparison.reference}; the gap is that of the best of them."
    )


def fold_verdict(standings: Standings, pooled: SearchRecord) -> str:
    """The winner against the starting point on the rows that both were not trained on."""
    metric, start = names.metric(standings.metric), standings.starting_point()
    difference = pooled.metrics.get(OVER_START)
    error = pooled.metrics.get(OVER_START_ERROR)
    if start is None or not is_finite(difference) or not is_finite(error):
        return (
            f"The best so far is {title(pooled)}; there is no finished run of the starting point on"
            " the same folds to compare it with."
        )
    family = max(1, len(standings.candidates()) - 1)
    # Bonferroni's correction: the winner is the best of all that were compared.
    limit = NormalDist().inv_cdf(1 - ALPHA / (2 * family)) * error
    worse_by = -standings.gain(difference)
    unit, scale, digits = metric.difference_unit, metric.scale, metric.digits
    amount = f"{scale * difference:+.{digits}f} {unit}".rstrip()
    spread = (
        f"{scale * (difference - limit):+.{digits}f} to {scale * (difference + limit):+.{digits}f}"
    )
    evidence = (
        f"{amount}, 95 % interval {spread} with the correction for {family} comparisons, on the"
        f" held-out rows of {pooled.job.fold + 1} folds"
    )
    other = starting_point_title(start)
    if abs(difference) < limit:
        return (
            f"The best found against {other} in {metric.title}: not shown to differ ({evidence})."
        )
    direction = "worse" if worse_by > 0 else "better"
    return f"The best found is {direction} than {other} in {metric.title} ({evidence})."


def seed_limits(standings: Standings) -> str:
    """What so few seeds cannot show; empty where there are no replicates, or enough."""
    return seed_limit_note(standings.replicates) if standings.replicates > 1 else ""
