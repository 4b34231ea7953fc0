"""Search spaces by name or by path, and what stands between a space and Optuna."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

from search_spaces import experts, full, fusion, margins, optimisation

Space = Callable[[Any], Mapping[str, Any] | None]

SPACES: dict[str, Space] = {
    "margins": margins.space,
    "experts": experts.space,
    "fusion": fusion.space,
    "optimisation": optimisation.space,
    "full": full.space,
}


def load_space(name: str) -> Space:
    """A shipped space by name, or the one function of a Python file by path."""
    if name in SPACES:
        return SPACES[name]
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(
            f"--space must be one of {', '.join(SPACES)} or a Python file that exists; got {name!r}"
        )
    spec = importlib.util.spec_from_file_location(f"own_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(
            f"--space must be a Python file that loads; {path}: {type(error).__name__}: {error}"
        ) from None
    own = [
        f
        for n, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__ and not n.startswith("_")
    ]
    if hasattr(module, "space"):
        return module.space  # type: ignore[no-any-return]
    if len(own) != 1:
        raise ValueError(
            f"a space file must hold a function space(trial), or one public function; {path} holds {len(own)}"
        )
    return own[0]


class RecordingTrial:
    """Stands between a space and its trial: notes every setting, and answers for those that the command line pins."""

    def __init__(self, trial: Any, pins: Mapping[str, Any]) -> None:
        self.trial, self.pins, self.settings = trial, pins, {}  # type: Any, Mapping[str, Any], dict[str, Any]

    def _ask(self, kind: str, name: str, *args: Any, **options: Any) -> Any:
        value = (
            self.pins[name]
            if name in self.pins
            else getattr(self.trial, kind)(name, *args, **options)
        )
        self.settings[name] = value
        return value

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        return self._ask("suggest_float", name, low, high, **options)

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        return self._ask("suggest_int", name, low, high, **options)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._ask("suggest_categorical", name, choices)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("suggest_"):
            raise ValueError(
                f"a space must ask by suggest_float (step, log), suggest_int or suggest_categorical; got {name}"
            )
        return getattr(self.trial, name)


def ask(space: Space, trial: Any, pins: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The dotted settings a space gives for this trial: those it asks for, then those it returns."""
    recorder = RecordingTrial(trial, pins or {})
    constants = space(recorder)
    return {
        **recorder.settings,
        **(constants or {}),
        **{k: v for k, v in (pins or {}).items() if k in (constants or {})},
    }


def probe(
    space: Space, values: Mapping[str, Any], pins: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """What the space asks for when every answer comes from `values`; None where it cannot express them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return ask(space, optuna.trial.FixedTrial(dict(values)), pins)
    except (ValueError, UserWarning):
        return None


def names(space: Space, pins: Mapping[str, Any] | None = None, draws: int = 200) -> list[str]:
    """Every setting that the space may ask for, found by drawing from it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found: dict[str, None] = {}
    for _ in range(draws):
        found.update(dict.fromkeys(ask(space, study.ask(), pins)))
    return list(found)
