"""Reads the options of a command from the command line into the dataclass that declares them.

A command declares its options once, as fields made by model.declarations.option: name, type,
default, range and help. From that come the parser, its help, the checks and docs/configuration.md.
The field `time_budget: float` is --time-budget on the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from distributed.runtime.errors import flag
from distributed.runtime.option_values import TYPE_TEXTS, check_options, value_type
from distributed.runtime.suggestions import (
    did_you_mean,
    options_by_letters,
    options_by_meaning,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")
FindSettings = Callable[[str], Sequence[str]]  # returns the settings that a name may mean

# How argparse words a mistake, and how this project does.
REWORDED = {
    r"^argument (\S+): expected (?:one|at least one) argument": r"\1 needs a value",
    r"^argument (\S+): ignored explicit argument (.*)": r"\1 takes no value; got \2",
    r"^argument (\S+): ": r"\1 ",
    r"^the following arguments are required: (.*)": r"\1 must be given",
}


class StoreOnce(argparse.Action):
    """Keeps the value of an option; another value for the same option is a mistake."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest, values)
        if given is not values and given != values:
            parser.error(f"{option_string} takes one value; got {given!r} and {values!r}")
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit code 2, like every other mistake of the user."""

    def error(self, message: str) -> NoReturn:
        for pattern, words in REWORDED.items():
            message, found = re.subn(pattern, words, message)
            if found:
                break
        raise ValueError(f"{message}; see {self.prog} --help")


def read(
    kind: type[Options],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None,
    epilog: str = "",
    find_settings: FindSettings | None = None,
) -> Options:
    """Returns the options that a command line gives, checked.

    kind: the dataclass of the options. prog, description and epilog: the script's name, and the
    text before and after the list of options in its help. find_settings: of a command with --set.
    """
    parser = build_parser(kind, prog=prog, description=description, epilog=epilog)
    _refuse_unknown_options(kind, argv, parser, find_settings)
    _refuse_stray_values(kind, argv, parser, find_settings)
    given = vars(parser.parse_args(argv))
    return check_options(kind, kind(**given))


def _refuse_unknown_options(
    kind: type[DataclassInstance],
    argv: Sequence[str],
    parser: Parser,
    find_settings: FindSettings | None,
) -> None:
    """Refuses an option that the command does not have, with what may be meant.

    It is looked for before the parsing, which would report a required option as missing where its
    name is misspelt.
    """
    options = [field.name for field in dataclasses.fields(kind)]
    known = {"-h", "--help", *map(flag, options)}
    for place, word in enumerate(argv):
        if word == "--":
            return
        given, _, value = word.partition("=")
        if not _looks_like_option(given) or given in known:
            continue
        name = given.lstrip("-").replace("-", "_")
        if not value and not _looks_like_option((*argv, "-x")[place + 1]):
            value = argv[place + 1]
        instead = [flag(option) for option in options_by_meaning(name, options)]
        if not instead and find_settings:
            settings = [f"{setting}={value or 'VALUE'}" for setting in find_settings(name)]
            instead = [f"--set {shlex.quote(setting)}" for setting in settings]
        if not instead:
            instead = [flag(option) for option in options_by_letters(name, options)]
        question = did_you_mean(instead)
        parser.error(f"{given} is no option of {parser.prog}{'; ' if question else ''}{question}")


def _refuse_stray_values(
    kind: type[DataclassInstance],
    argv: Sequence[str],
    parser: Parser,
    find_settings: FindSettings | None,
) -> None:
    """Refuses a value without an option before it, with the option that is probably meant.

    It is looked for before the parsing, which would report a required option as missing where only
    its name is.
    """
    free = build_parser(kind, prog=parser.prog, description=None, may_lack_required=True)
    known, stray = free.parse_known_args(argv)
    if not stray:
        return
    missing = [field for field in dataclasses.fields(kind) if not hasattr(known, field.name)]
    wanted = [field.name for field in missing if is_required(field) or field.name == "data"]
    value = shlex.quote(stray[0])
    instead = [f"{flag(wanted[0])} {value}"] if wanted else []
    if find_settings and "=" in value:
        instead = [f"--set {value}"]
    question = did_you_mean(instead)
    rule = f"every value needs its option before it; got {shlex.join(stray)}"
    parser.error(f"{rule}{'; ' if question else ''}{question}")


def _looks_like_option(word: str) -> bool:
    """Whether argparse takes a word of the command line for an option and not for a value."""
    return len(word) > 1 and word[0] == "-" and " " not in word and not _is_number(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def build_parser(
    kind: type[DataclassInstance],
    *,
    prog: str,
    description: str | None,
    epilog: str = "",
    may_lack_required: bool = False,
) -> Parser:
    """Returns a parser with one argument for every field of the dataclass.

    An option that the command line does not give keeps the field's default.
    may_lack_required: accept a command line without the options that must be given.
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
        argument = _argument(field, hints[field.name])
        argument["required"] &= not may_lack_required
        parser.add_argument(flag(field.name), **argument)
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
    choices = rules["limits"].choices
    metavar = rules["metavar"] or (f"{{{','.join(choices)}}}" if choices else "N")
    return {**argument, "action": StoreOnce, "type": _reader(kind), "metavar": metavar}


def _reader(kind: type) -> Callable[[str], object]:
    """Returns the function that reads a word of the command line as this type."""

    def read_word(word: str) -> object:
        try:
            return kind(word)
        except ValueError:
            message = f"must be {TYPE_TEXTS[kind]}; got {word!r}"
            raise argparse.ArgumentTypeError(message) from None

    return read_word


def _help(field: Field[Any]) -> str:
    """Returns the help of an option, with its default where the declaration does not hide it."""
    meaning = str(field.metadata["help"])
    if is_required(field) or field.metadata.get("shown") == "":
        return meaning
    return f"{meaning} (default: {default_text(field)})"


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
            field.metadata["limits"].text,
        )
        for field in dataclasses.fields(kind)
    ]


def _usage(field: Field[Any]) -> str:
    """Returns the flag of an option with the word that stands for its value in help."""
    metavar = field.metadata.get("metavar")
    return f"{flag(field.name)} {metavar}" if metavar else flag(field.name)
