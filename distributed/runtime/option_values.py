"""Checks the options that a command or a Python user gives, and brings them to their types."""

from __future__ import annotations

import dataclasses
import operator
import os
import types
import typing
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, TypeVar

from distributed.runtime.errors import OptionError
from distributed.runtime.redaction import check_no_credentials

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")

TYPE_TEXTS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of texts",
}


def check_options(kind: type[Options], options: Options) -> Options:
    """Returns the options with paths as text and lists as tuples, as the dataclass declares them.

    Raises OptionError for the first option of another type, outside its range or its choices, or
    with a password or a token where it would be stored.
    """
    if not isinstance(options, kind):
        raise OptionError(f"options must be {kind.__name__}(...); got {_type_name(options)}")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
    plain = {name: check_option(kind, name, value) for name, value in given.items()}
    return dataclasses.replace(options, **plain)


def check_option(kind: type[DataclassInstance], name: str, value: object) -> object:
    """Returns the value of one option as `check_options` does."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    value = _as_type(name, value, typing.get_type_hints(kind)[name])
    if value == "" and field.default != "":
        raise OptionError(f"{name} must not be empty; got ''", name)
    if not field.metadata.get("credentials"):
        try:
            check_no_credentials(name, value)
        except ValueError as error:
            raise OptionError(str(error), name) from None
    broken = "" if value is None else field.metadata["limits"].broken_by(value)
    if broken:
        raise OptionError(f"{name} {broken}", name)
    return value


def _as_type(name: str, value: object, hint: object) -> object:
    """Returns an option's value as its type; raises OptionError where it is none of that type."""
    kinds = _alternatives(hint)
    may_be_mapping = any(typing.get_origin(kind) is Mapping for kind in kinds)
    if (value is None and type(None) in kinds) or (may_be_mapping and isinstance(value, Mapping)):
        return value
    kind = value_type(hint)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind is tuple:
        return _as_tuple(name, value)
    if kind is int and not isinstance(value, bool) and hasattr(value, "__index__"):
        return operator.index(typing.cast(typing.SupportsIndex, value))
    if kind is float and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    is_truth = isinstance(value, bool)  # which Python counts among the whole numbers
    if not isinstance(value, kind) or is_truth != (kind is bool):
        raise _wrong_type(name, value, kind)
    return value


def _as_tuple(name: str, value: object) -> tuple[str, ...]:
    """Returns a list of texts or paths as a tuple; one text alone is a list of one."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise _wrong_type(name, value, tuple)
    texts = [os.fspath(part) if isinstance(part, os.PathLike) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise _wrong_type(name, value, tuple)
    return tuple(texts)


def _wrong_type(name: str, value: object, kind: type) -> OptionError:
    plain = isinstance(value, str | int | float | list | tuple | dict | None)
    got = repr(value) if plain else _type_name(value)
    return OptionError(f"{name} must be {TYPE_TEXTS[kind]}; got {got}", name)


def _type_name(value: object) -> str:
    """Returns an object's class in words that fit behind "got"."""
    return f"a {type(value).__name__}"


def value_type(hint: object) -> type:
    """Returns the type of an option's values: int of `int | None`, tuple of `tuple[str, ...]`."""
    hint = next(part for part in _alternatives(hint) if part is not type(None))
    kind = typing.get_origin(hint) or hint
    assert isinstance(kind, type), hint
    return kind


def _alternatives(hint: object) -> tuple[object, ...]:
    """Returns the types that a union consists of; any other type alone."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)
