"""The jobs of a search and what became of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.metrics.names import METRICS as DECLARED

SEARCH_METRICS = (*DECLARED, "train_seconds")


@dataclass(frozen=True)
class SearchJob:
    """One training run: a trial, a named configuration outside the space, a replicate with another seed, or the test of the winner."""

    name: str
    kind: str  # search, named, replicate, test
    label: str = ""  # defaults, concatenation, ...
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # dotted changes to the search's base configuration
    number: int | None = None  # of the Optuna trial
    of: str = ""  # the configuration that a replicate or a test repeats
    seed: int | None = None  # replaces optim.seed
    state: str = ""  # name of the job whose saved state this one goes on from; empty is its own

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "settings": dict(self.settings)}


@dataclass
class SearchRecord:
    """A job and what became of it."""

    job: SearchJob
    state: str = (
        "running"  # running, complete, stopped (early, by the stopper or the time budget), failed
    )
    reason: str = ""
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of validation; of test for a test job
    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch
    started: float = 0.0
    seconds: float = 0.0  # wall time of the job in the sitting that ended it

    @property
    def name(self) -> str:
        return self.job.name

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "job": self.job.to_dict()}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
