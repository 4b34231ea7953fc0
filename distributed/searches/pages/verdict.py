"""The conclusion of a search in sentences, with the names and scores that they mention."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from distributed.reporting.significance import (
    ALPHA,
    Comparison,
    Summary,
    compare_to_reference,
    summarise,
)
from distributed.reporting.verdicts import describe_comparison, seed_limit_note, smallest_wilcoxon_p
from distributed.searches.choosing.baselines import ALONE, BOOSTING, STARTING_POINT
from distributed.searches.state.records import SearchRecord, is_finite
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
    """The mean over a configuration's seeds with its interval."""
    return summarise(list(seed_scores(standings, record, metric).values()))


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
    is_single = standings.replicates > 0 and not standings.replicates_of(record.name)
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


def seed_limits(standings: Standings) -> str:
    """What so few seeds cannot show; empty where there are no replicates, or enough."""
    return seed_limit_note(standings.replicates) if standings.replicates > 1 else ""
