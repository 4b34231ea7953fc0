"""A study is a TOML file: variants x conditions x seeds, which become cells on every data set.

The format (every key but variants is optional):

  title, question   shown in the report
  reference         the variant that all others are compared with (default: the first)
  metric            decides the main table (default: balanced_accuracy)
  tail              the metric of the rare classes (default: few_shot_accuracy); rarest_accuracy is
                    that of the third of the classes with the fewest training rows before any cut,
                    the same classes at every ratio
  seeds             how many (default 5)
  set               settings of every cell, as an inline table or a section:
                    set = { optim.epochs = 10 }

  [[variants]]      name, and what it changes: set = { fusion.kind = "uniform" }
      model         "network" (default), or "boosting": gradient boosting on the table, which
                    ignores the settings of the network
      test          changes at test time, see below; variants that differ only in them share one
                    trained model
      each          "modality": one variant per modality; {modality} and {others} stand for its name
                    and the other names
      grid          one variant per combination: grid = { experts.count = [1, 3] }, and
                    {experts.count} in the name stands for the value
  [[conditions]]    name, set, each, grid as above, for training and test; a variant that names
                    {modality} or {others} without `each` takes them from the condition, and is left
                    out where the condition has none
      test          changes of the test alone: corrupt = "image=noise:0.5", shift = "forward-50",
                    aggregation = "stability", unfamiliar = "trusted" (use modalities unlike
                    anything in training instead of treating them as absent)
      axis, at      conditions of one axis are drawn as a curve over `at` (a number or a name)
  [[claims]]        text, variant, metric, and what to compare: against (a variant), at_least or
                    at_most (as a share where the metric is one: 0.02 is two points), conditions
                    (names; default all). {modality} comes from the condition.

{shares=KIND}, such as {shares=missing}, stands for every modality corrupted by KIND in its own
share of the rows, 1 / (M + 1).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from distributed.config import AGGREGATIONS, by_dotted_name
from distributed.runtime.errors import OptionError
from distributed.runtime.suggestions import valid_names
from distributed.studies.definition import (
    MODELS,
    RAREST_ACCURACY,
    Claim,
    Entry,
    Study,
)
from model.metrics.names import check_name
from model.metrics.names import metric as metric_named

FOLDER = Path(__file__).resolve().parents[2] / "search_spaces" / "studies"
TEST_KEYS = ("corrupt", "shift", "aggregation", "unfamiliar")
STUDY_KEYS = (
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
)
ENTRY_KEYS = {
    "variants": ("name", "set", "model", "test", "each", "grid"),
    "conditions": ("name", "set", "test", "each", "grid", "axis", "at"),
}
CLAIM_KEYS = ("text", "variant", "metric", "against", "at_least", "at_most", "conditions")
TomlTable = Mapping[str, object]  # a table of a TOML file


def study_names() -> list[str]:
    """The names of the shipped studies."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_study(name: str) -> Study:
    """Reads a shipped study by its name, or a study file by its path.

    Raises ValueError with one line for every mistake that shows without a data set.
    """
    shipped = study_names()
    path = FOLDER / f"{name}.toml" if name in shipped else Path(name)
    if not path.is_file():
        raise OptionError(
            "study must be a shipped study or a TOML file that exists; "
            f"got {name!r}; {valid_names(name, shipped)}",
            "study",
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"study must be valid TOML; {path}: {error}", "study") from None
    try:
        return parse_study(table, path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_study(table: TomlTable, name: str) -> Study:
    """The study in a parsed TOML file, its keys and types checked.

    Settings are checked later, when the placeholders are filled in (see cells.py).
    """
    _check_keys(table, STUDY_KEYS, "the study")
    variants, conditions = _entries(table, "variants"), _entries(table, "conditions")
    if not variants:
        raise ValueError("a study needs at least one [[variants]] entry; got none")
    for entry in variants:
        if entry.get("model", "network") not in MODELS:
            raise ValueError(
                f"model must be one of {', '.join(MODELS)}; "
                f"got {entry['model']!r} in variant {entry['name']!r}"
            )
    seeds = table.get("seeds", 5)
    if type(seeds) is not int or seeds < 1:
        raise ValueError(f"seeds must be a whole number of at least 1; got {seeds!r}")
    return Study(
        name=name,
        title=_text(table, "title", name),
        question=_text(table, "question", ""),
        reference=_text(table, "reference", variants[0]["name"]),
        metric=_metric("metric", _text(table, "metric", "balanced_accuracy")),
        tail=_metric("tail", _text(table, "tail", "few_shot_accuracy")),
        seeds=seeds,
        settings=by_dotted_name(_table(table, "set", "the study")),
        variants=tuple(variants),
        conditions=tuple(conditions or [Entry(name="clean")]),
        claims=tuple(_claim(entry) for entry in _tables(table, "claims")),
    )


def _entries(table: TomlTable, kind: str) -> list[Entry]:
    """The checked [[variants]] or [[conditions]] entries."""
    entries = _tables(table, kind)
    for entry in entries:
        name = entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"every [[{kind}]] entry needs a name; got {entry!r}")
        where = f"{kind.removesuffix('s')} {name!r}"
        _check_keys(entry, ENTRY_KEYS[kind], where)
        _check_entry(entry, where)
        _check_test_changes(entry, where)
        _table(entry, "set", where)
    return [cast(Entry, entry) for entry in entries]


