"""Which test runs which line: a pytest plugin that traces the tests of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.hook import ROOT, Line, Tracer, read_lines

SLOW_MARKS = ("slow", "cluster")
SLOW_FIXTURES = ("ray_local", "wafer_shards")  # they start Ray or a command
MAX_SECONDS = 4.0  # of the processor, for a test that is run for every mutant


@dataclass
class TestCoverage:
    """What one test did: its processor seconds, and the lines that it and its fixtures ran."""

    __test__ = False  # for pytest

    seconds: float
    lines: set[Line] = field(default_factory=set)


def is_fast(item: pytest.Item) -> bool:
    """Whether a test neither starts Ray nor belongs to the slow ones."""
    fixtures = getattr(item, "fixturenames", ())
    marked = any(item.get_closest_marker(mark) for mark in SLOW_MARKS)
    return not marked and not any(name in fixtures for name in SLOW_FIXTURES)


def _cpu_seconds() -> float:
    """Returns the processor time of this process and of those that it has started and ended.

    The time on the clock would depend on what else the machine does.
    """
    return sum(os.times()[:4])


class CoveragePlugin:
    """Traces the given files while tests run; `tests` has every fast test that passed.

    The lines that a fixture runs belong to all tests that use it, not only to the first one.
    folder: where the processes that tests start leave their lines.
    """

    def __init__(self, files: list[str], folder: Path) -> None:
        self.tracer = Tracer(files)
        self.folder = folder
        self.tests: dict[str, TestCoverage] = {}
        self.by_fixture: dict[object, set[Line]] = {}
        self.passed: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if is_fast(item)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.tracer.lines = set()
        started = _cpu_seconds()
        self.tracer.start()
        try:
            return (yield)
        finally:
            self.tracer.stop()
            seconds = _cpu_seconds() - started
            lines = self.tracer.lines | read_lines(self.folder)
            if item.nodeid in self.passed and seconds < MAX_SECONDS:
                info: Any = getattr(item, "_fixtureinfo", None)
                definitions = info.name2fixturedefs.values() if info else ()
                shared = (self.by_fixture.get(d, set()) for group in definitions for d in group)
                self.tests[item.nodeid] = TestCoverage(seconds, lines.union(*shared))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: object) -> Iterator[None]:
        outer, self.tracer.lines = self.tracer.lines, set()
        try:
            return (yield)
        finally:
            self.by_fixture[fixturedef] = self.tracer.lines
            self.tracer.lines = outer | self.tracer.lines

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)


class Chosen:
    """A pytest plugin: runs the chosen tests only, in the order in which they are given."""

    def __init__(self, tests: list[str]) -> None:
        self.order = {name: position for position, name in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order),
            key=lambda item: self.order[item.nodeid],
        )


def paths_of(tests: list[str]) -> list[str]:
    """Returns the files of these tests, each once."""
    return list(dict.fromkeys(str(Path(ROOT, name.partition("::")[0])) for name in tests))
