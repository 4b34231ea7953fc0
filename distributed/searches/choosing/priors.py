"""How settings are drawn around a value: what a space says of them, and the draw itself.

A prior around a number is a normal distribution that is cut to the setting's range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from distributed.searches.state.records import SettingValue, SettingValues, is_finite

DEFAULT_WIDTH = 0.2  # share of a setting's range
DEFAULT_KEEP = 0.7
ATTEMPTS = 20  # at a value other than the centre


@dataclass(frozen=True)
class Prior:
    """What a space says of a setting beside its range; None: the default.

    width: standard deviation of the normal distribution, as a share of the range (of the
        logarithmic one, where it is logarithmic).
    keep: probability that a categorical setting stays as it is, whenever it could change.
    centre: value around which the setting is drawn; None: that of the starting point.
    """

    width: float | None = None
    keep: float | None = None
    centre: SettingValue | None = None

    def __post_init__(self) -> None:
        if self.width is not None and not self.width > 0:
            raise ValueError(f"width must be above 0; got {self.width!r}")
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise ValueError(f"keep must be in 0 to 1; got {self.keep!r}")


@dataclass(frozen=True)
class Question:
    """A setting that a space asked for, and the answer."""

    distribution: BaseDistribution
    prior: Prior
    answer: SettingValue


@dataclass
class PriorTrial:
    """Answers a space as Optuna's trial does, from the starting point and an earlier trial.

    start: settings of the search's starting point.
    around: settings of the earlier trial, where the draw is around one.
    changed: the settings that are drawn anew; None: all, at random over their ranges.
    narrowing: factor of every width.
    draw: returns the random numbers of a setting.
    """

    start: SettingValues
    draw: Callable[[str], np.random.Generator]
    around: SettingValues = field(default_factory=dict)
    changed: frozenset[str] | None = frozenset()
    narrowing: float = 1.0
    questions: dict[str, Question] = field(default_factory=dict)

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
        **prior: Any,  # the fields of Prior
    ) -> SettingValue:
        return self._answer(name, FloatDistribution(low, high, log=log, step=step), Prior(**prior))

    def suggest_int(
        self,
        name: str,
        low: int,
        high: int,
        *,
        step: int = 1,
        log: bool = False,
        **prior: Any,  # the fields of Prior
    ) -> SettingValue:
        return self._answer(name, IntDistribution(low, high, log=log, step=step), Prior(**prior))

    def suggest_categorical(
        self,
        name: str,
        choices: Sequence[SettingValue],
        **prior: Any,  # the fields of Prior
    ) -> SettingValue:
        return self._answer(name, CategoricalDistribution(choices), Prior(**prior))

    def _answer(self, name: str, distribution: BaseDistribution, prior: Prior) -> SettingValue:
        if name not in self.questions:  # as Optuna, which answers a repeated question as before
            value = self._value(name, distribution, prior)
            self.questions[name] = Question(distribution, prior, value)
        return self.questions[name].answer

    def _value(self, name: str, distribution: BaseDistribution, prior: Prior) -> SettingValue:
        if self.changed is None:
            return at_random(distribution, self.draw(name))
        own_centre = self.start.get(name) if prior.centre is None else prior.centre
        centre = nearest(distribution, self.around.get(name, own_centre))
        if name not in self.changed:
            return centre
        width = self.narrowing * (DEFAULT_WIDTH if prior.width is None else prior.width)
        return another(distribution, centre, width, self.draw(name))

    @property
    def settings(self) -> dict[str, SettingValue]:
        return {name: question.answer for name, question in self.questions.items()}


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether the value is one that the distribution can give."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution._contains(float(value))


def nearest(distribution: BaseDistribution, value: object) -> SettingValue:
    """The value, where the distribution has it, else the one nearest to it, or the first choice."""
    if isinstance(distribution, CategoricalDistribution):
        choice = value if value in distribution.choices else distribution.choices[0]
        return _setting(choice)
    number = value if is_finite(value) else 0.0
    if contains(distribution, number):
        is_int = isinstance(distribution, IntDistribution)
        return int(number) if is_int else float(number)  # exactly: a logarithm would round it
    return _from_share(distribution, _to_share(distribution, number))


def at_random(distribution: BaseDistribution, rng: np.random.Generator) -> SettingValue:
    """A value drawn evenly from the whole range, or the logarithmic one."""
    if isinstance(distribution, CategoricalDistribution):
        return _setting(distribution.choices[int(rng.integers(len(distribution.choices)))])
    return _from_share(distribution, rng.random())


def another(
    distribution: BaseDistribution, centre: SettingValue, width: float, rng: np.random.Generator
) -> SettingValue:
    """A value other than the centre: of a number, from the normal distribution cut to the range."""
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if choice != centre]
        return _setting(others[int(rng.integers(len(others)))]) if others else centre
    normal = NormalDist(_to_share(distribution, float(centre)), width)
    low, high = normal.cdf(0.0), normal.cdf(1.0)
    for _ in range(ATTEMPTS):
        probability = min(max(rng.uniform(low, high), 1e-12), 1 - 1e-12)
        value = _from_share(distribution, normal.inv_cdf(probability))
        if value != centre:
            return value
    for _ in range(ATTEMPTS):  # the step is much wider than the prior
        value = at_random(distribution, rng)
        if value != centre:
            break
    return value


def _setting(choice: object) -> SettingValue:
    assert isinstance(choice, bool | int | float | str)
    return choice


def _bounds(distribution: BaseDistribution) -> tuple[float, float]:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


def _to_share(distribution: BaseDistribution, value: float) -> float:
    """Where a number lies in its range, 0 to 1."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _bounds(distribution)
    value = min(max(value, float(distribution.low)), float(distribution.high))
    position = math.log(value) if distribution.log else value
    return (position - low) / (high - low) if high > low else 0.0


def _from_share(distribution: BaseDistribution, share: float) -> SettingValue:
    """The number at this place of its range, on the nearest step."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = _bounds(distribution)
    share = min(max(share, 0.0), 1.0)
    value = low + share * (high - low)
    value = math.exp(value) if distribution.log else value
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + steps * distribution.step
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
