"""What a search says of its budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed import config
from distributed.searches.options import SearchOptions
from distributed.searches.pages import report
from distributed.searches.pages.notes import SearchNotes, budget_note
from distributed.searches.pages.writer import write_tables
from distributed.searches.recorded import merge_options
from distributed.searches.setup import (
    CheckedSearch,
    Setup,
    check_search,
    prepare,
    read_setup,
)
from distributed.searches.small import QUICK_SEARCH_SETTINGS
from distributed.searches.state.records import SearchJob, SearchLog
from distributed.searches.state.standings import Standings

FULL = config.flatten(config.Config())


def searched(shards: str, **options: object) -> CheckedSearch:
    given = SearchOptions(data=shards, **options)
    return check_search(prepare(merge_options(given, None)))


def best_toml(folder: Path, search: CheckedSearch, **settings: object) -> dict[str, object]:
    """The settings of best.toml after a search whose only trial has these."""
    standings = Standings(SearchLog(folder), ["balanced_accuracy"])
    standings.log.start(SearchJob(name="0000", kind="search", settings=settings))
    standings.log.finish("0000", "complete", {"balanced_accuracy": 0.5})
    write_tables(standings, search.setup.lasting)
    return config.flatten(config.load_config(folder / "best.toml"))


def test_best_toml_has_the_full_budget_but_for_what_the_user_set(
    wafer_shards: str, tmp_path: Path
) -> None:
    own = tmp_path / "own.toml"
    own.write_text("dim = 48\n")
    search = searched(
        wafer_shards, quick=True, space="experts", config=str(own), set=("optim.epochs=4",)
    )
    assert search.setup.settings.optim.epochs == 4
    assert search.setup.settings.data.max_rows == QUICK_SEARCH_SETTINGS["data.max_rows"]
    best = best_toml(tmp_path, search, **{"experts.count": 2})
    assert (best["experts.count"], best["dim"], best["optim.epochs"]) == (2, 48, 4)
    for name in ("data.max_rows", "image.width", "table.width"):
        assert best[name] == FULL[name], name
    assert budget_note(search) == (
        "The search ran with small settings (data.max_rows=500 image.width=8 table.width=32);"
        " best.toml has the full ones (data.max_rows=0 image.width=24 table.width=128)."
    )
    search.setup.save(tmp_path)
    again = read_setup(tmp_path / "experiment.json", str(tmp_path))
    assert again is not None
    assert again.lasting == search.setup.lasting, "a resumed search writes the same"


def test_a_search_with_the_full_budget_says_nothing_of_it(
    wafer_shards: str, tmp_path: Path
) -> None:
    search = searched(wafer_shards, space="experts", set=("optim.epochs=3",))
    assert search.setup.lasting == search.setup.base
    assert budget_note(search) == ""


def test_a_setting_that_the_space_asks_for_is_the_winners(
    wafer_shards: str, tmp_path: Path
) -> None:
    space = tmp_path / "mine.py"
    space.write_text("def mine(trial):\n    trial.suggest_int('dim', 16, 64)\n")
    search = searched(wafer_shards, quick=True, space=str(space))
    assert best_toml(tmp_path, search, dim=20)["dim"] == 20
    assert " dim=" not in budget_note(search)
    assert "table.width=32" in budget_note(search)


def test_an_experiment_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    setup = Setup(merge_options(SearchOptions(), None), "shards", {"dim": 8}, {}, "x")
    setup.save(tmp_path)
    path = tmp_path / "experiment.json"
    text = path.read_text()
    path.write_text(text.replace(',\n "small": []', ""))
    assert path.read_text() != text
    assert read_setup(path, "x") == setup


@pytest.mark.parametrize("budget", ["", "The search ran with small settings."])
def test_the_report_has_the_note_beside_the_command(tmp_path: Path, budget: str) -> None:
    standings = Standings(SearchLog(tmp_path), ["balanced_accuracy"])
    standings.log.start(SearchJob(name="0000", kind="search", label="defaults"))
    standings.log.finish("0000", "complete", {"balanced_accuracy": 0.5})
    blocks = report.best_settings(standings, {}, FULL, "train.py", SearchNotes(budget=budget))
    texts = [block.text for block in blocks if isinstance(block, report.Text)]
    assert (budget in texts) == bool(budget)
