"""What a search says before it starts, and how long it says the rest takes."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distributed.searches.choosing.baselines import StartingPoints
from distributed.searches.pages.forecast import duration, plan_sentence, seconds_left
from distributed.searches.state.records import SearchJob, SearchLog
from distributed.searches.state.standings import Standings


def planned(folds: int = 1, **options: Any) -> str:
    defaults = {"trials": 20, "time_budget": 0.0, "replicates": 3, "best": 3, "ensemble": 10}
    search: Any = SimpleNamespace(
        setup=SimpleNamespace(options={**defaults, **options}, folds=folds),
        starting_points=StartingPoints(
            {"defaults": {}, "concatenation": {}},
            (SearchJob(name="x", kind="portfolio", label="x"),),
        ),
        has_test_rows=True,
    )
    return plan_sentence(search)


def test_the_plan_counts_what_is_named_searched_and_repeated() -> None:
    assert planned() == (
        "20 configurations: the starting point, 1 baselines, 1 of the portfolio and 17 that are"
        " searched; then 3 fresh seeds of the best 3 and of the starting point; then the model,"
        " of up to 10 configurations; at last the test split"
    )
    limited = planned(time_budget=600.0, replicates=1, ensemble=0)
    assert "at most 20 configurations" in limited
    assert "as far as 600 s allow" in limited
    assert "then 1 fresh seed of" in limited
    assert "model" not in limited
    folded = planned(folds=5, best=2)
    assert "the best 2 and the starting point on up to 5 folds of the training" in folded
    assert "fresh seed" not in folded


def test_the_rest_is_the_mean_of_what_has_ended_times_what_is_left(tmp_path: Path) -> None:
    log = SearchLog(tmp_path)
    standings = Standings(log, ["balanced_accuracy"], replicates=1, best=1)
    for number, seconds in enumerate([10.0, 20.0]):
        assert seconds_left(standings, 6) is None
        job = SearchJob(name=f"{number}", kind="search", number=number)
        log.start(job)
        log.records[job.name].started = time.time() - seconds
        log.finish(job.name, "complete", {"balanced_accuracy": 0.5})
    for number in (2, 3):
        log.start(SearchJob(name=f"{number}", kind="search", number=number))
    # Two of six wait, one of the best and the starting point are repeated, two have just begun.
    assert seconds_left(standings, 6) == pytest.approx((4 * 15 + 2 * 15) / 2, abs=0.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "10 s"), (44, "40 s"), (100, "2 min"), (5000, "83 min"), (9000, "2.5 h")],
)
def test_durations_are_rough(seconds: float, text: str) -> None:
    assert duration(seconds) == text