def _check_entry(entry: TomlTable, where: str) -> None:
    if not isinstance(entry.get("axis", ""), str):
        raise ValueError(f"axis must be text; got {entry['axis']!r} in {where}")
    if type(entry.get("at", 0)) not in (int, float, str):
        raise ValueError(f"at must be a number or text; got {entry['at']!r} in {where}")
    if entry.get("each", "modality") != "modality":
        raise ValueError(f"each must be 'modality'; got {entry['each']!r} in {where}")
    for name, values in by_dotted_name(_table(entry, "grid", where)).items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid.{name} must be a list of values; got {values!r} in {where}")


def _check_test_changes(entry: TomlTable, where: str) -> None:
    test = _table(entry, "test", where)
    for name, value in test.items():
        if name not in TEST_KEYS or not isinstance(value, str):
            raise ValueError(
                f"test takes text for {', '.join(TEST_KEYS)}; got {name} = {value!r} in {where}"
            )
    if test.get("aggregation", "uniform") not in AGGREGATIONS:
        raise ValueError(
            f"test.aggregation must be one of {', '.join(AGGREGATIONS)}; "
            f"got {test['aggregation']!r} in {where}"
        )
    shift = str(test.get("shift", ""))
    if not re.fullmatch(r"|uniform|(forward|backward)-[1-9]\d*(\.\d+)?", shift):
        raise ValueError(
            "test.shift must be uniform, forward-K or backward-K with K of at least 1; "
            f"got {shift!r} in {where}"
        )
    if test.get("unfamiliar", "trusted") != "trusted":
        raise ValueError(
            f"test.unfamiliar must be trusted, or left out; got {test['unfamiliar']!r} in {where}"
        )


def _claim(entry: TomlTable) -> Claim:
    """The checked claim of a [[claims]] entry."""
    _check_keys(entry, CLAIM_KEYS, f"claim {entry.get('text', '')!r}")
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
    conditions = entry.get("conditions", [])
    if not isinstance(conditions, list) or not all(isinstance(c, str) for c in conditions):
        raise ValueError(f"conditions must be a list of names; got {conditions!r} in {where}")
    metric = _text(entry, "metric", "")
    if not ("/" in metric and metric_named(metric).is_descriptive):
        _metric(f"{where}: metric", metric)
    return Claim(
        text=_text(entry, "text", ""),
        variant=_text(entry, "variant", ""),
        metric=metric,
        against=_text(entry, "against", ""),
        at_least=_limit(entry, "at_least", where),
        at_most=_limit(entry, "at_most", where),
        conditions=tuple(conditions),
    )


def _limit(entry: TomlTable, key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} must be a number; got {value!r} in {where}")
    return value


def _metric(setting: str, metric: str) -> str:
    check_name(setting, metric, "train_seconds", RAREST_ACCURACY)
    return metric


def _check_keys(entry: TomlTable, valid: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(entry) - set(valid))
    if unknown:
        raise ValueError(
            f"{where} has an unknown key: {', '.join(unknown)}; {valid_names(unknown[0], valid)}"
        )


def _tables(table: TomlTable, key: str) -> list[dict[str, object]]:
    """The entries of an array of tables."""
    entries = table.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{key} must be written as [[{key}]] entries; got {entries!r}")
    return entries


def _table(entry: TomlTable, key: str, where: str) -> dict[str, object]:
    value = entry.get(key, {})
    if not isinstance(value, dict):
        example = "{ fusion.kind = 'uniform' }"
        raise ValueError(f"{key} must be a table such as {example}; got {value!r} in {where}")
    return value


def _text(table: TomlTable, key: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text; got {value!r}")
    return value
