"""The options of a search as experiment.json has them, and what a later --resume may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict, cast

from distributed.runtime.errors import OptionError
from distributed.runtime.redaction import blank_parameters
from distributed.searches.options import SearchOptions
from distributed.searches.small import DEMO_OPTIONS, QUICK_OPTIONS

# Options that a later --resume may change.
CHANGEABLE = (
    "trials",
    "concurrent",
    "time_budget",
    "replicates",
    "best",
    "ensemble",
    "distil",
    "corrupt",
    "sampler",
    "stopper",
)


class RecordedOptions(TypedDict):
    """The options in experiment.json: those of SearchOptions but out and resume, with values.

    set: also holds the option `workers`, as scaling.workers=N.
    """

    data: str
    space: str
    portfolio: str
    learn_from: list[str]
    trials: int
    concurrent: int
    metric: str
    time_budget: float
    storage: str
    study: str
    sampler: str
    stopper: str
    replicates: int
    best: int
    folds: int
    ensemble: int
    distil: bool
    corrupt: str
    seed: int
    config: str
    quick: bool
    set: list[str]


def merge_options(options: SearchOptions, recorded: RecordedOptions | None) -> RecordedOptions:
    """Every option's value: as given, else as recorded, else its default."""
    names = RecordedOptions.__annotations__
    if recorded:
        # The search began before there were these.
        recorded.setdefault("folds", 1)
        recorded.setdefault("distil", False)
    given = {name: getattr(options, name) for name in names if name != "set"}
    fixed = list(options.set or ())
    if options.workers is not None:
        fixed.append(f"scaling.workers={options.workers}")
    given["set"] = fixed or None
    given["storage"] = blank_parameters(options.storage) if options.storage else None
    if options.learn_from is not None:
        given["learn_from"] = list(options.learn_from)  # as JSON has it
    given = {name: value for name, value in given.items() if value is not None}
    _check_folds(given, fixed)
    if recorded:
        for name, value in given.items():
            before = cast("dict[str, object]", recorded)[name]
            if name not in CHANGEABLE and value != before:
                raise OptionError(
                    f"a resumed search must keep its {name}; it was {before!r}, got {value!r}", name
                )
    fields = dataclasses.fields(SearchOptions)
    defaults = {f.name: f.metadata["otherwise"] for f in fields if f.name in names}
    defaults |= {"set": [], "learn_from": []}
    small = QUICK_OPTIONS if options.quick else {} if options.data else DEMO_OPTIONS
    return cast(RecordedOptions, {**defaults, **small, **(recorded or {}), **given})


def _check_folds(given: dict[str, Any], fixed: Sequence[str]) -> None:
    """Refuses folds beside fresh seeds; where these alone are given there are no folds."""
    if any(pair.startswith("data.fold") for pair in fixed):
        raise OptionError(
            "the folds of a search are given as folds; set may not name data.folds or data.fold",
            "set",
            "folds",
        )
    if given.get("replicates") and given.setdefault("folds", 1) > 1:
        raise OptionError(
            "the best are run again with fresh seeds (replicates) or on all folds (folds), not"
            f" both; got replicates {given['replicates']} and folds {given['folds']}",
            "replicates",
            "folds",
        )
