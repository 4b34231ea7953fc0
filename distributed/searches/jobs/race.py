"""Which configurations of a search go on to their next fold.

Every configuration starts on the first fold. A contender gets the next one only while it may still
be among the best: it is one of the leading ones on the folds so far, and behind the best by no more
than what the rows of these folds cannot show.
"""

from __future__ import annotations

from collections.abc import Mapping

from distributed.searches.resolution import smallest_difference
from distributed.searches.state.records import SearchJob, SearchRecord, fold_name, is_finite
from distributed.searches.state.standings import Standings

SECOND_FOLD = 2  # for each of the leading trials, so many contenders get a second fold


class Race:
    """Hands out the folds.

    validation: rows of every class that all folds together have.
    """

    def __init__(self, standings: Standings, validation: Mapping[str, int]) -> None:
        self.standings, self.log, self.validation = standings, standings.log, validation

    def next_fold(self, searching: bool) -> SearchJob | None:
        """The next run of a contender on another fold; None where there is none now.

        searching: trials still run; until they end only the starting point goes on.
        """
        start = self.standings.starting_point()
        for fold in range(1, self.standings.folds):
            contenders = [] if searching else self.contenders(fold)
            if start is not None and self._before(start, fold) is not None:
                contenders = [start, *(r for r in contenders if r is not start)]
            for record in contenders:
                name = fold_name(record.name, fold)
                if name not in self.log.records:
                    return SearchJob(
                        name=name,
                        kind="fold",
                        label=record.job.label,
                        settings=record.job.settings,
                        of=record.name,
                        method=record.job.method,
                        fold=fold,
                        start="" if start is None or start is record else start.name,
                    )
        return None

    def contenders(self, fold: int) -> list[SearchRecord]:
        """The configurations that may have this fold, the best first, by all folds before it.

        Boosted trees, which take seconds and are no settings to recommend, always go on.
        """
        metric = self.standings.metric
        scores = {}
        for record in self.standings.finished():
            before = self._before(record, fold)
            value = None if before is None else before.metrics.get(metric)
            if record.state == "complete" and is_finite(value):
                scores[record.name] = self.standings.gain(value), record
        trees = [record for _, record in scores.values() if record.job.method]
        networks = [entry for entry in scores.values() if not entry[1].job.method]
        ranked = sorted(networks, key=lambda entry: -entry[0])
        limit = self.standings.best * (SECOND_FOLD if fold == 1 else 1)
        leading = ranked[0][0] if ranked else 0.0
        noise = self.noise(fold)
        near = [record for gain, record in ranked[:limit] if leading - gain <= noise]
        return [*near, *trees]

    def noise(self, folds: int) -> float:
        """The difference of the deciding metric below which so many folds tell nothing apart.

        Infinite for metrics of which that is not known.
        """
        rows = {
            name: round(count * folds / self.standings.folds) or 1
            for name, count in self.validation.items()
            if count
        }
        smallest = smallest_difference(self.standings.metric, rows)
        if smallest is None or smallest[0] != self.standings.metric:
            return float("inf")
        return smallest[1]

    def _before(self, record: SearchRecord, fold: int) -> SearchRecord | None:
        """A configuration's finished run on the fold before this one."""
        run = self.log.records.get(fold_name(record.name, fold - 1))
        return run if run is not None and run.state == "complete" else None
