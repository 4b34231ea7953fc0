"""Search spaces, one file for each theme.

Each file has a function `space(trial)` that suggests dotted settings. Beside a setting's range it
says how far from the starting point the prior sampler looks for it: `width`, for a number, is the
standard deviation as a share of the range; `keep`, for a choice, the probability that it stays as
it is. Where the default is known to be good, the width is small and the probability is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Choice = TypeVar("Choice")


class Trial(Protocol):
    """What a space asks: the methods of Optuna's trial, with what the prior sampler needs."""

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
    ) -> float: ...

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
    ) -> int: ...

    def suggest_categorical(
        self,
        name: str,
        choices: Sequence[Choice],
        *,
        keep: float | None = None,
        centre: Choice | None = None,
    ) -> Choice: ...
