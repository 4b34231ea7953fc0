"""What a study consists of: variants, conditions, claims, and the cells that they give."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal, Required, TypedDict

from distributed.config import RENAMED, Config, apply_changes, flatten

Settings = dict[str, object]  # dotted settings as a study file gives them
MODELS = ("network", "boosting")
# Part of the key of every boosting cell: raise it when the baseline changes so that old results of
# it no longer count. Version 2 takes the size and the number of trees that validation prefers.
BOOSTING_VERSION = 2
# Accuracy of the third of the classes with the fewest training rows before any cut.
RAREST_ACCURACY = "rarest_accuracy"


class Entry(TypedDict, total=False):
    """A [[variants]] or [[conditions]] entry of a study file, as it stands there."""

    name: Required[str]
    set: dict[str, object]
    model: str
    test: dict[str, str]
    each: Literal["modality"]
    grid: dict[str, object]
    axis: str
    at: int | float | str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A variant or a condition on a data set, its placeholders filled in.

    Placeholders of a variant that only its condition can fill are still open.

    common_name: its name in means over data sets: `only the image` instead of `only photo`.
    axis, at: the axis along which conditions are drawn as a curve, and the place on it.
    placeholders: what {modality} and {others} stand for in a condition of one modality.
    """

    name: str
    settings: Settings = field(default_factory=dict)
    test: dict[str, str] = field(default_factory=dict)
    model: str = "network"
    common_name: str = ""
    axis: str = ""
    at: float | str | None = None
    placeholders: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that the study checks: a variant's metric against another variant's, or a limit.

    conditions: the names of the conditions under which it is checked; none: all.
    """

    text: str
    variant: str
    metric: str
    against: str = ""
    at_least: float | None = None
    at_most: float | None = None
    conditions: tuple[str, ...] = ()

    @property
    def has_limit(self) -> bool:
        return self.at_least is not None or self.at_most is not None


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as its file declares it, checked as far as that is possible without a data set.

    reference: the variant with which the others are compared.
    metric, tail: the metric that decides, and the one of the rare classes.
    seeds: how many seeds a cell is repeated with.
    settings: dotted settings of every cell.
    """

    name: str
    title: str
    question: str
    reference: str
    metric: str
    tail: str
    seeds: int
    settings: Settings
    variants: tuple[Entry, ...]
    conditions: tuple[Entry, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One result of the study: a variant under a condition with a seed.

    Cells with the same training key share one trained model; only `test` and the names may differ.

    test: changes of the test split: corrupt, shift, aggregation, unfamiliar.
    """

    variant: str
    condition: str
    seed: int
    model: str
    settings: Settings
    test: dict[str, str]

    @property
    def config(self) -> Config:
        return apply_changes(Config(), self.settings)

    @property
    def test_corruption(self) -> str:
        """How the test rows are corrupted: as in training, and as `test` says on top."""
        return join_corruptions(
            str(self.settings.get("data.corrupt", "")), self.test.get("corrupt", "")
        )

    def training_key(self, data_digest: str) -> str:
        """Digest of what is trained: the configuration and the rows, but no names or paths."""
        identity: dict[str, object] = {"data": data_digest, "model": self.model}
        # Settings have their first names here: a study from before a renaming can be resumed.
        first_names = {new: old for old, new in RENAMED.items()}
        settings = {
            first_names.get(name, name): value for name, value in flatten(self.config).items()
        }
        if self.model == "boosting":
            settings = {
                name: value
                for name, value in settings.items()
                if name.startswith("data.") or name == "optim.seed"
            }
            identity["version"] = BOOSTING_VERSION
        identity["config"] = settings
        return _digest(json.dumps(identity, sort_keys=True))

    def key(self, data_digest: str) -> str:
        """Digest of the training and of the test changes: equal for cells with equal results."""
        return _digest(f"{self.training_key(data_digest)} {json.dumps(self.test, sort_keys=True)}")


def join_corruptions(*corruptions: str) -> str:
    """Several corruptions as one setting."""
    return ",".join(corruption for corruption in corruptions if corruption)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
