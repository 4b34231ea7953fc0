"""Shows how many faults in the code the fast tests notice.

    python -m tests.mutation                                 # the sample that `make test-all` runs
    python -m tests.mutation shards                          # of one area
    python -m tests.mutation --all distributed/shards/index.py   # every mutant of one file

Ends with exit code 1 where fewer than 85 % of the mutants of an area are killed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.mutation import runs, sandbox
from tests.mutation.areas import AREAS, SAMPLE, SMALLEST, Area, read_exceptions, sample
from tests.mutation.mutants import Mutant

WANTED = 0.85


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="areas or source files (default: all areas)")
    parser.add_argument("--all", action="store_true", help="every mutant, not a sample")
    parser.add_argument("--only", default="", help="mutants whose name contains this text")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--verbose", action="store_true", help="every mutant as it ends")
    options = parser.parse_args()
    if not sandbox.version():
        print("needs a Linux kernel with Landlock, which keeps mutants from deleting your files")
        return 2
    runs.preload()
    good = True
    total = sum(len(area.mutants()) for area in AREAS)
    print(
        f"{'area':10} {'run':>5} {'killed':>7} {'hung':>5} {'equal':>6} {'slow':>5} {'share':>7}",
        flush=True,
    )
    for area in AREAS:
        chosen = _chosen(area, options, total)
        if chosen:
            good = _run(area, chosen, options) and good
    return 0 if good else 1


def _chosen(area: Area, options: argparse.Namespace, total: int) -> list[Mutant]:
    """Returns the mutants of an area that the options select."""
    wanted = options.what or [area.name]
    mutants = area.mutants()
    every = [m for m in mutants if area.name in wanted or m.file in wanted]
    if options.only:
        return [mutant for mutant in every if options.only in mutant.name]
    if options.all:
        return every
    share = max(SMALLEST, round(SAMPLE * len(mutants) / total))
    return [mutant for mutant in sample(mutants, share) if mutant in every]


def _run(area: Area, mutants: list[Mutant], options: argparse.Namespace) -> bool:
    """Runs mutants of one area, prints the figures; returns whether enough of them are killed."""
    started = time.monotonic()
    exceptions = read_exceptions()
    equivalent = sum(mutant.name in exceptions.equivalent for mutant in mutants)
    counted = [mutant for mutant in mutants if exceptions.counts(mutant)]
    tests = runs.coverage(area)
    work = [(mutant, runs.tests_for(mutant, tests)) for mutant in counted]
    for outcome in runs.outcomes(runs.controls(work), options.jobs):
        if outcome.state != "survived":
            raise RuntimeError(f"tests fail without a fault:\n{outcome.output}")
    outcomes = []
    for outcome in runs.outcomes(work, options.jobs):
        outcomes.append(outcome)
        if options.verbose:
            last = outcome.output.strip().splitlines()[-3:]
            print(f"{outcome.state:9} {outcome.mutant.name}  {last}", flush=True)
    survivors = [outcome for outcome in outcomes if outcome.state in ("survived", "untested")]
    killed = len(outcomes) - len(survivors)
    share = killed / max(len(outcomes), 1)
    hung = sum(outcome.state == "hung" for outcome in outcomes)
    print(
        f"{area.name:10} {len(outcomes):5} {killed:7} {hung:5} {equivalent:6}"
        f" {len(mutants) - len(counted) - equivalent:5} {share:7.1%}"
        f"   {time.monotonic() - started:.0f} s"
    )
    for outcome in sorted(survivors, key=lambda o: (o.mutant.file, o.mutant.number)):
        print(f"  {outcome.state}: {outcome.mutant.name} line {outcome.mutant.lines[0]}")
    sys.stdout.flush()
    return share >= WANTED


if __name__ == "__main__":
    sys.exit(main())
