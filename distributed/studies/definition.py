"""A study as a TOML file: variants x conditions x seeds, made into cells for a data set. Only reading and checking; ablate.py runs them.

The format (every key but variants is optional):

  title, question   words for the report
  reference         the variant that all others are compared with (default: the first)
  metric            decides the main table (default: balanced_accuracy); tail is the metric of the rare classes (few_shot_accuracy;
                    rarest_accuracy: of the third of the classes with the fewest training rows before any cut, the same at every ratio)
  seeds             how many (default 5)
  set               settings of every cell, as inline tables or sections: set = { optim.epochs = 10 }

  [[variants]]      name, and what it changes: set = { fusion.kind = "uniform" }
      model         "network" (default) or "boosting": gradient boosting on the table, no settings of the network
      test          test-time changes, see below; variants that differ only in them share one trained model
      each          "modality": one variant a modality; {modality} and {others} stand for its name and the other names
      grid          one variant a combination: grid = { experts.count = [1, 3] }, and {experts.count} in the name stands for the value
  [[conditions]]    name, set, each, grid as above, for training and test; a variant that names {modality} or {others} without `each`
                    takes them from the condition, and is left out where the condition has none
      test          changes of the test alone: corrupt = "image=noise:0.5", shift = "forward-50", aggregation = "stability",
                    unfamiliar = "trusted" (go by modalities unlike anything in training)
      axis, at      conditions of one axis are drawn as a curve over `at` (a number or a name)
  [[claims]]        text, variant, and what to look at: metric, against (a variant), at_least or at_most (in the metric's own unit,
                    0.02 is two points), conditions (names; default all). {modality} comes from the condition.

{shares=KIND} stands for every modality corrupted by KIND in its own share, 1 / (M + 1), of the rows: {shares=missing}.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed.config import AGGREGATIONS, Config, apply_changes, flatten
from model.metrics.names import check_name

STUDIES = Path(__file__).resolve().parents[2] / "search_spaces" / "studies"
MODELS = {
    "network": "network",
    "boosting": "boosting, the best on validation",
}  # a change of what it does is another word
TEST_KEYS = ("corrupt", "shift", "aggregation", "unfamiliar")
RAREST_ACCURACY = "rarest_accuracy"  # of the third of the classes that has the fewest training rows before any cut
KEYS = {
    "study": (
        "title",
        "question",
        "reference",
        "metric",
        "tail",
        "seeds",
        "set",
        "variants",
        "conditions",
        "claims",
    ),
    "variant": ("name", "set", "model", "test", "each", "grid"),
    "condition": ("name", "set", "test", "each", "grid", "axis", "at"),
    "claim": ("text", "variant", "metric", "against", "at_least", "at_most", "conditions"),
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A variant or a condition with its placeholders filled in, all but those of the other kind."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    model: str = "network"
    common: str = (
        ""  # its name over data sets: `only the image`, whatever each of them calls its only image
    )
    axis: str = ""
    at: float | str | None = None
    bound: dict[str, str] = field(
        default_factory=dict
    )  # what {modality} and {others} stand for here


@dataclass(frozen=True, kw_only=True)
class Claim:
    text: str
    variant: str
    metric: str
    against: str = ""
    at_least: float | None = None
    at_most: float | None = None
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study:
    name: str
    title: str
    question: str
    reference: str
    metric: str
    tail: str
    seeds: int
    settings: dict[str, Any]
    variants: tuple[dict[str, Any], ...]
    conditions: tuple[dict[str, Any], ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the study: a variant under a condition with a seed. Cells of one `training` share a trained model."""

    variant: str
    condition: str
    seed: int
    model: str
    settings: dict[str, Any]
    test: dict[str, Any]

    def training(self, data: str) -> str:
        """Names what is trained: a digest of the whole configuration and of the data set, never of names or paths."""
        config = flatten(apply_changes(Config(), self.settings))
        if self.model != "network":
            config = {k: v for k, v in config.items() if k.startswith("data.") or k == "optim.seed"}
        plain = {"data": data, "model": MODELS[self.model], "config": config}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    def key(self, data: str) -> str:
        return hashlib.sha256(
            f"{self.training(data)} {json.dumps(self.test, sort_keys=True)}".encode()
        ).hexdigest()[:16]


