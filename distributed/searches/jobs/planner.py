"""What a search runs beside its trials: fresh seeds or more folds, its model, then the tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from distributed.searches.jobs.race import Race
from distributed.searches.state.records import (
    AFTER_TRIALS,
    DISTILLED,
    TRAINED,
    SearchJob,
    SearchRecord,
)
from distributed.searches.state.standings import COMPARED, Standing, Standings


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


MODEL_LABEL = "the model"
DISTILLED_LABEL = "the distilled network"


class Planner:
    """Decides, from the records alone, what comes after the trials of a search.

    seed: of the trials; replicates have the seeds that follow it.
    test: whether the data has test rows.
    spoil: whether the test rows are also scored with a modality spoilt.
    distil: whether one network learns from the model.
    validation: rows of every class that all folds together have, by which contenders are told
        apart.
    """

    def __init__(
        self,
        standings: Standings,
        *,
        seed: int = 0,
        test: bool = True,
        spoil: bool = False,
        distil: bool = False,
        validation: Mapping[str, int] | None = None,
    ) -> None:
        self.standings, self.log = standings, standings.log
        self.seed, self.test, self.spoil, self.distil = seed, test, spoil, distil
        self.race = Race(standings, validation or {})

    def next_step(self, searching: bool, racing: bool = True) -> Step:
        """The next replicate or fold, the model of several runs, or the next test.

        searching: trials still run. Until they end only the starting point is repeated, which is
        run again in any case.
        racing: the time budget still allows folds.
        """
        replicate = self._next_replicate(searching)
        if replicate is None and racing:
            replicate = self.race.next_fold(searching)
        if replicate is not None:
            return Run(replicate)
        others = self.log.of_kind(*AFTER_TRIALS)
        if searching or any(r.state == "running" for r in others):
            return Wait()
        model = self._next_model()
        model = model or self._next_distilled()
        if model is not None:
            return Run(model)
        if not self.test:
            return Done()
        test = self._next_test() or self._next_model_test() or self._next_spoilt()
        test = test or self._next_distilled_test()
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
        """The winner's next run on the test split: one for each of its replicates or folds."""
        winner = self.standings.winner()
        if winner is None:
            return None
        if winner.pooled is not None:
            return self._next_fold_test(winner)
        replicates = self.standings.replicates_of(winner.record.name)
        runs = [(r.name, (r.job.seed or 0) - self.seed) for r in replicates]
        for tested, seed in runs or [(winner.record.name, 0)]:
            name = f"{tested}-test"
            if name not in self.log.records:
                job = self._repeat(winner.record, name, "test", seed)
                return dataclasses.replace(job, state=tested)
        return None

    def _next_fold_test(self, winner: Standing) -> SearchJob | None:
        for run in (winner.record, *self.standings.folds_of(winner.record.name)):
            name = f"{run.name}-test"
            if name not in self.log.records:
                job = self._repeat(winner.record, name, "test", 0)
                return dataclasses.replace(job, state=run.name, fold=run.job.fold)
        return None

    def _next_model(self) -> SearchJob | None:
        """The choice of the runs that answer together, once for each set of finished runs."""
        winner, members = self.standings.winner(), self.standings.candidate_members()
        if winner is None or not members or not self.standings.ensemble:
            return None
        complete = [r for r in self.log.of_kind(*TRAINED) if r.state == "complete"]
        name = f"model-of-{len(complete)}-runs"
        if name in self.log.records:
            return None
        of = winner.record.name
        return SearchJob(name=name, kind="ensemble", label=MODEL_LABEL, of=of, members=members)

    def _next_model_test(self) -> SearchJob | None:
        model = self.standings.model()
        if model is None or f"{model.name}-test" in self.log.records:
            return None
        return dataclasses.replace(model.job, name=f"{model.name}-test", kind="test", of=model.name)

    def _next_distilled(self) -> SearchJob | None:
        """The network that learns from the newest model, with the starting point's settings."""
        model, start = self.standings.model(), self.standings.starting_point()
        if model is None or start is None or not self.distil:
            return None
        name = f"{model.name}-distilled"
        if name in self.log.records:
            return None
        return SearchJob(
            name=name,
            kind=DISTILLED,
            label=DISTILLED_LABEL,
            settings=start.job.settings,
            of=model.name,
            method=DISTILLED,
        )

    def _next_distilled_test(self) -> SearchJob | None:
        distilled = self.standings.distilled()
        if distilled is None or f"{distilled.name}-test" in self.log.records:
            return None
        name = f"{distilled.name}-test"
        return dataclasses.replace(distilled.job, name=name, kind="test", of=distilled.name)

    def _next_spoilt(self) -> SearchJob | None:
        """The model, the winner and the baselines on test rows of which a modality is spoilt."""
        model, winner = self.standings.model(), self.standings.winner()
        if model is None or winner is None or not self.spoil:
            return None
        name = f"{model.name}-spoilt"
        if name in self.log.records:
            return None
        compared = self.standings.compared_when_spoilt()
        return SearchJob(
            name=name,
            kind="spoilt",
            label=MODEL_LABEL,
            of=model.name,
            members=[r.name for r in compared],
            plain=next((r.name for r in compared if r.job.label in COMPARED), ""),
        )

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
        if self.standings.folds > 1:  # their tests load the checkpoints
            return set()
        if self.standings.replicates:
            return {r.name for r in self.log.of_kind("replicate")}
        winner = self.standings.winner()
        return set() if winner is None else {winner.record.name}
