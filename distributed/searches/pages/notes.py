"""Sentences about a search as a whole, for its report and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distributed import config
from distributed.searches.class_rows import few_shot_note
from distributed.searches.resolution import resolution_note
from distributed.searches.setup import CheckedSearch, Setup
from distributed.searches.state.records import SettingValues


@dataclass(frozen=True)
class SearchNotes:
    """What is known before the first trial; "" where there is nothing to say.

    budget: from budget_note. resolution: from resolution_note.
    data: name of the data set. rows: how many the splits have.
    few_shot_val, few_shot_test: on how many rows of the split few-shot accuracy rests.
    """

    budget: str = ""
    resolution: str = ""
    data: str = ""
    rows: str = ""
    few_shot_val: str = ""
    few_shot_test: str = ""


def search_notes(search: CheckedSearch) -> SearchNotes:
    return SearchNotes(
        budget=budget_note(search),
        resolution=resolution_note(search.setup.metrics[0], search.val_rows),
        data=data_name(search.setup),
        rows=", ".join(
            f"{sum(rows.values()):,} {split} rows"
            for split, rows in (("validation", search.val_rows), ("test", search.test_rows))
            if rows
        ),
        few_shot_val=few_shot_note(search.val_rows, search.few_shot),
        few_shot_test=few_shot_note(search.test_rows, search.few_shot),
    )


def data_name(setup: Setup) -> str:
    """What a reader calls the data: the last part of its place that says something."""
    if not setup.options["data"]:
        return "the built-in wafers"
    parts = [part for part in setup.shards.split("/") if part]
    return "/".join(parts[-2:] if parts[-1] == "shards" else parts[-1:])


def budget_note(search: CheckedSearch) -> str:
    """What best.toml has in the place of the search's small settings; "" where there are none.

    Settings that the space asks for are the winner's.
    """
    names = [name for name in search.setup.small if name not in search.searched]
    if not names:
        return ""
    small = _listed(config.flatten(search.setup.settings), names)
    whole = _listed(config.flatten(config.Config()), names)
    return f"The search ran with small settings ({small}); best.toml has the full ones ({whole})."


def _listed(settings: SettingValues, names: Iterable[str]) -> str:
    return " ".join(f"{name}={settings[name]}" for name in names)
