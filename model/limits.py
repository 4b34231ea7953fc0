"""The valid values of a setting or an option, and the words for a value that is none of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_SEED = 2**32 - 1  # of NumPy's older generators, which Optuna's samplers use
MAX_INT = 2**63 - 1  # of a 64-bit number, which torch, NumPy and Arrow compute with
TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


@dataclass(frozen=True)
class Limits:
    """The range of a number, or the choices of a text; a choice KIND:NAME stands for any name."""

    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The valid values in words: "between 0 and 1"; "" where there is no limit."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is not None and self.high is not None:
            return f"between {number_text(self.low)} and {number_text(self.high)}"
        if self.low is not None:
            return f"at least {number_text(self.low)}"
        return "" if self.high is None else f"at most {number_text(self.high)}"

    def broken_by(self, value: object) -> str:
        """Returns the rule that a value breaks, with the value; "" for a valid one."""
        if isinstance(value, bool):
            return ""
        if isinstance(value, int | float):
            return self._broken_by_number(value)
        if self.choices and not any(_matches(value, choice) for choice in self.choices):
            return f"must be {self.text}; got {value!r}"
        return ""

    def _broken_by_number(self, value: float) -> str:
        got = f"got {number_text(value)}"
        # Written as `not (value >= low)`, so that NaN, which compares to nothing, is refused.
        too_low = self.low is not None and not value >= self.low
        too_high = self.high is not None and not value <= self.high
        if too_low or too_high:
            return f"must be {self.text}; {got}"
        if isinstance(value, int) and abs(value) > MAX_INT:
            return f"must be at most {MAX_INT}; {got}"
        if not math.isfinite(value):
            return f"must be a finite number{f', {self.text}' if self.text else ''}; {got}"
        return ""


def number_text(value: float) -> str:
    """Returns a number without a superfluous fraction: 1, 0.9999, 1e-05."""
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _matches(value: object, choice: str) -> bool:
    """Returns whether the value is this choice."""
    kind, has_name, _ = choice.partition(":NAME")
    return value == choice or (bool(has_name) and str(value).startswith(f"{kind}:"))
