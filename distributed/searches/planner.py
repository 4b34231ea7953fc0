"""What a search runs beside its trials: replicates with fresh seeds, then the winner's test."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from distributed.searches.records import SearchJob, SearchRecord
from distributed.searches.standings import Standings


@dataclass(frozen=True)
class Run:
    """This job can start now."""

    job: SearchJob


@dataclass(frozen=True)
class Wait:
    """What comes next depends on jobs that still run."""


@dataclass(frozen=True)
class Done:
    """The search has ended: nothing is left to run."""


Step = Run | Wait | Done


class Planner:
    """Decides, from the records alone, what comes after the trials of a search.

    seed: of the trials; replicates have the seeds that follow it.
    test: whether the data has test rows.
    """

    def __init__(self, standings: Standings, *, seed: int = 0, test: bool = True) -> None:
        self.standings, self.log = standings, standings.log
        self.seed, self.test = seed, test

    def next_step(self, searching: bool) -> Step:
        """The next replicate or test.

        searching: trials still run. Until they end only the starting point is repeated, which is
        run again in any case.
        """
        replicate = self._next_replicate(searching)
        if replicate is not None:
            return Run(replicate)
        if searching or any(r.state == "running" for r in self.log.of_kind("replicate", "test")):
            return Wait()
        test = self._next_test() if self.test else None
        return Done() if test is None else Run(test)

    def _next_replicate(self, searching: bool) -> SearchJob | None:
        repeated = self.standings.repeated()
        if searching:
            start = self.standings.starting_point()
            repeated = [] if start is None else [start]
        for seed in range(1, self.standings.replicates + 1):
            for record in repeated:
                name = f"{record.name}-seed{seed}"
                if name not in self.log.records:
                    return self._repeat(record, name, "replicate", seed)
        return None

    def _next_test(self) -> SearchJob | None:
        """The winner's next run on the test split: there is one for each of its replicates."""
        winner = self.standings.winner()
        if winner is None:
            return None
        replicates = self.standings.replicates_of(winner.record.name)
        runs = [(r.name, (r.job.seed or 0) - self.seed) for r in replicates]
        for tested, seed in runs or [(winner.record.name, 0)]:
            name = f"{tested}-test"
            if name not in self.log.records:
                job = self._repeat(winner.record, name, "test", seed)
                return dataclasses.replace(job, state=tested)
        return None

    def _repeat(self, record: SearchRecord, name: str, kind: str, seed: int) -> SearchJob:
        return SearchJob(
            name=name,
            kind=kind,
            label=record.job.label,
            settings=record.job.settings,
            of=record.name,
            seed=self.seed + seed,
        )

    def needed_states(self) -> set[str]:
        """The jobs whose saved network a test will load: the replicates, else the leading run."""
        if self.standings.replicates:
            return {r.name for r in self.log.of_kind("replicate")}
        winner = self.standings.winner()
        return set() if winner is None else {winner.record.name}
