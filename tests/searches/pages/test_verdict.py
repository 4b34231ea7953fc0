"""What a search may say of its best configuration, and how its scores are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scipy import stats

from distributed.searches.choosing.baselines import STARTING_POINT
from distributed.searches.pages import tables, verdict
from distributed.searches.state.records import SearchJob, SearchLog
from distributed.searches.state.standings import Standings


def searched(
    folder: Path, metric: str, runs: dict[str, list[float]], start: str = "defaults"
) -> Standings:
    """Returns a search whose configurations have these values over fresh seeds, the start first."""
    standings = Standings(
        SearchLog(folder), [metric], replicates=len(next(iter(runs.values()))), best=9
    )
    jobs = [SearchJob(name=n, kind="search", label="" if i else start) for i, n in enumerate(runs)]
    for job in jobs:
        for seed, value in enumerate([sum(runs[job.name]), *runs[job.name]]):
            again = (
                SearchJob(
                    name=f"{job.name}-seed{seed}",
                    kind="replicate",
                    of=job.name,
                    seed=seed,
                    label=job.label,
                )
                if seed
                else job
            )
            standings.log.start(again)
            standings.log.finish(again.name, "complete", {metric: value})
    return standings


def test_a_search_says_what_three_seeds_cannot_show(tmp_path: Path) -> None:
    three = searched(
        tmp_path / "3", "balanced_accuracy", {"0000": [0.5, 0.6, 0.7], "0001": [0.7, 0.75, 0.8]}
    )
    assert tables.comparison_table(three).caption.endswith(
        "mean of 3 fresh seeds with its 95 % interval, which of 3 seeds covers at most 75 %)"
    )
    assert "covers at most 75 %" in verdict.seed_limits(three)
    many = searched(
        tmp_path / "8", "balanced_accuracy", {"0000": [0.5 + 0.01 * i for i in range(8)]}
    )
    assert (
        tables.comparison_table(many).caption
        == "Best and baselines (mean of 8 fresh seeds with its 95 % interval)"
    )
    assert verdict.seed_limits(many) == ""


def test_the_best_of_a_search_is_corrected_for_all_that_were_compared(tmp_path: Path) -> None:
    start, gaps = [0.50, 0.52, 0.49], [0.010, 0.012, 0.020]
    best = [a + b for a, b in zip(start, gaps)]
    others = {
        f"000{i}": [v - 0.002 * i + 0.011 * (-1) ** (i + k) for k, v in enumerate(start)]
        for i in range(2, 6)
    }
    p = stats.ttest_1samp(gaps, 0).pvalue
    alone = searched(tmp_path / "alone", "balanced_accuracy", {"0000": start, "0001": best})
    comparison = verdict.compare_winner(alone, alone.winner())
    assert (comparison.family, comparison.t_holm) == (1, pytest.approx(p))
    assert "better than the defaults in balanced accuracy (+1.4 points" in verdict.verdict(alone)
    many = searched(
        tmp_path / "many",
        "balanced_accuracy",
        {"0000": start, "0001": best, **others},
        start=STARTING_POINT,
    )
    assert many.winner().record.name == "0001"
    comparison = verdict.compare_winner(many, many.winner())
    assert (comparison.family, comparison.t_holm) == (5, pytest.approx(5 * p))
    sentence = verdict.verdict(many)
    assert "does not survive the correction for 5 comparisons" in sentence
    assert "p is corrected for the 5 that were compared with the starting point" in sentence
    one_seed = searched(tmp_path / "one", "balanced_accuracy", {"0000": [0.7], "0001": [0.8]})
    assert verdict.verdict(one_seed).endswith("(one seed in common).")


def test_a_baseline_of_one_run_is_said_to_be_one_and_is_not_tested(tmp_path: Path) -> None:
    start = [0.50, 0.52, 0.49]
    best = [a + b for a, b in zip(start, [0.010, 0.012, 0.020])]
    standings = searched(tmp_path, "balanced_accuracy", {"0000": start, "0001": best})
    alone = verdict.compare_winner(standings, standings.winner())
    standings.best = 1
    for name, label, value in (("0002", "concatenation", 0.45), ("x", "one expert", 0.62)):
        kind = "named" if name == "x" else "search"
        standings.log.start(SearchJob(name=name, kind=kind, label=label))
        standings.log.finish(name, "complete", {"balanced_accuracy": value})
    assert standings.winner().record.name == "0001"
    assert verdict.compare_winner(standings, standings.winner()) == alone, "not one more test"
    table = tables.comparison_table(standings)
    assert table.caption.endswith("; others: one run)")
    shown = {row[0].text: (row[1].text, row[-1]) for row in table.rows}
    assert list(shown)[-2:] == [
        "a single expert",
        "plain concatenation: modalities count alike",
    ]
    assert shown["a single expert"] == ("62.0 % (1 run)", 1)
    assert shown["plain concatenation: modalities count alike"] == ("45.0 % (1 run)", 1)
    assert verdict.verdict(standings).endswith(
        "Of one run each, by which nothing is shown to be better or worse:"
        " a single expert 62.0 %, plain concatenation 45.0 % in balanced accuracy."
    )


def test_without_replicates_nothing_is_marked_as_a_single_run(tmp_path: Path) -> None:
    standings = searched(tmp_path, "balanced_accuracy", {"0000": [], "0001": []})
    assert standings.replicates == 0
    table = tables.comparison_table(standings)
    assert table.caption == "Best and baselines (one run each)"
    assert not any("1 run" in row[1].text for row in table.rows)
    assert verdict.single_runs(standings) == ""


def test_metrics_that_are_no_percentages_keep_their_digits(tmp_path: Path) -> None:
    experiment = searched(tmp_path, "nll", {"0000": [0.481, 0.493, 0.505]})
    (row,) = tables.comparison_table(experiment).rows
    assert re.fullmatch(r"0\.493 \(0\.48\d to 0\.50\d\)", row[1].text)
    assert verdict.interval(verdict.summarise([0.61, 0.63]), "accuracy") == " (61.0 to 63.0)"
