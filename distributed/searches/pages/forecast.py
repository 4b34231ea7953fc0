"""What a search is going to do, before it starts, and how long the rest of it takes."""

from __future__ import annotations

import statistics
import time

from distributed.searches.setup import CheckedSearch
from distributed.searches.state.records import TRAINED
from distributed.searches.state.standings import Standings

MINUTE = 60.0


def plan_sentence(search: CheckedSearch) -> str:
    """How many configurations are tried, why these, and what follows them."""
    options, trials = search.setup.options, search.setup.options["trials"]
    points = search.starting_points
    others = sum(job.kind == "portfolio" for job in points.outside)
    baselines = len(points.labels) - others - 1
    searched = max(0, trials - others - baselines - 1)
    until = f"at most {trials:,}" if options["time_budget"] else f"{trials:,}"
    parts = [
        f"{until} configurations: the starting point, {baselines} baselines, {others} of the"
        f" portfolio and {searched} that are searched"
    ]
    if options["time_budget"]:
        parts[0] += f", as far as {options['time_budget']:,.0f} s allow"
    if search.setup.folds > 1:
        parts.append(
            f"the best {options['best']} and the starting point on up to {search.setup.folds} folds"
            " of the training and validation rows"
        )
    elif options["replicates"]:
        seeds = f"{options['replicates']} fresh seed{'s' * (options['replicates'] > 1)}"
        parts.append(f"then {seeds} of the best {options['best']} and of the starting point")
    if options["ensemble"]:
        parts.append(f"then the model, of up to {options['ensemble']} configurations")
    if search.has_test_rows:
        parts.append("at last the test split")
    return "; ".join(parts)


def seconds_left(standings: Standings, trials: int) -> float | None:
    """How long the trainings that are left take, by those that have ended; None before two have.

    trials: configurations of the whole search.
    """
    runs = standings.log.of_kind(*TRAINED)
    ended = [r.seconds for r in runs if r.state != "running"]
    running = [r for r in runs if r.state == "running"]
    if len(ended) < 2:
        return None
    configurations = len(standings.log.configurations())
    repeated = standings.replicates * (min(standings.best, trials) + 1)
    waiting = max(0, trials - configurations)
    waiting += max(0, repeated - len(standings.log.of_kind("replicate")))
    folds = (standings.folds - 1) * (min(standings.best, trials) + 1)
    waiting += max(0, folds - len(standings.log.of_kind("fold")))
    one = statistics.fmean(ended)
    now = time.time()
    under_way = sum(max(0.0, one - (now - r.started)) for r in running)
    return (waiting * one + under_way) / max(1, len(running))


def duration(seconds: float) -> str:
    """A rough duration: 40 s, 6 min, 2.5 h."""
    if seconds < 1.5 * MINUTE:
        return f"{max(10, 10 * round(seconds / 10)):.0f} s"
    if seconds < 90 * MINUTE:
        return f"{seconds / MINUTE:.0f} min"
    return f"{seconds / MINUTE / 60:.1f} h"
