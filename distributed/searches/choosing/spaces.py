"""Search spaces by name or by path, and how a space is asked for the settings of a trial."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from distributed.runtime.errors import OptionError
from distributed.runtime.suggestions import valid_names
from distributed.searches.choosing.priors import Prior, PriorTrial
from distributed.searches.state.records import SettingValue, SettingValues
from search_spaces import experts, full, fusion, margins, optimisation

OptunaTrial = optuna.Trial | optuna.trial.FixedTrial | PriorTrial
# A space calls trial.suggest_... with names of settings and may return further settings.
Space = Callable[..., Mapping[str, SettingValue] | None]

SPACES: dict[str, Space] = {
    "margins": margins.space,
    "experts": experts.space,
    "fusion": fusion.space,
    "optimisation": optimisation.space,
    "full": full.space,
}


def load_space(name: str) -> Space:
    """Returns a shipped space by name, or the space in a Python file by path."""
    if name in SPACES:
        return SPACES[name]
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise OptionError(
            f"space must be a shipped space or a Python file that exists; got {name!r}; "
            f"{valid_names(name, SPACES)}",
            "space",
        )
    spec = importlib.util.spec_from_file_location(f"own_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise OptionError(
            f"space must be a Python file that loads; {path}: {type(error).__name__}: {error}",
            "space",
        ) from None
    # Functions that the file imports do not count.
    functions: dict[str, Space] = {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    if "space" in vars(module):
        space: Space = vars(module)["space"]
        return space
    if len(functions) != 1:
        raise ValueError(
            "a space file must hold a function space(trial), or one public function;"
            f" {path} holds {len(functions)}"
        )
    return next(iter(functions.values()))


class RecordingTrial:
    """Stands between a space and Optuna's trial: records every setting that the space asks for.

    Settings that the user holds fixed (pins) are answered here and never sampled. What a space says
    of a setting's prior (width, keep, centre) is for the prior sampler: Optuna never sees it.
    """

    def __init__(self, trial: OptunaTrial, pins: SettingValues) -> None:
        self.trial, self.pins = trial, pins
        self.settings: dict[str, SettingValue] = {}

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
        width: float | None = None,
        centre: float | None = None,
    ) -> SettingValue:
        prior = self._prior(width=width, centre=centre)
        if name in self.pins:
            return self._record(name, self.pins[name])
        value = self.trial.suggest_float(name, low, high, step=step, log=log, **prior)
        return self._record(name, value)

    def suggest_int(
        self,
        name: str,
        low: int,
        high: int,
        *,
        step: int = 1,
        log: bool = False,
        width: float | None = None,
        centre: int | None = None,
    ) -> SettingValue:
        prior = self._prior(width=width, centre=centre)
        if name in self.pins:
            return self._record(name, self.pins[name])
        value = self.trial.suggest_int(name, low, high, step=step, log=log, **prior)
        return self._record(name, value)

    def suggest_categorical(
        self,
        name: str,
        choices: Sequence[SettingValue],
        *,
        keep: float | None = None,
        centre: SettingValue | None = None,
    ) -> SettingValue:
        prior = self._prior(keep=keep, centre=centre)
        if name in self.pins:
            return self._record(name, self.pins[name])
        choice = self.trial.suggest_categorical(name, choices, **prior)
        assert choice is not None  # no setting has None as a value
        return self._record(name, choice)

    def _prior(self, **fields: Any) -> dict[str, Any]:
        """Checks the fields of a setting's prior; returns them for a trial that takes them."""
        Prior(**fields)
        return fields if isinstance(self.trial, PriorTrial) else {}

    def _record(self, name: str, value: SettingValue) -> SettingValue:
        self.settings[name] = value
        return value

    def __getattr__(self, name: str) -> object:
        if name.startswith("suggest_"):
            raise ValueError(
                "a space must ask by suggest_float (step, log), suggest_int or suggest_categorical;"
                f" got {name}"
            )
        return getattr(self.trial, name)


def ask(
    space: Space, trial: OptunaTrial, pins: SettingValues | None = None
) -> dict[str, SettingValue]:
    """Returns a trial's settings: those that the space asks for, then those that it returns.

    pins: settings held fixed, which replace both.
    """
    pins = pins or {}
    recorder = RecordingTrial(trial, pins)
    constants = space(recorder) or {}
    if not isinstance(constants, Mapping):
        raise ValueError(f"a space returns a dict of settings, or nothing; got {constants!r}")
    fixed_constants = {name: value for name, value in pins.items() if name in constants}
    return {**recorder.settings, **constants, **fixed_constants}


def probe(
    space: Space, values: SettingValues, pins: SettingValues | None = None
) -> dict[str, SettingValue] | None:
    """Returns the trial's settings where `values` answer every question of the space.

    None where the space cannot express them: a value is missing or outside its range.
    """
    answered = answer(space, values, pins)
    return None if answered is None else ask(space, answered, pins)


def answer(
    space: Space, values: SettingValues, pins: SettingValues | None = None
) -> optuna.trial.FixedTrial | None:
    """Returns a trial that has answered every question of the space by `values`.

    None where the space cannot express them: a value is missing or outside its range.
    """
    trial = optuna.trial.FixedTrial(dict(values))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask(space, trial, pins)
    except (ValueError, UserWarning):
        return None
    return trial


def setting_names(space: Space, pins: SettingValues | None = None, draws: int = 200) -> list[str]:
    """Returns every setting that the space may ask for, found by drawing from it at random."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names: dict[str, None] = {}  # in the order of the questions
    try:
        for _ in range(draws):
            names.update(dict.fromkeys(ask(space, study.ask(), pins)))
    except Exception as error:  # the space is the user's own code
        raise OptionError(
            f"space must answer every trial with settings; got {type(error).__name__}: {error}",
            "space",
        ) from None
    return list(names)
