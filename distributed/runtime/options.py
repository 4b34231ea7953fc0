"""Reads the options of a verb from the command line into the dataclass that declares them.

A verb declares its options once, as fields made by model.config.option: name, type, default, range, help. From that come the parser, its
help, the checks, and docs/configuration.md. `time_budget: float` is --time-budget on the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from distributed.runtime.errors import OptionError, flag

Options = TypeVar("Options")


class Parser(argparse.ArgumentParser):
    """A mistake on the command line is one line on stderr and exit code 2, like every other mistake of the user's."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def read(
    kind: type[Options],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None,
    epilog: str = "",
) -> Options:
    """The options on this command line, checked."""
    parser = build_parser(kind, prog=prog, description=description, epilog=epilog)
    given = vars(parser.parse_args(argv))
    options = kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
        }
    )
    check(options)
    return options


def build_parser(
    kind: type[Any], *, prog: str, description: str | None, epilog: str = ""
) -> Parser:
    """A parser with an option for every field of the dataclass; what is not given keeps the field's default."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog=prog, description=description, epilog=epilog, formatter_class=raw, allow_abbrev=False
    )
    hints = typing.get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        parser.add_argument(flag(entry.name), **_argument(entry, hints[entry.name]))
    return parser


def _argument(entry: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    """What argparse wants to know of a field."""
    rule, required = entry.metadata, is_required(entry)
    words = (
        rule["help"]
        if required or rule.get("shown") == ""
        else f"{rule['help']} (default: {default_text(entry)})"
    )
    argument: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": words.replace("%", "%%"),
        "required": required,
    }
    plain = plain_type(hint)
    if plain is bool:
        return {**argument, "action": "store_true"}
    if plain is tuple:
        repeated = (
            {"action": "append"} if rule.get("repeat") else {"nargs": "+", "action": "extend"}
        )
        return {**argument, **repeated, "metavar": rule["metavar"]}
    if rule.get("choices") and not rule.get("metavar"):
        return {**argument, "choices": rule["choices"]}
    return {**argument, "type": plain, "metavar": rule.get("metavar") or "N"}


def plain_type(hint: Any) -> type:
    """int of `int | None`, tuple of `tuple[str, ...]`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.get_origin(hint) or hint


def is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING


def default_text(entry: dataclasses.Field[Any]) -> str:
    """The default as help and documentation state it."""
    rule = entry.metadata
    if rule.get("shown") is not None:
        return str(rule["shown"])
    value = rule["otherwise"] if rule.get("otherwise") is not None else entry.default
    if value is None or value == () or value == "":
        return "none"
    return "off" if value is False else f"{value:g}" if isinstance(value, float) else str(value)


def check(options: Any) -> None:
    """Raises OptionError (rule, offending value, valid choices) for the first option outside its range."""
    for entry in dataclasses.fields(options):
        value, rule = getattr(options, entry.name), entry.metadata
        if value is None:
            continue
        if rule.get("choices") and value not in rule["choices"] and not rule.get("metavar"):
            raise OptionError(
                f"{entry.name} must be one of {', '.join(rule['choices'])}; got {value!r}",
                entry.name,
            )
        if rule.get("low") is not None and not value >= rule["low"]:
            raise OptionError(
                f"{entry.name} must be at least {rule['low']}; got {value}", entry.name
            )
        if rule.get("high") is not None and not value <= rule["high"]:
            raise OptionError(
                f"{entry.name} must be at most {rule['high']}; got {value}", entry.name
            )


def with_defaults(options: Any) -> dict[str, Any]:
    """Every option by name; one that was not given has the value that its declaration names for that case."""
    entries = {entry.name: entry for entry in dataclasses.fields(options)}
    given = {name: getattr(options, name) for name in entries}
    return {
        name: entries[name].metadata.get("otherwise") if value is None else value
        for name, value in given.items()
    }


def option_rows(kind: type[Any]) -> list[tuple[str, str, str]]:
    """(flag, default, help) of every option, for the documentation."""
    rows = []
    for entry in dataclasses.fields(kind):
        choices = entry.metadata.get("choices")
        words = entry.metadata["help"] + (f" [{', '.join(choices)}]" if choices else "")
        rows.append(
            (flag(entry.name), "required" if is_required(entry) else default_text(entry), words)
        )
    return rows
