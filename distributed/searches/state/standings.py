"""Which configuration of a search leads: single runs, means over seeds, the Pareto front."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from distributed.searches.choosing.baselines import ALONE, STARTING_POINTS
from distributed.searches.state.records import (
    SMOOTH_METRIC,
    TRAINED,
    SearchLog,
    SearchRecord,
    is_finite,
)
from model.metrics import names

# Candidates of the model that the search ends with, for each network that it may have.
CANDIDATES_FOR_EACH = 2
COMPARED = ("concatenation",)  # labels of baselines that are scored on spoilt rows too


@dataclass(frozen=True)
class Standing:
    """A configuration with its score: its first run, and the scores of its replicates."""

    record: SearchRecord
    replicates: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        return self.record.job.label or f"trial {self.record.name}"

    def score(self, metric: str) -> float:
        """The mean of the replicates, or the first run's value where there are none.

        The first run does not count beside replicates: it may have been chosen for its luck.
        """
        if self.replicates:
            return sum(self.replicates) / len(self.replicates)
        return self.record.value(metric)


class Standings:
    """Compares the configurations of a search; the first metric decides, on validation only.

    replicates: how many fresh seeds the leading trials and the starting point are run with.
    best: how many trials lead.
    ensemble: how many networks the model that the search ends with may have; 0: it builds none.
    """

    def __init__(
        self,
        log: SearchLog,
        metrics: list[str],
        *,
        replicates: int = 0,
        best: int = 3,
        ensemble: int = 0,
    ) -> None:
        self.log, self.metrics = log, metrics
        self.replicates, self.best, self.ensemble = replicates, best, ensemble

    @property
    def folder(self) -> Path:
        return self.log.folder

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return self.metrics[0]

    def gain(self, value: float) -> float:
        """The deciding metric's value with the sign that makes larger values better."""
        return -value if names.metric(self.metric).lower_is_better else value

    def finished(self) -> list[SearchRecord]:
        """Configurations that ran to their end, best first; if there are none, the stopped ones."""
        scored = [r for r in self.log.configurations() if is_finite(r.metrics.get(self.metric))]
        complete = [r for r in scored if r.state == "complete"]
        compared = complete or [r for r in scored if r.state == "stopped"]
        return sorted(compared, key=lambda r: -self.gain(r.value(self.metric)))

    def named(self) -> list[SearchRecord]:
        """The starting point and the baselines that ran to their end."""
        return [r for r in self.log.configurations() if r.job.is_baseline and r.state == "complete"]

    def replicates_of(self, name: str) -> list[SearchRecord]:
        """The finished runs that repeat a configuration with other seeds."""
        replicates = self.log.of_kind("replicate")
        return [r for r in replicates if r.job.of == name and r.state == "complete"]

    def standing(self, record: SearchRecord) -> Standing:
        """A configuration with the scores of its replicates."""
        values = [r.metrics.get(self.metric) for r in self.replicates_of(record.name)]
        return Standing(record, tuple(value for value in values if is_finite(value)))

    def starting_point(self) -> SearchRecord | None:
        """The finished run of the defaults, with the user's changes; all are compared with it."""
        return next((r for r in self.named() if r.job.label in STARTING_POINTS), None)

    def repeated(self) -> list[SearchRecord]:
        """The configurations that are run again with fresh seeds.

        These are the leading trials, the starting point, and every one that was run again before:
        an extension drops no winner that fresh seeds have confirmed. The baselines have one run.
        """
        start = self.starting_point()
        baselines = self.named()  # one that the time budget has stopped counts as a trial
        leading = [r for r in self.finished() if r not in baselines][: self.best]
        others = [r for r in self.finished() if r is not start and r not in leading]
        run_again_before = [r for r in others if self.replicates_of(r.name)]
        return [*leading, *run_again_before, *([] if start is None else [start])]

    def candidates(self) -> list[SearchRecord]:
        """What is compared: the configurations with fresh seeds, then the other baselines."""
        repeated = self.repeated()
        known = {r.name for r in repeated}
        return [*repeated, *(r for r in self.named() if r.name not in known)]

    def ran_once(self) -> list[Standing]:
        """Those of one run, where others have several, best first."""
        ordered = self.ordered()
        if not any(standing.replicates for standing in ordered):
            return []
        return [standing for standing in ordered if not standing.replicates]

    def ordered(self) -> list[Standing]:
        """The candidates, best first; those of several runs come before those of one."""
        standings = [self.standing(r) for r in self.candidates()]
        return sorted(standings, key=lambda s: (not s.replicates, -self.gain(s.score(self.metric))))

    def ranked(self) -> list[Standing]:
        """Every configuration that ran to its end, best first: those of `ordered`, then the rest.

        While none has, these are the ones that were stopped.
        """
        ordered = self.ordered()
        known = {standing.record.name for standing in ordered}
        rest = [Standing(r) for r in self.finished() if r.name not in known]
        return [*ordered, *rest]

    def winner(self) -> Standing | None:
        """The candidate with the best mean over replicates; before there are any, the best run.

        Only networks can win: what wins is recommended as settings.

        Where some candidates have all their replicates, only these can win: a single run may have
        been lucky.
        """
        standings = [self.standing(r) for r in self.candidates()]
        standings = [
            s for s in standings if is_finite(s.score(self.metric)) and not s.record.job.method
        ]
        required = max((self._replicates_that_count(s) for s in standings), default=0)
        eligible = [s for s in standings if len(s.replicates) >= required]
        return max(eligible, key=lambda s: self.gain(s.score(self.metric)), default=None)

    def _replicates_that_count(self, standing: Standing) -> int:
        return min(len(standing.replicates), self.replicates or 1)

    def front(self) -> list[SearchRecord]:
        """The Pareto front: configurations that no other beats in every metric."""
        signs = [-1.0 if names.metric(m).lower_is_better else 1.0 for m in self.metrics]
        scored = [
            r for r in self.finished() if all(is_finite(r.metrics.get(m)) for m in self.metrics)
        ]
        points = {r.name: [s * r.value(m) for s, m in zip(signs, self.metrics)] for r in scored}

        def is_beaten(point: list[float]) -> bool:
            return any(
                other != point and all(a >= b for a, b in zip(other, point))
                for other in points.values()
            )

        return [r for r in scored if not is_beaten(points[r.name])]

    def candidate_members(self) -> list[str]:
        """Names of the runs that the search's model may be made of, the best ones first.

        They are compared by class-balanced log-loss, which few rows of a rare class do not turn
        into noise; the winner's own run is always among them.
        """
        runs = self.log.of_kind(*TRAINED)
        complete = [r for r in runs if r.state == "complete"]
        by_loss = sorted(complete, key=_smooth_loss)
        names = [r.name for r in by_loss[: CANDIDATES_FOR_EACH * self.ensemble]]
        winner = self.winner()
        if winner is not None and winner.record.state == "complete":
            names = list(dict.fromkeys([*names, winner.record.name]))
        return names

    def kept_checkpoints(self) -> set[str]:
        """Names of the runs whose checkpoints are kept when the search has ended."""
        return {*self.candidate_members(), *(r.name for r in self.compared_when_spoilt())}

    def compared_when_spoilt(self) -> list[SearchRecord]:
        """Concatenation, each modality alone, and the winner."""
        named = [r for r in self.named() if r.job.label in COMPARED or r.job.label.endswith(ALONE)]
        winner = self.winner()
        if winner is not None and winner.record not in named:
            named.append(winner.record)
        return [r for r in named if r.state == "complete"]

    def model(self) -> SearchRecord | None:
        """The newest model of several runs that the search has built."""
        built = [r for r in self.log.of_kind("ensemble") if r.state == "complete"]
        return max(built, key=lambda r: r.started, default=None)

    def model_test(self) -> SearchRecord | None:
        """The newest model's run on the test split."""
        model = self.model()
        if model is None:
            return None
        tests = [r for r in self.log.of_kind("test") if r.job.of == model.name]
        return next((r for r in tests if r.state == "complete"), None)

    def tests(self) -> list[SearchRecord]:
        """The finished runs of the present winner on the test split."""
        winner = self.winner()
        if winner is None:
            return []
        tests = self.log.of_kind("test")
        return [r for r in tests if r.job.of == winner.record.name and r.state == "complete"]

    def was_extended_after_test(self) -> bool:
        """Whether a job began after the test split was first read: the search had ended before."""
        first_test = min((r.started for r in self.log.of_kind("test")), default=math.inf)
        others = self.log.of_kind(*TRAINED)
        return any(r.started > first_test for r in others)


def _smooth_loss(record: SearchRecord) -> float:
    """Class-balanced log-loss on validation; a run without one comes last."""
    value = record.metrics.get(SMOOTH_METRIC)
    return value if is_finite(value) else math.inf
