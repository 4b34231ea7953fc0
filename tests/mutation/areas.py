"""What the mutation run covers: code, and the tests that must notice a fault in it."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.hook import ROOT
from tests.mutation.mutants import Mutant, mutants

SAMPLE = 200  # mutants of a run, of all areas together
SMALLEST = 15  # of them from one area, at least
SEED = "longtail"


@dataclass(frozen=True)
class Area:
    """Some source files, and the files and folders of their tests."""

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def files(self) -> list[str]:
        """Returns the source files that have code, relative to the root."""
        paths = [
            file
            for source in self.sources
            for file in (sorted((ROOT / source).glob("*.py")) or [ROOT / source])
        ]
        return [str(path.relative_to(ROOT)) for path in paths if path.read_text().strip()]

    def mutants(self) -> list[Mutant]:
        return [mutant for file in self.files() for mutant in mutants(ROOT, file)]


AREAS = (
    Area("runtime", ("distributed/runtime",), ("tests/runtime",)),
    Area("shards", ("distributed/shards",), ("tests/shards",)),
    Area(
        "records",
        ("distributed/searches/state/records.py",),
        ("tests/searches/state/test_records.py", "tests/searches/jobs/test_searcher.py"),
    ),
    Area(
        "states",
        ("distributed/training/states.py",),
        tuple(f"tests/training/test_{name}.py" for name in ("states", "resume")),
    ),
)


@dataclass(frozen=True)
class Exceptions:
    """Mutants that are not counted, by name or function, each with its reason.

    equivalent: no test can tell them from the code. slow_only: functions that run only where Ray
    or another process does; tests that are too slow for hundreds of mutants cover them.
    """

    equivalent: dict[str, str]
    slow_only: dict[str, str]

    def counts(self, mutant: Mutant) -> bool:
        return mutant.name not in self.equivalent and not self.is_slow_only(mutant)

    def is_slow_only(self, mutant: Mutant) -> bool:
        return mutant.name.partition(":")[0] in self.slow_only


def read_exceptions() -> Exceptions:
    """Returns the content of exceptions.toml beside this file."""
    plain = tomllib.loads((Path(__file__).parent / "exceptions.toml").read_text())
    equivalent, slow_only = (
        {name: group["reason"] for group in plain[kind] for name in group["of"]}
        for kind in ("equivalent", "slow_only")
    )
    return Exceptions(equivalent, slow_only)


def sample(mutants: list[Mutant], size: int) -> list[Mutant]:
    """Returns a sample that is spread over the files and stays the same from run to run.

    Every file has a share by its number of mutants, at least one. Which ones are chosen depends on
    their names only, so that a change elsewhere does not draw others.
    """
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.file, []).append(mutant)
    chosen: list[Mutant] = []
    for group in by_file.values():
        share = max(1, round(size * len(group) / len(mutants)))
        chosen += sorted(group, key=_lot)[:share]
    return chosen


def _lot(mutant: Mutant) -> tuple[str, int]:
    return hashlib.sha256(f"{SEED} {mutant.name}".encode()).hexdigest(), mutant.number
