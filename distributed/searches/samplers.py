"""Optuna for a search: samplers by name, and the study in a storage."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from distributed.runtime.errors import OptionError

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}


def _tpe(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed,
        multivariate=True,
        group=True,
        constant_liar=True,
        n_startup_trials=_startup_trials(trials),
    )


def _random(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _cmaes(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        seed=seed, n_startup_trials=min(5, trials), warn_independent_sampling=False
    )


def _gp(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=_startup_trials(trials), deterministic_objective=False
    )


def _nsga2(seed: int, trials: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, trials // 4)))


def _startup_trials(trials: int) -> int:
    """Random trials before the sampler's model takes over: a third of all, between 4 and 10."""
    return max(4, min(10, trials // 3))


# name -> function of (seed, number of trials)
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "cmaes": _cmaes,
    "gp": _gp,
    "nsga2": _nsga2,
}


def check_sampler(sampler: str, metrics: int) -> None:
    """Refuses CMA-ES for several metrics."""
    if metrics > 1 and sampler == "cmaes":
        raise OptionError(
            "sampler cmaes takes one metric; with several use tpe, random, gp or nsga2", "sampler"
        )


def open_study(
    storage: BaseStorage, name: str, directions: list[str], sampler: str, seed: int, trials: int
) -> optuna.Study:
    """Returns the study of that name, which is created if the storage has none.

    directions: `min` or `max` for every metric.
    seed: of the sampler, which adds the number of trials so far: a restart repeats no draw.
    """
    requested = [DIRECTIONS[direction] for direction in directions]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=requested,
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),
    )
    existing = [direction.name.lower() for direction in study.directions]
    if existing != requested:
        raise OptionError(
            f"a study keeps its objectives; {name!r} in storage has {', '.join(existing)},"
            f" this search wants {', '.join(requested)}",
            "storage",
        )
    check_sampler(sampler, len(requested))
    study.sampler = SAMPLERS[sampler](seed + len(study.get_trials(deepcopy=False)), trials)
    return study
