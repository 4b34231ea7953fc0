"""Changes settings by their dotted names, and checks the configuration that results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import Field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from distributed.config.settings import MIN_ROWS_PER_OWN_NORM, Config
from distributed.config.suggestions import settings_by_meaning, settings_like
from distributed.runtime.redaction import check_no_credentials
from distributed.runtime.suggestions import did_you_mean
from model.declarations import check
from model.limits import TYPE_NAMES
from model.metrics.names import check_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Section = TypeVar("Section", bound="DataclassInstance")
Value = bool | int | float | str  # of a setting

# Settings that had another name in an earlier version: an old name is refused with the new one.
RENAMED = {
    "fusion.checked": "fusion.correct_on_validation",
    "fusion.familiar": "fusion.reject_unfamiliar",
    "fusion.half": "fusion.half_weight_at",
    "image.frozen": "image.trainable",
    "inference.offsets": "inference.decision_offsets",
    "loss.centre": "loss.average_prior_strength",
    "loss.mix_kappa": "loss.remix_kappa",
    "loss.mix_tau": "loss.remix_tau",
    "loss.spread": "loss.spread_of_prior_strength",
    "optim.pick_after": "optim.best_epoch_after",
    "scaling.global_norms": "scaling.sync_batch_norm",
    "table.embedding": "table.embedding_size",
    "table.numbers": "table.numeric_embedding",
}


@cache
def setting_fields() -> Mapping[str, Field[Any]]:
    """Returns the declaration of every setting by its dotted name."""
    return _fields_of(Config)


def _fields_of(kind: type[DataclassInstance], prefix: str = "") -> dict[str, Field[Any]]:
    """Returns the settings of a section and of the sections in it."""
    fields: dict[str, Field[Any]] = {}
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name}"
        section = field.default
        if dataclasses.is_dataclass(section) and not isinstance(section, type):
            fields.update(_fields_of(type(section), f"{name}."))
        else:
            fields[name] = field
    return fields


def flatten(config: Config) -> dict[str, Value]:
    """Returns the value of every setting by its dotted name."""
    return {name: _value_of(config, name) for name in setting_fields()}


def _value_of(config: Config, name: str) -> Value:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    assert isinstance(value, Value)
    return value


def changes_from_defaults(config: Config) -> dict[str, Value]:
    """Returns only the settings that differ from the defaults."""
    default = flatten(Config())
    return {name: value for name, value in flatten(config).items() if value != default[name]}


def apply_changes(config: Config, changes: Mapping[str, object]) -> Config:
    """Returns the configuration with new values for some settings, checked.

    changes: values by dotted name; a string may hold a number or a truth value, as on the command
    line. Raises ValueError for an unknown setting, a wrong type and a value outside its range.
    """
    for name, value in changes.items():
        check_exists(name)
        check_no_credentials(name, value)
        kind = type(setting_fields()[name].default)
        config = _replace(config, name.split("."), as_type(name, value, kind))
    check_config(config)
    return config


def _replace(section: Section, path: list[str], value: Value) -> Section:
    """Returns the section with the setting at this path replaced."""
    head, *rest = path
    new = _replace(getattr(section, head), rest, value) if rest else value
    return dataclasses.replace(section, **{head: new})


def check_exists(name: str) -> None:
    """Raises ValueError for a setting that does not exist, with those that may be meant."""
    if name in RENAMED:
        raise ValueError(f"{name} is now {RENAMED[name]}")
    fields = setting_fields()
    if name in fields:
        return
    instead = did_you_mean(settings_like(name, fields)) or _valid_settings(name)
    raise ValueError(f"a setting must exist; got {name!r}; {instead}")


def find_settings(name: str) -> list[str]:
    """Returns the settings that a word of the literature, or the last part of a name, may mean."""
    return settings_by_meaning(name, setting_fields())


def _valid_settings(name: str) -> str:
    """Returns the settings of the section that a name is in, or of what sections there are."""
    section = name.split(".")[0]
    if same_section := [other for other in setting_fields() if other.split(".")[0] == section]:
        return f"valid: {', '.join(same_section)}"
    sections = dict.fromkeys(other.split(".")[0] for other in setting_fields())
    return f"valid: those of {', '.join(sections)}, which docs/configuration.md lists"


def as_type(name: str, value: object, kind: type) -> Value:
    """Returns a setting's value as the type of its default; raises ValueError where it is none.

    A string is read as the command line writes it. A whole number is accepted for a float, and a
    float without a fraction for a whole number; nothing else is converted.
    """
    if isinstance(value, str) and kind is not str:
        try:
            value = json.loads(value.lower())
        except json.JSONDecodeError:
            raise _wrong_type(name, value, kind) from None
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    is_nan = value != value
    if type(value) is not kind or is_nan:
        raise _wrong_type(name, value, kind)
    assert isinstance(value, Value)
    return value


def _wrong_type(name: str, value: object, kind: type) -> ValueError:
    return ValueError(f"{name} must be {TYPE_NAMES[kind]}; got {value!r}")


def check_config(config: Config) -> None:
    """Raises ValueError for the first setting outside its range or at odds with another one."""
    check(config)
    check_name("optim.metric", config.optim.metric)
    data, scaling = config.data, config.scaling
    if 0 < data.imbalance_ratio < 1:
        got = f"{data.imbalance_ratio:g}"
        raise ValueError(f"data.imbalance_ratio must be 0 (off) or at least 1; got {got}")
    if data.batch_size < scaling.workers:
        rule = f"data.batch_size must be at least scaling.workers={scaling.workers}"
        raise ValueError(f"{rule}; got {data.batch_size}")
    if scaling.min_workers > scaling.workers:
        rule = f"scaling.min_workers must be at most scaling.workers={scaling.workers}"
        raise ValueError(f"{rule}; got {scaling.min_workers}")
    min_rows = MIN_ROWS_PER_OWN_NORM * scaling.workers
    if not scaling.sync_batch_norm and scaling.workers > 1 and data.batch_size < min_rows:
        rule = f"scaling.sync_batch_norm=false needs {MIN_ROWS_PER_OWN_NORM} rows per worker"
        needed = f"data.batch_size of at least {min_rows}"
        raise ValueError(f"{rule}: {needed}; got {data.batch_size}")
