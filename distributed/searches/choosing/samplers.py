"""Optuna for a search: samplers by name, and the study in a storage."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from distributed.runtime.errors import OptionError
from distributed.searches.choosing.prior_sampler import PriorSampler
from distributed.searches.choosing.priors import PriorTrial
from distributed.searches.state.records import SettingValues

DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}


@dataclass(frozen=True)
class Surroundings:
    """What the prior sampler draws around; the fields are arguments of PriorSampler."""

    ask: Callable[[PriorTrial], object]
    start: SettingValues
    smooth_metric: str = ""


@dataclass(frozen=True)
class SamplerInput:
    """What a sampler is made from.

    seed: of the search. seen: trials that the study has. trials: budget of the search.
    surroundings: of the prior sampler.
    """

    seed: int
    seen: int
    trials: int
    surroundings: Surroundings | None = None

    @property
    def fresh_seed(self) -> int:
        """A seed with which a restart repeats no draw, for samplers that draw one after another."""
        return self.seed + self.seen


def _prior(given: SamplerInput) -> BaseSampler:
    around = given.surroundings
    if around is None:
        raise ValueError("sampler prior needs a search to draw around; got none")
    return PriorSampler(
        given.seed, given.trials, around.ask, around.start, smooth_metric=around.smooth_metric
    )


def _tpe(given: SamplerInput) -> BaseSampler:
    return optuna.samplers.TPESampler(
        seed=given.fresh_seed,
        multivariate=True,
        group=True,
        constant_liar=True,
        n_startup_trials=_startup_trials(given.trials),
    )


def _random(given: SamplerInput) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=given.fresh_seed)


def _cmaes(given: SamplerInput) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        seed=given.fresh_seed,
        n_startup_trials=min(5, given.trials),
        warn_independent_sampling=False,
    )


def _gp(given: SamplerInput) -> BaseSampler:
    return optuna.samplers.GPSampler(
        seed=given.fresh_seed,
        n_startup_trials=_startup_trials(given.trials),
        deterministic_objective=False,
    )


def _nsga2(given: SamplerInput) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(
        seed=given.fresh_seed, population_size=max(4, min(50, given.trials // 4))
    )


def _startup_trials(trials: int) -> int:
    """Random trials before the sampler's model takes over: a third of all, between 4 and 10."""
    return max(4, min(10, trials // 3))


SAMPLERS: dict[str, Callable[[SamplerInput], BaseSampler]] = {
    "prior": _prior,
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
            "sampler cmaes takes one metric; with several use prior, tpe, random, gp or nsga2",
            "sampler",
        )


def open_study(
    storage: BaseStorage,
    name: str,
    directions: list[str],
    sampler: str,
    seed: int,
    trials: int,
    surroundings: Surroundings | None = None,
) -> optuna.Study:
    """Returns the study of that name, which is created if the storage has none.

    directions: `min` or `max` for every metric.
    seed, trials, surroundings: as in SamplerInput.
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
    seen = len(study.get_trials(deepcopy=False))
    study.sampler = SAMPLERS[sampler](SamplerInput(seed, seen, trials, surroundings))
    return study
