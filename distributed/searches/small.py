"""The small settings and options of a search on the built-in wafers, and of a quick one."""

from __future__ import annotations

from distributed.searches.state.records import SettingValue

# With these a whole search on the built-in wafers takes less than four minutes on two cores.
DEMO_OPTIONS = {"trials": 16, "replicates": 1, "best": 1, "folds": 1}
DEMO_SETTINGS: dict[str, SettingValue] = {
    "optim.epochs": 8,
    "data.max_rows": 2000,
    "image.width": 16,
}
QUICK_SEARCH_SETTINGS: dict[str, SettingValue] = {
    "optim.epochs": 3,
    "data.max_rows": 500,
    "image.width": 8,
    "dim": 32,
    "table.width": 32,
}
# What a search on the built-in wafers shows in the end: half of the maps are destroyed.
WAFERS_CORRUPT = "map=noise:0.5"
QUICK_OPTIONS = {"trials": 9, "replicates": 1, "best": 1, "portfolio": "none", "folds": 1}
