"""The section on settings counts final scores only, and says how many there are."""

from __future__ import annotations

from pathlib import Path

from distributed.reporting.page import Figure, Text
from distributed.searches.pages import importance
from distributed.searches.state.records import SearchJob, SearchLog
from distributed.searches.state.standings import Standings

EPOCHS = 4


def searched(folder: Path, complete: int, stopped: int = 0) -> Standings:
    """Returns a search in which only the margin matters in the end, only the step size early."""
    log = SearchLog(folder)
    for number in range(complete + stopped):
        margin, rate = 0.1 * (number * 7 % 11), 0.001 * (number * 5 % 13)
        job = SearchJob(
            name=f"{number:04d}",
            kind="search",
            number=number,
            settings={"loss.margin": margin, "optim.lr": rate},
        )
        log.start(job)
        is_stopped = number >= complete
        for epoch in range(1, 3 if is_stopped else EPOCHS + 1):
            score = margin if epoch == EPOCHS else 100 * rate
            metrics = {"balanced_accuracy": 0.1 + 0.5 * score}
            log.add_epoch(job.name, {"epoch": epoch, "epochs": EPOCHS, "metrics": metrics})
        log.finish(job.name, "stopped" if is_stopped else "complete")
    log.start(SearchJob(name="map-alone", kind="named", settings={"data.modalities": "map"}))
    log.finish("map-alone", "complete", {"balanced_accuracy": 0.01})
    return Standings(log, ["balanced_accuracy"])


def test_importances_are_of_the_final_score_and_say_how_many_they_rest_on(tmp_path: Path) -> None:
    standings = searched(tmp_path, complete=12, stopped=20)
    first, *others = importance.space_figures(standings)
    assert isinstance(first, Figure)
    assert "over the 12 configurations that ran to their end; 20 that were stopped early" in (
        first.caption
    )
    (bars,) = first.figure.data
    shares = dict(zip(bars.y, bars.x))
    assert set(shares) == {"loss.margin", "optim.lr"}, "no setting of a baseline outside the space"
    assert shares["loss.margin"] > 0.8, "the early epochs do not count"
    assert [block.name for block in others if isinstance(block, Figure)] == [
        "slices",
        "contour",
        "parallel",
    ]


def test_with_too_few_final_scores_it_says_so(tmp_path: Path) -> None:
    first, *_ = importance.space_figures(searched(tmp_path, complete=5, stopped=9))
    assert isinstance(first, Text)
    assert "is shown from 8 configurations on" in first.text
    assert "only the 5 configurations that ran to their end; 9 that were stopped" in first.text


def test_the_parallel_figure_has_the_settings_that_matter_most(tmp_path: Path) -> None:
    standings = searched(tmp_path, complete=12)
    rows = [
        {**row, **{f"model.other_{i}": (n + i) % 2 for i in range(9)}}
        for n, row in enumerate(importance.final_rows(standings))
    ]
    names = [name for name in rows[0] if name not in ("trial", "balanced_accuracy")]
    shares = importance.compute_importances(rows, names, "balanced_accuracy")
    ordered = importance.by_importance(rows, names, shares)
    assert ordered[0] == "loss.margin"
    assert len(ordered) == 11
    without = importance.by_importance(rows, names, {})
    assert set(without[:2]) == {"loss.margin", "optim.lr"}, "those with the most values"
