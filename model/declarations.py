"""Declares a setting or an option as a dataclass field, and checks the values of such fields.

This file imports no torch, because every command reads it to print `--help`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import TYPE_CHECKING, Any

from model.limits import Limits

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Declared = Any  # a dataclass field, which takes the place of a value of any type


def option(
    default: object,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    metavar: str = "",
    shown: str | None = None,
    otherwise: object = None,
    repeat: bool = False,
    credentials: bool = False,
) -> Declared:
    """Returns a dataclass field that carries its own help text and its own valid range.

    It declares a setting (--set NAME=VALUE) or an option of a command. For options only:

    metavar: the name of the value in the help.
    shown: what the help states as the default; empty: the help does not mention a default.
    otherwise: the value in use where the default is None, which stands for "not given".
    repeat: the flag is given once per value, instead of once with several values behind it.
    credentials: the value may hold a password; whoever reads it must store it without.
    """
    return field(
        default=default,
        metadata={
            "help": meaning,
            "limits": Limits(low, high, choices),
            "metavar": metavar,
            "shown": shown,
            "otherwise": otherwise,
            "repeat": repeat,
            "credentials": credentials,
        },
    )


def required(meaning: str, metavar: str = "") -> Declared:
    """Returns a dataclass field without a default: an option that must be given."""
    return field(metadata={"help": meaning, "limits": Limits(), "metavar": metavar})


def check(config: DataclassInstance, prefix: str = "") -> None:
    """Raises ValueError for the first setting that is outside its valid range.

    The message states the rule and the offending value. `prefix` is the name of the section with a
    dot at its end, for a configuration that is part of another one.
    """
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        name = f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check(value, f"{name}.")
        elif broken := entry.metadata["limits"].broken_by(value):
            raise ValueError(f"{name} {broken}")
