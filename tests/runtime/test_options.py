"""Facts about options: one declaration gives the parser, its help, the checks and the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed.runtime import options
from distributed.runtime.command import one_line
from distributed.runtime.errors import OptionError
from distributed.runtime.option_values import check_options
from model.declarations import option, required


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
        ([], "--out must be given; see example.py --help"),
        (["--out"], "--out needs a value; see example.py --help"),
        (["--out", ""], "--out must not be empty; got ''"),
        (["--out", "x", "--time-budget", "-1"], "--time-budget must be at least 0; got -1"),
        (["--out", "x", "--time-budget", "1e999"], "--time-budget must be a finite number, at lea"),
        (["--out", "x", "--time-budget", "5m"], "--time-budget must be a number; got '5m'; see ex"),
        (["--out", "x", "--share", "1.5"], "--share must be between 0 and 1; got 1.5"),
        (["--out", "x", "--share", "nan"], "--share must be between 0 and 1; got nan"),
        (["--out", "x", "--mode", "slow"], "--mode must be one of fast, exact; got 'slow'"),
        (["--out", "x", "--resume=yes"], "--resume takes no value; got 'yes'; see"),
        (["x"], "every value needs its option before it; got x; did you mean --out x?; see"),
        (["a b", "--out", "x"], "every value needs its option before it; got 'a b'; did you mean"),
        (["--out", "x", "y"], "every value needs its option before it; got y; did you mean --dat"),
        (["y", "z", "--out", "x", "--data", "s"], "every value needs its option before it; got y"),
        (
            ["--out", "x", "a=1", "--data", "s"],
            "every value needs its option before it; got a=1; see exa",
        ),
        (["--out", "x", "--out", "y"], "--out takes one value; got 'x' and 'y'; see example.py"),
        (["--out", "x", "--share", "0.1", "--share=.2"], "--share takes one value; got 0.1 and 0."),
        (["--out", "x", "--time", "1"], "--time is no option of example.py; did you mean --time-b"),
        (
            ["--uot", "x"],
            "--uot is no option of example.py; did you mean --out?; see example.py --",
        ),
        (["--output-dir", "x"], "--output-dir is no option of example.py; did you mean --out?; s"),
        (["-out", "x"], "-out is no option of example.py; did you mean --out?; see"),
        (["--table", "x"], "--table is no option of example.py; see example.py --help"),
    ],
)
def test_mistakes_are_one_line_with_the_flag(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(*argv)
    assert one_line(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "slow"}, "mode must be one of fast, exact; got 'slow'"),
        ({"share": "half"}, "share must be a number; got 'half'"),
        ({"out": 3}, "out must be text; got 3"),
        ({"out": None}, "out must be text; got None"),
        ({"resume": "yes"}, "resume must be true or false; got 'yes'"),
        ({"column": 3}, "column must be a list of texts; got 3"),
        ({"column": [3]}, "column must be a list of texts; got [3]"),
        ({"column": object()}, "column must be a list of texts; got a object"),
    ],
)
def test_in_python_a_mistake_has_the_name_of_the_field(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_options(Example, Example(**{"out": "x", **given}))
    assert str(caught.value) == message


def test_in_python_paths_lists_and_single_texts_are_read_as_declared() -> None:
    given: dict[str, Any] = {"out": Path("x"), "column": "a", "data": [Path("s"), "t"], "share": 1}
    assert check_options(Example, Example(**given)) == Example(
        out="x", column=("a",), data=("s", "t"), share=1.0
    )


def test_an_option_may_be_given_twice_with_the_same_value() -> None:
    assert read("--out", "x", "--share", "1", "--resume", "--out=x", "--share=1.0", "--resume") == (
        Example(out="x", share=1.0, resume=True)
    )


def test_a_value_without_an_option_that_can_be_meant_is_only_shown() -> None:
    with pytest.raises(ValueError, match=r"got y 'a z'; see example\.py --help$"):
        read("--out", "x", "--data", "s", "--resume", "y", "a z")


def test_a_setting_without_its_option_is_known_by_its_sign() -> None:
    for word, answer in (("a=1", "--set a=1"), ("a", "--out a")):
        with pytest.raises(ValueError, match=f"got {word}; did you mean {answer}\\?; see"):
            options.read(Example, [word], prog="x", description=None, find_settings=lambda name: [])


def test_options_of_another_command_are_refused() -> None:
    wrong: Any = "x"
    with pytest.raises(OptionError, match=r"^options must be Example\(\.\.\.\); got a str$"):
        check_options(Example, wrong)


def test_a_command_with_settings_offers_the_setting_for_an_option_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"; did you mean --set optim\.lr=0\.1\?; see"):
        options.read(
            Example,
            ["--out", "x", "--learning-rate", "0.1"],
            prog="example.py",
            description=None,
            find_settings=lambda name: {"learning_rate": ["optim.lr"]}.get(name, []),
        )


def test_the_value_of_a_suggested_setting_is_the_word_after_the_option() -> None:
    with pytest.raises(ValueError, match=r"did you mean --set optim\.lr=0\.1\?; see"):
        options.read(
            Example,
            ["--out", "x", "--resume", "--learning-rate", "0.1", "--resume"],
            prog="example.py",
            description=None,
            find_settings=lambda name: ["optim.lr"] if name == "learning_rate" else [],
        )


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
    assert rows["--mode"].valid == "one of fast, exact"
    assert rows["--share"].valid == "between 0 and 1"
    assert rows["--time-budget S"].valid == "at least 0"
    assert rows["--column COL"].default == "none"


@dataclass(frozen=True, kw_only=True)
class WithSettings:
    set: tuple[str, ...] | Mapping[str, object] = option((), "settings", metavar="NAME=VALUE")
    rows: int | None = option(None, "rows", low=1, metavar="N", shown="all")


def test_settings_may_be_a_mapping_or_a_list() -> None:
    given: dict[str, Any] = {"a": 1}
    assert check_options(WithSettings, WithSettings(set=given)).set == given
    assert check_options(WithSettings, WithSettings(set=["a=1"])).set == ("a=1",)  # type: ignore[arg-type]
    wrong: Any = {"a": 1}
    with pytest.raises(OptionError, match=r"^rows must be a whole number; got {'a': 1}$"):
        check_options(WithSettings, WithSettings(rows=wrong))


def test_numbers_of_numpy_are_numbers_and_truth_is_none() -> None:
    rows: Any = np.int64(3)
    checked = check_options(WithSettings, WithSettings(rows=rows)).rows
    assert (checked, type(checked)) == (3, int)
    for wrong in (True, 2.0, "3"):
        given: Any = wrong
        with pytest.raises(OptionError, match=f"^rows must be a whole number; got {wrong!r}$"):
            check_options(WithSettings, WithSettings(rows=given))
    share: Any = np.float32(0.5)
    assert type(check_options(Example, Example(out="x", share=share)).share) is float
    truth: Any = True
    with pytest.raises(OptionError, match=r"^share must be a number; got True$"):
        check_options(Example, Example(out="x", share=truth))


@pytest.mark.parametrize(
    "argv",
    [
        ["--learning-rate"],
        ["--learning-rate", "--out"],
        ["--out", "x", "--learning-rate"],
        ["--out", "x", "--learning-rate", "--resume", "0.1"],
    ],
)
def test_a_setting_without_a_value_is_shown_with_a_place_for_it(argv: list[str]) -> None:
    with pytest.raises(ValueError, match=r"did you mean --set optim\.lr=VALUE\?; see"):
        options.read(
            Example,
            argv,
            prog="example.py",
            description=None,
            find_settings=lambda name: ["optim.lr"] if name == "learning_rate" else [],
        )


@pytest.mark.parametrize("word", ["-1", "-1.5", "a -b"])
def test_numbers_and_phrases_are_values(word: str) -> None:
    assert read("--out", "x", "--column", word).column == (word,)
