"""The fast tests notice at least 85 % of the faults in the code that data and results depend on.

The run is `python -m tests.mutation`; the other tests here are those of its parts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation import runs, sandbox
from tests.mutation.areas import AREAS, read_exceptions, sample
from tests.mutation.coverage import TestCoverage
from tests.mutation.hook import ROOT
from tests.mutation.mutants import Mutant, compiled, mutants

needs_landlock = pytest.mark.skipif(
    not sandbox.version(), reason="needs a Linux kernel with Landlock"
)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@needs_landlock
def test_the_fast_tests_kill_most_mutants() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation"], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exception_is_about_code_that_exists() -> None:
    every = {mutant.name for area in AREAS for mutant in area.mutants()}
    functions = {name.partition(":")[0] for name in every}
    exceptions = read_exceptions()
    assert not {*exceptions.equivalent} - every
    assert not {*exceptions.slow_only} - functions
    reasons = [*exceptions.equivalent.values(), *exceptions.slow_only.values()]
    assert all(reason.strip() for reason in reasons)


def changes_of(tmp_path: Path, code: str) -> list[str]:
    """What the mutants of this code change, without their file."""
    (tmp_path / "code.py").write_text(code)
    return [mutant.name.removeprefix("code.py ") for mutant in mutants(tmp_path, "code.py")]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("def f(a): return a < 2", ["a <= 2", "a >= 2"]),
        ("def f(a): return a == b", ["a != b"]),
        ("def f(a): return not a", ["a"]),
        ("def f(a): return a and b", ["a or b"]),
        ("def f(a): return a - b", ["a + b"]),
        ("def f(a): return True", ["False"]),
        ("def f(a): return g(a, b)", ["g(b, a)"]),
        ("def f(a): g()", ["removed"]),
        ("def f(a): raise ValueError('a rule')", ["removed"]),
        ("def f(a):\n a.x = b", ["removed"]),
        ("def f(a):\n a += b", ["a -= b", "removed"]),
        ("def f(a):\n if a: pass", ["not a"]),
        ("def f(a):\n for b in a: continue", ["break"]),
        ("def f(a): return f'{a}.pt'", ["f'{a}XX.pt'"]),
        ("def f(a):\n try: pass\n except (A, B): pass", ["except (B,): pass", "except (A,): pass"]),
    ],
)
def test_the_faults_that_code_gets(tmp_path: Path, code: str, changes: list[str]) -> None:
    found = [name for name in changes_of(tmp_path, code) if "-> `return None`" not in name]
    found = [name for name in found if " in `" not in name or len(changes) == 1]
    assert len(found) >= len(changes)
    for change in changes:
        assert any(change in name for name in found), found


@pytest.mark.parametrize(
    "code",
    [
        '"""A docstring."""',
        "def f(a: int = None) -> 'text': ...",
        "T = TypeVar('T')",
        "def f():\n assert a < 2",
        "class A:\n def __repr__(self): return 'A' + 'B'",
        "if TYPE_CHECKING:\n a = 1",
        "@dataclass(frozen=True)\nclass A: ...",
        "Value = int | str",
        "min(a, b).x",
    ],
)
def test_what_cannot_matter_is_left_alone(tmp_path: Path, code: str) -> None:
    assert changes_of(tmp_path, code) == []


def test_a_mutant_has_its_fault_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def f(a, b):\n    return a - b, a < b\n")
    results = []
    for mutant in mutants(tmp_path, "code.py"):
        space: dict[str, object] = {}
        exec(compiled(tmp_path, mutant), space)
        function = space["f"]
        assert callable(function)
        results.append(function(3, 3))
    assert results == [None, (6, False), (0, True), (0, True)]


def test_a_sample_has_every_file_and_keeps_its_choice_when_code_is_added() -> None:
    def make(file: str, number: int) -> Mutant:
        return Mutant(file, f"{file} f: {number}", number, (1, 1), (1, 1), False)

    few = [make("small.py", 0)]
    many = [make("large.py", number) for number in range(99)]
    chosen = sample(few + many, 10)
    assert [m.file for m in chosen].count("small.py") == 1
    assert len(chosen) == 11
    more = sample([*few, *many, make("large.py", 99)], 10)
    assert len({*more} - {*chosen}) <= 1


def test_the_tests_of_a_mutant_are_those_that_run_it_the_fastest_first() -> None:
    ran = {("code.py", 5)}
    tests = {
        "a.py::slow": TestCoverage(2.0, ran),
        "b.py::fast": TestCoverage(0.1, ran),
        "b.py::other": TestCoverage(0.1, {("code.py", 6)}),
        "b.py::constants": TestCoverage(0.0),
        "c.py::elsewhere": TestCoverage(0.0, {("other.py", 1)}),
    }
    inside = Mutant("code.py", "", 0, (5, 5), (4, 5), False)
    assert runs.tests_for(inside, tests) == ["b.py::fast", "a.py::slow"]
    assert runs.tests_for(Mutant("code.py", "", 0, (9, 9), (9, 9), False), tests) == []
    constant = Mutant("code.py", "", 0, (9, 9), (9, 9), True)
    assert set(runs.tests_for(constant, tests)) == {*tests} - {"c.py::elsewhere"}
    unused = Mutant("unused.py", "", 0, (9, 9), (9, 9), True)
    assert set(runs.tests_for(unused, tests)) == {*tests}


@needs_landlock
def test_a_mutant_can_neither_delete_files_nor_end_processes_of_others(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").write_text("kept")
    code = (
        "import os, pathlib, sys\n"
        "from tests.mutation import sandbox\n"
        f"inside, outside = pathlib.Path({str(inside)!r}), pathlib.Path({str(outside)!r})\n"
        "sandbox.enter(inside, 60)\n"
        "(inside / 'file').unlink()\n"
        "def refused(attempt):\n"
        "    try:\n"
        "        attempt()\n"
        "    except PermissionError:\n"
        "        return True\n"
        "    return False\n"
        "print(refused((outside / 'file').unlink),"
        " refused(lambda: (outside / 'file').write_text('')),"
        " refused(lambda: (inside / 'new').write_text('')),"
        " refused((outside / 'new').mkdir))\n"
        f"print(refused(lambda: os.kill({os.getpid()}, {int(signal.SIGCONT)})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[:1] == ["True True False True"], done.stderr
    assert not (inside / "file").exists()
    assert (outside / "file").read_text() == "kept"
    if sandbox.version() >= 6:
        assert done.stdout.splitlines()[1] == "True"
