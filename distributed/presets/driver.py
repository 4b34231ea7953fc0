"""From a preset to a trained model: one training, or a search that ends with a model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import distributed
from distributed.config import by_dotted_name
from distributed.runtime.errors import OptionError
from distributed.runtime.option_values import check_options
from distributed.searches.options import SearchOptions
from distributed.training import driver
from distributed.training.options import QUICK, FitOptions

if TYPE_CHECKING:
    from distributed.searches.driver import SearchResult

FitInterrupted, FitResult = driver.FitInterrupted, driver.FitResult
# Of a time limit; the rest is for the choice of the networks and for the test.
SEARCHING_SHARE = 0.85


@dataclass(frozen=True)
class Preset:
    """How much is searched.

    trials: configurations. limited_trials: those where a time limit ends the search.
    ensemble: networks of the model, at most.
    """

    trials: int
    limited_trials: int
    ensemble: int


PRESETS = {
    "standard": Preset(trials=12, limited_trials=50, ensemble=5),
    "best": Preset(trials=60, limited_trials=500, ensemble=10),
}


def fit(options: FitOptions) -> driver.FitResult | SearchResult:
    """Trains on a SHARDS folder: once, or by the search that options.preset stands for.

    `load(options.out)` loads what has come of it.
    """
    options = check_options(FitOptions, options)
    if options.preset != QUICK:
        # Not imported above: Optuna takes seconds, which a single training need not spend.
        return distributed.search(search_options(options))
    if options.time_limit:
        raise OptionError(
            f"time_limit goes with preset standard or best; {QUICK} trains once: bound it by"
            " optim.epochs",
            *("time_limit", "preset"),
        )
    if options.distil:
        raise OptionError(
            f"distil goes with preset standard or best; {QUICK} trains one network anyway",
            *("distil", "preset"),
        )
    if options.folds is not None:
        raise OptionError(
            f"folds goes with preset standard or best; {QUICK} trains once: cut the rows anew by"
            " data.folds and data.fold",
            *("folds", "preset"),
        )
    return driver.fit(options)


def search_options(options: FitOptions) -> SearchOptions:
    """Returns the search that a preset stands for."""
    preset = PRESETS[options.preset]
    limited = options.time_limit > 0
    for name in ("keep_state", "no_page"):
        if getattr(options, name):
            raise OptionError(
                f"{name} goes with preset {QUICK}; the preset {options.preset} is a search", name
            )
    if isinstance(options.set, Mapping):
        settings = by_dotted_name(options.set)
        fixed = [f"{name}={value}" for name, value in settings.items()]
    else:
        fixed = list(options.set)
    if options.gpus_per_worker is not None:
        fixed.append(f"scaling.gpus_per_worker={options.gpus_per_worker}")
    return SearchOptions(
        data=options.data,
        config=options.config,
        set=tuple(fixed) or None,
        workers=options.workers,
        out=options.out or f"runs/{time.strftime('%Y%m%d-%H%M%S')}",
        resume=options.resume,
        trials=preset.limited_trials if limited else preset.trials,
        time_budget=SEARCHING_SHARE * options.time_limit if limited else None,
        replicates=0,
        folds=options.folds,
        distil=options.distil or None,
        ensemble=preset.ensemble,
    )
