"""Facts about options: one declaration gives the parser, its help, the checks and the page."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from distributed.runtime import options
from distributed.runtime.command import one_line
from distributed.runtime.errors import OptionError
from model.config import option, required


@dataclass(frozen=True, kw_only=True)
class Example:
    out: str = required("where results go", "DIR")
    time_budget: float | None = option(None, "seconds", low=0, metavar="S", shown="none")
    mode: str = option("fast", "how", choices=("fast", "exact"))
    column: tuple[str, ...] = option((), "columns", metavar="COL")
    data: tuple[str, ...] = option((), "data sets", metavar="SHARDS", repeat=True)
    share: float = option(0.5, "a share of 100 %", low=0.0, high=1.0)
    resume: bool = option(False, "go on")


def read(*argv: str) -> Example:
    return options.read(Example, argv, prog="example.py", description="An example.")


def test_what_is_not_given_keeps_the_default() -> None:
    assert read("--out", "x") == Example(out="x")


def test_values_have_the_types_of_their_fields() -> None:
    chosen = read(
        *("--out", "x", "--time-budget", "2", "--mode", "exact", "--resume"),
        *("--column", "a", "b", "--column", "c", "--data", "s1", "--data", "s2"),
    )
    assert chosen == Example(
        out="x",
        time_budget=2.0,
        mode="exact",
        resume=True,
        column=("a", "b", "c"),
        data=("s1", "s2"),
    )
    assert type(chosen.time_budget) is float


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: --out; see example.py --help"),
        (["--out", "x", "--time-budget", "-1"], "--time-budget must be at least 0; got -1.0"),
        (["--out", "x", "--share", "1.5"], "--share must be at most 1.0; got 1.5"),
        (["--out", "x", "--share", "nan"], "--share must be at least 0.0; got nan"),
        (["--out", "x", "--time", "1"], "unrecognized arguments: --time 1; see example.py --help"),
    ],
)
def test_mistakes_are_one_line_with_the_flag(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(*argv)
    assert one_line(caught.value) == message


def test_in_python_a_mistake_has_the_name_of_the_field() -> None:
    with pytest.raises(OptionError, match=r"^mode must be one of fast, exact; got 'slow'$"):
        options.check(Example(out="x", mode="slow"))


def test_help_states_meaning_and_default() -> None:
    parser = options.build_parser(Example, prog="example.py", description="An example.")
    text = " ".join(parser.format_help().split())
    assert "--out DIR where results go --time-budget S" in text
    assert "--mode {fast,exact} how (default: fast)" in text
    assert "--share N a share of 100 % (default: 0.5)" in text
    assert "--resume go on (default: off)" in text


def test_rows_for_the_documentation() -> None:
    rows = {row.usage: row for row in options.option_rows(Example)}
    assert rows["--out DIR"].default == "required"
    assert rows["--mode"].valid == "fast, exact"
    assert rows["--share"].valid == "0 to 1"
    assert rows["--time-budget S"].valid == "at least 0"
    assert rows["--column COL"].default == "none"
