"""Which configuration of a search leads: single runs, means over seeds, the Pareto front."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from distributed.searches.choosing.baselines import ALONE, STARTING_POINTS
from distributed.searches.state.records import (
    CONFIGURATIONS,
    DISTILLED,
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
    """A configuration with its score: its first run, and those that repeat it.

    replicates: the scores with fresh seeds.
    pooled: its newest run on another fold, which has the metrics of all its folds together.
    """

    record: SearchRecord
    replicates: tuple[float, ...] = ()
    pooled: SearchRecord | None = None

    @property
    def title(self) -> str:
        return self.record.job.label or f"trial {self.record.name}"

    @property
    def repeats(self) -> int:
        """How many runs there are beside the first one."""
        return self.pooled.job.fold if self.pooled is not None else len(self.replicates)

    def score(self, metric: str) -> float:
        """The value of all folds together, the mean of the replicates, or the only run's value.

        The first run does not count beside replicates: it may have been chosen for its luck.
        """
        if self.pooled is not None:
            return self.pooled.value(metric)
        if self.replicates:
            return sum(self.replicates) / len(self.replicates)
        return self.record.value(metric)


class Standings:
    """Compares the configurations of a search; the first metric decides, on validation only.

    replicates: how many fresh seeds the leading trials and the starting point are run with.
    best: how many trials lead.
    folds: cuts of training and validation rows on which contenders are trained; 1: only one.
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
        folds: int = 1,
    ) -> None:
        self.log, self.metrics = log, metrics
        self.replicates, self.best, self.ensemble = replicates, best, ensemble
        self.folds = folds

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

    def folds_of(self, name: str) -> list[SearchRecord]:
        """The finished runs of a configuration on other folds than the first, in their order."""
        runs = [r for r in self.log.of_kind("fold") if r.job.of == name and r.state == "complete"]
        return sorted(runs, key=lambda r: r.job.fold)

    def standing(self, record: SearchRecord) -> Standing:
        """A configuration with the scores of what repeats it."""
        folds = self.folds_of(record.name)
        if folds:
            return Standing(record, pooled=folds[-1])
        values = [r.metrics.get(self.metric) for r in self.replicates_of(record.name)]
        return Standing(record, tuple(value for value in values if is_finite(value)))

    def starting_point(self) -> SearchRecord | None:
        """The finished run of the defaults, with the user's changes; all are compared with it."""
        return next((r for r in self.named() if r.job.label in STARTING_POINTS), None)

    def repeated(self) -> list[SearchRecord]:
        """The configurations that are run again, with fresh seeds or on other folds.

        These are the leading trials, the starting point, and every one that was run again before:
        an extension drops no winner that fresh seeds have confirmed. The baselines have one run.
        """
        start = self.starting_point()
        baselines = self.named()  # one that the time budget has stopped counts as a trial
        leading = [r for r in self.finished() if r not in baselines][: self.best]
        others = [r for r in self.finished() if r is not start and r not in leading]
        run_again_before = [r for r in others if self.standing(r).repeats]
        return [*leading, *run_again_before, *([] if start is None else [start])]

    def candidates(self) -> list[SearchRecord]:
        """What is compared: the configurations with fresh seeds, then the other baselines."""
        repeated = self.repeated()
        known = {r.name for r in repeated}
        return [*repeated, *(r for r in self.named() if r.name not in known)]

    def ran_once(self) -> list[Standing]:
        """Those of one run, where others have several, best first."""
        ordered = self.ordered()
        if not any(standing.repeats for standing in ordered):
            return []
        return [standing for standing in ordered if not standing.repeats]

    def ordered(self) -> list[Standing]:
        """The candidates, best first; those of several runs come before those of one, and those of
        more folds before those of fewer.
        """
        standings = [self.standing(r) for r in self.candidates()]

        def rank(standing: Standing) -> tuple[int, float]:
            behind = -standing.repeats if self.folds > 1 else int(not standing.repeats)
            return behind, -self.gain(standing.score(self.metric))

        return sorted(standings, key=rank)

    def ranked(self) -> list[Standing]:
        """Every configuration that ran to its end, best first: those of `ordered`, then the rest.

        While none has, these are the ones that were stopped.
        """
        ordered = self.ordered()
        known = {standing.record.name for standing in ordered}
        rest = [Standing(r) for r in self.finished() if r.name not in known]
        return [*ordered, *rest]

    def winner(self) -> Standing | None:
        """The candidate with the best score of its repeated runs; before there are any, of one run.

        Only networks can win: what wins is recommended as settings.

        Where some candidates have all their replicates or folds, only these can win: a single run
        may have been lucky.
        """
        standings = [self.standing(r) for r in self.candidates()]
        standings = [
            s for s in standings if is_finite(s.score(self.metric)) and not s.record.job.method
        ]
        required = max((self._repeats_that_count(s) for s in standings), default=0)
        eligible = [s for s in standings if s.repeats >= required]
        return max(eligible, key=lambda s: self.gain(s.score(self.metric)), default=None)

    def _repeats_that_count(self, standing: Standing) -> int:
        return min(standing.repeats, self.folds - 1 if self.folds > 1 else self.replicates or 1)

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
        into noise; the winner's own run is always among them. With folds they are the runs of the
        best configurations.
        """
        runs = self.log.of_kind(*(CONFIGURATIONS if self.folds > 1 else TRAINED))
        complete = [r for r in runs if r.state == "complete"]
        by_loss = sorted(complete, key=lambda r: _smooth_loss(self._newest(r)))
        names = [r.name for r in by_loss[: CANDIDATES_FOR_EACH * self.ensemble]]
        winner = self.winner()
        if winner is not None and winner.record.state == "complete":
            names = list(dict.fromkeys([*names, winner.record.name]))
        return [run for name in names for run in self._with_folds(name)]

    def _newest(self, record: SearchRecord) -> SearchRecord:
        """The run that has a configuration's metrics."""
        return self.standing(record).pooled or record

    def _with_folds(self, name: str) -> list[str]:
        """The names of a configuration's runs on all folds."""
        return [name, *(r.name for r in self.folds_of(name))]

    def kept_checkpoints(self) -> set[str]:
        """Names of the runs whose checkpoints are kept, also those of contenders for more folds."""
        kept = {*self.candidate_members(), *(r.name for r in self.compared_when_spoilt())}
        if self.folds > 1:
            contenders = [*self.repeated(), *self.finished()[: 2 * self.best]]
            kept |= {run for record in contenders for run in self._with_folds(record.name)}
        return kept

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

    def distilled(self) -> SearchRecord | None:
        """The network that has learned from the newest model."""
        model = self.model()
        trained = [r for r in self.log.of_kind(DISTILLED) if r.state == "complete"]
        return next((r for r in trained if model is not None and r.job.of == model.name), None)

    def distilled_test(self) -> SearchRecord | None:
        """The run of that network on the test split."""
        distilled = self.distilled()
        tests = self.log.of_kind("test") if distilled is not None else []
        name = "" if distilled is None else distilled.name
        return next((r for r in tests if r.job.of == name and r.state == "complete"), None)

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