def study_names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def read_study(word: str) -> Study:
    """A shipped study by name or one's own by path; every mistake in it is one ValueError."""
    path = STUDIES / f"{word}.toml" if word in study_names() else Path(word)
    if not path.is_file():
        near = difflib.get_close_matches(word, study_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"--study must be a shipped study or a TOML file that exists; got {word!r}; {hint}shipped: {', '.join(study_names())}"
        )
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--study must be valid TOML; {path}: {error}") from None
    try:
        return parse_study(plain, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_study(plain: Mapping[str, Any], name: str) -> Study:
    """Checks keys and types; settings are checked in `expand`, when placeholders are filled in."""
    _check_keys(plain, "study", "the study")
    variants, conditions = (_entries(plain, kind) for kind in ("variants", "conditions"))
    if not variants:
        raise ValueError("a study needs at least one [[variants]] entry; got none")
    for entry in variants:
        if entry.get("model", "network") not in MODELS:
            raise ValueError(
                f"model must be one of {', '.join(MODELS)}; got {entry['model']!r} in variant {entry['name']!r}"
            )
    seeds = plain.get("seeds", 5)
    if type(seeds) is not int or seeds < 1:
        raise ValueError(f"seeds must be a whole number of at least 1; got {seeds!r}")
    return Study(
        name=name,
        title=_word(plain, "title", name),
        question=_word(plain, "question", ""),
        reference=_word(plain, "reference", variants[0]["name"]),
        metric=_metric("metric", _word(plain, "metric", "balanced_accuracy")),
        tail=_metric("tail", _word(plain, "tail", "few_shot_accuracy")),
        seeds=seeds,
        settings=dotted_names(_table(plain, "set", "the study")),
        variants=tuple(variants),
        conditions=tuple(conditions or [{"name": "clean"}]),
        claims=tuple(_claim(entry) for entry in _list(plain, "claims")),
    )


def _entries(plain: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    one, entries = kind.removesuffix("s"), _list(plain, kind)
    for entry in entries:
        if not isinstance(entry.get("name"), str) or not entry["name"].strip():
            raise ValueError(f"every [[{kind}]] entry needs a name; got {entry!r}")
        where = f"{one} {entry['name']!r}"
        _check_keys(entry, one, where)
        if not isinstance(entry.get("axis", ""), str):
            raise ValueError(f"axis must be words; got {entry['axis']!r} in {where}")
        if type(entry.get("at", 0)) not in (int, float, str):
            raise ValueError(f"at must be a number or a word; got {entry['at']!r} in {where}")
        if entry.get("each", "modality") != "modality":
            raise ValueError(f"each must be 'modality'; got {entry['each']!r} in {where}")
        for name, values in dotted_names(_table(entry, "grid", where)).items():
            if not isinstance(values, list) or not values:
                raise ValueError(f"grid.{name} must be a list of values; got {values!r} in {where}")
        for name, value in _table(entry, "test", where).items():
            if name not in TEST_KEYS or not isinstance(value, str):
                raise ValueError(
                    f"test takes words for {', '.join(TEST_KEYS)}; got {name} = {value!r} in {where}"
                )
        _check_test(entry.get("test", {}), where)
        _table(entry, "set", where)
    return entries


def _check_test(test: Mapping[str, str], where: str) -> None:
    if test.get("aggregation", "uniform") not in AGGREGATIONS:
        raise ValueError(
            f"test.aggregation must be one of {', '.join(AGGREGATIONS)}; got {test['aggregation']!r} in {where}"
        )
    if not re.fullmatch(r"|uniform|(forward|backward)-[1-9]\d*(\.\d+)?", test.get("shift", "")):
        raise ValueError(
            f"test.shift must be uniform, forward-K or backward-K with K of at least 1; got {test['shift']!r} in {where}"
        )
    if test.get("unfamiliar", "trusted") != "trusted":
        raise ValueError(
            f"test.unfamiliar must be trusted, or left out; got {test['unfamiliar']!r} in {where}"
        )


def _claim(entry: Mapping[str, Any]) -> Claim:
    _check_keys(entry, "claim", f"claim {entry.get('text', '')!r}")
    for name in ("text", "variant", "metric"):
        if not isinstance(entry.get(name), str):
            raise ValueError(f"every [[claims]] entry needs {name}; got {dict(entry)!r}")
    where = f"claim {entry['text']!r}"
    if not entry.get("against") and "at_least" not in entry and "at_most" not in entry:
        raise ValueError(f"a claim needs against, at_least or at_most; got {dict(entry)!r}")
    if entry["variant"] == entry.get("against"):
        raise ValueError(
            f"a claim must compare two variants; got {entry['variant']!r} twice in {where}"
        )
    for name in ("at_least", "at_most"):
        if type(entry.get(name, 0.0)) not in (int, float):
            raise ValueError(f"{name} must be a number; got {entry[name]!r} in {where}")
    conditions = entry.get("conditions", [])
    if not isinstance(conditions, list) or not all(isinstance(c, str) for c in conditions):
        raise ValueError(f"conditions must be a list of names; got {conditions!r} in {where}")
    _word(entry, "against", "")
    if not entry["metric"].startswith(("weight/", "confidence/", "unfamiliar/", "expert_weight/")):
        _metric(f"{where}: metric", entry["metric"])
    return Claim(**{**entry, "conditions": tuple(conditions)})


def _metric(name: str, metric: str) -> str:
    check_name(name, metric, "train_seconds", RAREST_ACCURACY)
    return metric


def _check_keys(entry: Mapping[str, Any], kind: str, where: str) -> None:
    unknown = sorted(set(entry) - set(KEYS[kind]))
    if unknown:
        raise ValueError(
            f"{where} has an unknown key: {', '.join(unknown)}; valid: {', '.join(KEYS[kind])}"
        )


def _list(plain: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    found = plain.get(kind, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{kind} must be written as [[{kind}]] entries; got {found!r}")
    return found


def _table(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = entry.get(key, {})
    if not isinstance(found, dict):
        raise ValueError(
            f"{key} must be a table such as {{ fusion.kind = 'uniform' }}; got {found!r} in {where}"
        )
    return found


def _word(plain: Mapping[str, Any], key: str, default: str) -> str:
    found = plain.get(key, default)
    if not isinstance(found, str):
        raise ValueError(f"{key} must be text; got {found!r}")
    return found


def dotted_names(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(
            dotted_names(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat
