"""Reads the options of a command from the command line into the dataclass that declares them.

A command declares its options once, as fields made by model.config.option: name, type, default,
range and help. From that come the parser, its help, the checks and docs/configuration.md. The field
`time_budget: float` is --time-budget on the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from distributed.runtime.errors import OptionError, flag

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit code 2, like every other mistake of the user."""

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
    """Returns the options that a command line gives, checked.

    kind: the dataclass of the options. prog, description and epilog: the script's name, and the
    text before and after the list of options in its help.
    """
    parser = build_parser(kind, prog=prog, description=description, epilog=epilog)
    given = vars(parser.parse_args(argv))
    options = kind(**{name: _as_field_value(value) for name, value in given.items()})
    check(options)
    return options


def _as_field_value(value: object) -> object:
    """Returns a parsed value as the dataclass holds it: argparse's lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


def build_parser(
    kind: type[DataclassInstance], *, prog: str, description: str | None, epilog: str = ""
) -> Parser:
    """Returns a parser with one argument for every field of the dataclass.

    An option that the command line does not give keeps the field's default.
    """
    parser = Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        parser.add_argument(flag(field.name), **_argument(field, hints[field.name]))
    return parser


def _argument(field: Field[Any], hint: object) -> dict[str, Any]:
    """Returns the keyword arguments of argparse's add_argument for one field."""
    rules = field.metadata
    argument: dict[str, Any] = {
        "default": argparse.SUPPRESS,
        "help": _help(field).replace("%", "%%"),
        "required": is_required(field),
    }
    kind = value_type(hint)
    if kind is bool:
        return {**argument, "action": "store_true"}
    if kind is tuple:
        one_flag = {"action": "extend", "nargs": "+"}
        several = {"action": "append"} if rules.get("repeat") else one_flag
        return {**argument, **several, "metavar": rules["metavar"]}
    if rules.get("choices") and not rules.get("metavar"):
        return {**argument, "choices": rules["choices"]}
    return {**argument, "type": kind, "metavar": rules.get("metavar") or "N"}


def _help(field: Field[Any]) -> str:
    """Returns the help of an option, with its default where the declaration does not hide it."""
    meaning = str(field.metadata["help"])
    if is_required(field) or field.metadata.get("shown") == "":
        return meaning
    return f"{meaning} (default: {default_text(field)})"


def value_type(hint: object) -> type:
    """Returns the type of an option's values: int of `int | None`, tuple of `tuple[str, ...]`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    kind = typing.get_origin(hint) or hint
    assert isinstance(kind, type), hint
    return kind


def is_required(field: Field[Any]) -> bool:
    """Whether the option has no default and must be given."""
    return field.default is MISSING and field.default_factory is MISSING


def default_text(field: Field[Any]) -> str:
    """Returns the default as help and documentation state it."""
    rules = field.metadata
    if rules.get("shown"):
        return str(rules["shown"])
    value = field.default if rules.get("otherwise") is None else rules["otherwise"]
    if value is None or value in ((), ""):
        return "none"
    if value is False:
        return "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def check(options: DataclassInstance) -> None:
    """Raises OptionError for the first option that is outside its range or its choices."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is not None:
            _check_value(field.name, value, field.metadata)


def _check_value(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    """Raises OptionError (rule, offending value, valid choices) for a value that breaks a rule."""
    choices, low, high = rules.get("choices"), rules.get("low"), rules.get("high")
    if choices and value not in choices and not rules.get("metavar"):
        valid = ", ".join(choices)
        raise OptionError(f"{name} must be one of {valid}; got {value!r}", name)
    # Written as `not (value >= low)`, so that NaN, which compares to nothing, is refused.
    if low is not None and not value >= low:
        raise OptionError(f"{name} must be at least {low}; got {value}", name)
    if high is not None and not value <= high:
        raise OptionError(f"{name} must be at most {high}; got {value}", name)


@dataclasses.dataclass(frozen=True)
class OptionRow:
    """One option as the documentation lists it."""

    usage: str  # the flag, and what stands for its value: --split TRAIN,VAL,TEST
    default: str
    meaning: str
    valid: str  # its choices or its range; "" where every value of its type is valid


def option_rows(kind: type[DataclassInstance]) -> list[OptionRow]:
    """Returns every option of a command, for the documentation."""
    return [
        OptionRow(
            _usage(field),
            "required" if is_required(field) else default_text(field),
            str(field.metadata["help"]),
            valid_text(field.metadata),
        )
        for field in dataclasses.fields(kind)
    ]


def _usage(field: Field[Any]) -> str:
    """Returns the flag of an option with the word that stands for its value in help."""
    metavar = field.metadata.get("metavar")
    return f"{flag(field.name)} {metavar}" if metavar else flag(field.name)


def valid_text(rules: Mapping[str, Any]) -> str:
    """Returns the choices or the range of an option or a setting, as documentation states it."""
    if rules.get("choices"):
        return ", ".join(rules["choices"])
    low, high = rules.get("low"), rules.get("high")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return "" if high is None else f"at most {high:g}"
