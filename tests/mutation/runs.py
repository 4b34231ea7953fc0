"""Runs tests in forks of this process, which has loaded the libraries but none of our code."""

from __future__ import annotations

import dataclasses
import marshal
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import pytest

from tests.mutation import sandbox
from tests.mutation.areas import Area
from tests.mutation.coverage import Chosen, CoveragePlugin, TestCoverage, paths_of
from tests.mutation.hook import ROOT, MutantFinder, set_task
from tests.mutation.mutants import CONTROL, Mutant, compiled

PYTEST = ("-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-p", "no:faulthandler")
SECONDS_OF_TESTS = 10.0  # of all tests that are run for one mutant, at most
CPU_SECONDS = 40  # after which a mutant hangs; its tests take a fraction of it
WALL_SECONDS = 150
BROKEN = 99  # exit code of a process that could not run its tests
CONTROL_EVERY = 20  # mutants; their tests run without a fault too


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant, and the output of its tests.

    state: killed, hung (killed by time), survived, or untested: it survived since no test runs it.
    """

    mutant: Mutant
    state: str
    output: str = ""


def preload() -> None:
    """Loads the libraries that the tests use, for all forks at once."""
    import numpy, optuna, pandas, PIL.Image, pyarrow.fs, pyarrow.parquet, ray.data, ray.tune  # noqa
    import rich.progress, torch  # noqa


def _fork(work: Callable[[], int], folder: Path) -> int:
    """Starts a process that exits with the value of work(); its output goes to folder/output."""
    process = os.fork()
    if process:
        return process
    code = BROKEN
    try:
        os.setsid()
        with (folder / "output").open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        os.chdir(ROOT)
        sys.dont_write_bytecode = True
        code = work()
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def coverage(area: Area) -> dict[str, TestCoverage]:
    """Runs the fast tests of an area without any mutant; returns what each of them covers."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folder = Path(name)

        def work() -> int:
            sandbox.enter(folder, cpu_seconds=600)
            (folder / "lines").mkdir()
            set_task(trace=str(folder / "lines"), files=area.files())
            plugin = CoveragePlugin(area.files(), folder / "lines")
            tests = [str(ROOT / path) for path in area.tests if (ROOT / path).exists()]
            code = int(pytest.main([*PYTEST[:1], *PYTEST[2:], *tests], plugins=[plugin]))
            (folder / "tests").write_bytes(pickle.dumps(plugin.tests))
            return code

        _, status = os.waitpid(_fork(work, folder), 0)
        if status:
            raise RuntimeError(
                f"the tests of {area.name} fail without any mutant:\n"
                + (folder / "output").read_text(errors="replace")
            )
        found: dict[str, TestCoverage] = pickle.loads((folder / "tests").read_bytes())
        return found


def tests_for(mutant: Mutant, tests: dict[str, TestCoverage]) -> list[str]:
    """Returns the tests that run the mutant's code, the fastest first, of each file together."""
    if mutant.at_import:
        # Every user of the module runs it. A test that only reads its constants runs no line of it,
        # so the other tests in the files of its users count too; without a user, all of the area.
        users = {n for n, t in tests.items() if any(f == mutant.file for f, _ in t.lines)}
        files = {paths_of([name])[0] for name in users or tests}
        covering = {name for name in tests if paths_of([name])[0] in files}
    else:
        covering = set()
        for low, high in (mutant.lines, mutant.statement):
            lines = {(mutant.file, line) for line in range(low, high + 1)}
            covering = covering or {n for n, t in tests.items() if t.lines & lines}
    chosen: list[str] = []
    seconds = 0.0
    for name in sorted(covering, key=lambda name: tests[name].seconds):
        seconds += tests[name].seconds
        if chosen and seconds > SECONDS_OF_TESTS:
            break
        chosen.append(name)
    files = paths_of(chosen)
    return sorted(chosen, key=lambda name: files.index(paths_of([name])[0]))


def _run_tests(mutant: Mutant, code: CodeType, tests: list[str], folder: Path) -> int:
    """Returns pytest's exit code: 0 where no test notices the mutant."""
    sandbox.enter(folder, CPU_SECONDS)
    (folder / "code").write_bytes(marshal.dumps(code))
    set_task(file=mutant.file, code=str(folder / "code"))
    sys.meta_path.insert(0, MutantFinder(mutant.file, code))
    return int(pytest.main([*PYTEST, *paths_of(tests)], plugins=[Chosen(tests)]))


def _state(status: int, output: str) -> str:
    """Returns what an exit status of a mutant's process means."""
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == BROKEN:
        raise RuntimeError(f"a mutant's tests could not be run:\n{output}")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return "hung"
    unnoticed = (
        pytest.ExitCode.OK,
        pytest.ExitCode.USAGE_ERROR,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    )
    return "survived" if os.waitstatus_to_exitcode(status) in unnoticed else "killed"


@dataclass(frozen=True)
class _Running:
    mutant: Mutant
    folder: Path
    deadline: float


def controls(work: list[tuple[Mutant, list[str]]]) -> list[tuple[Mutant, list[str]]]:
    """Returns the tests of some mutants with code that has no fault."""
    tested = [(mutant, tests) for mutant, tests in work if tests]
    return [
        (dataclasses.replace(mutant, number=CONTROL), tests)
        for mutant, tests in tested[::CONTROL_EVERY]
    ]


def outcomes(work: list[tuple[Mutant, list[str]]], jobs: int) -> Iterator[Outcome]:
    """Yields what becomes of each mutant under its tests, `jobs` of them at a time."""
    waiting = list(reversed(work))
    running: dict[int, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant, tests = waiting.pop()
                if tests:
                    process, run = _start(mutant, tests)
                    running[process] = run
                else:
                    yield Outcome(mutant, "untested")
            yield from _ended(running)
            time.sleep(0.02)
    finally:
        for process in running:
            _kill(process)


def _start(mutant: Mutant, tests: list[str]) -> tuple[int, _Running]:
    """Starts the tests of a mutant in a process."""
    folder = Path(tempfile.mkdtemp(prefix="mutation-"))
    code = compiled(ROOT, mutant)
    process = _fork(lambda: _run_tests(mutant, code, tests, folder), folder)
    return process, _Running(mutant, folder, time.monotonic() + WALL_SECONDS)


def _kill(process: int) -> None:
    """Ends a mutant's process with those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _ended(running: dict[int, _Running]) -> Iterator[Outcome]:
    """Yields the outcomes of the processes that have ended, and ends those that hang."""
    for process, run in list(running.items()):
        if time.monotonic() > run.deadline:
            _kill(process)
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            del running[process]
            output = (run.folder / "output").read_text(errors="replace")
            shutil.rmtree(run.folder, ignore_errors=True)
            yield Outcome(run.mutant, _state(status, output), output)
