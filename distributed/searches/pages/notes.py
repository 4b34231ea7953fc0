"""Sentences about a search as a whole, for its report and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distributed import config
from distributed.searches.records import SettingValues
from distributed.searches.resolution import resolution_note
from distributed.searches.setup import CheckedSearch


@dataclass(frozen=True)
class SearchNotes:
    """What is known before the first trial; "" where there is nothing to say.

    budget: from budget_note. resolution: from resolution_note.
    """

    budget: str = ""
    resolution: str = ""


def search_notes(search: CheckedSearch) -> SearchNotes:
    return SearchNotes(
        budget=budget_note(search),
        resolution=resolution_note(search.setup.metrics[0], search.val_rows),
    )


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
