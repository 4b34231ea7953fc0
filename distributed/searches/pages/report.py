"""The report of a search, composed from the building blocks of report.py, figures.py and search_figures.py."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed.reporting.page import (
    Bullets,
    Code,
    Figure,
    Section,
    Text,
    write_report,
)
from distributed.searches.experiment import Experiment
from distributed.searches.pages import tables
from model.metrics.names import metric as metric_named

ENOUGH = 4  # configurations run to their end, before a picture of the space says anything


def sections(
    experiment: Experiment,
    base: Mapping[str, Any],
    defaults: Mapping[str, Any],
    command: str,
    wall: float,
) -> list[Section]:
    ended = [r for r in experiment.configurations() if r.state != "running"]
    lead: list[Any] = [Text(tables.verdict(experiment))]
    if experiment.winner() is not None:
        lead += [
            tables.standings(experiment),
            tables.settings(experiment, base, defaults),
            Text("Train with these settings:"),
            Code(command),
        ]
    if (scores := tables.test_scores(experiment)).rows:
        lead.append(scores)
    if note := tables.limits(experiment):
        lead.append(Text(note))
    failed = tables.failures(experiment)
    listed: list[Any] = (
        [tables.trials(experiment, short=True, folded=len(ended) > 30)] if ended else []
    )
    return [
        Section("Best settings", lead),
        Section("Trade-off", trade_off(experiment)),
        Section("What matters", space_figures(experiment)),
        Section("Learning curves", curves(experiment)),
        Section("Trials", listed + ([failed] if failed.rows else [])),
        Section("Cost", [tables.cost(experiment, wall)]),
        Section("How to read this", [Bullets(reading(experiment))]),
    ]


def reading(experiment: Experiment) -> list[str]:
    again = experiment.read_before()
    test = (
        "read by the winner before the search was extended, and by a later winner again"
        if again
        else "read once, after all decisions"
    )
    used = (
        f"The test split is for the winner only; it was {test}."
        if experiment.tests()
        else "The test split was not read."
    )
    found = [
        f"Every decision was made on the validation split. {used}",
        "A configuration that was stopped early has the score of the epoch at which it was stopped.",
    ]
    if experiment.replicates:
        found.append(
            f"The leading {experiment.best} configurations, the starting point and the baselines were trained again with "
            f"{experiment.replicates} fresh seeds; they are ranked by the mean of these, so that being picked for one lucky run counts for "
            "nothing. The best of several means is still a little flattered; the test split is not."
        )
    else:
        found.append(
            "No replicates: the leader was picked among single runs, so its score is flattered. Add --replicates 3."
        )
    return found


def trade_off(experiment: Experiment) -> list[Any]:
    if len(experiment.metrics) < 2:
        return []
    from distributed.searches.pages.figures import pareto

    first, second = experiment.metrics[:2]
    rows = [{m: r.metrics.get(m) for m in experiment.metrics} for r in experiment.finished()]
    names, several = ", ".join(r.name for r in experiment.front()), len(experiment.metrics) > 2
    among = f"; over all {len(experiment.metrics)} metrics none beats" if several else ""
    words = f"{tables.plain(first)} against {tables.plain(second)}; no configuration beats those on the line in both{among}: {names}."
    return (
        [
            Figure(
                figure=pareto(
                    rows,
                    first,
                    second,
                    lower=[m for m in (first, second) if metric_named(m).lower_is_better],
                ),
                caption=words,
                name="pareto",
            )
        ]
        if rows
        else []
    )


def space_figures(experiment: Experiment) -> list[Any]:
    """Importances, slices, contour and parallel coordinates."""
    from distributed.searches.pages import figures

    metric, scale = experiment.metric, tables.scale_of(experiment.metric)
    rows, when = comparable(experiment)
    names = figures.varied(rows, list(dict.fromkeys(k for r in rows for k in r if k != metric)))
    if len(rows) < ENOUGH or not names:
        return []
    words = f"{tables.plain(metric)}{when}"
    found: list[Any] = []
    shares = importances(rows, names, metric)
    if shares:
        caption = f"How much of the spread of {words} each setting explains (by a random forest; few trials make it rough)."
        found.append(
            Figure(figure=figures.importances(shares), caption=caption, name="importances")
        )
    found.append(
        Figure(
            figure=figures.slices(rows, names, metric, scale=scale),
            caption=f"{words} against each setting.",
            name="slices",
        )
    )
    pair = contour_pair(rows, shares)
    if pair:
        picture = figures.contour(
            rows,
            *pair,
            metric,
            scale=scale,
            lower_is_better=metric_named(metric).lower_is_better,
        )
        found.append(
            Figure(figure=picture, caption=f"{words} over {pair[0]} and {pair[1]}.", name="contour")
        )
    caption = f"Every configuration as a line; {words} is the first axis and the colour."
    found.append(
        Figure(
            figure=figures.parallel(rows, names, metric, scale=scale),
            caption=caption,
            name="parallel",
        )
    )
    return found


def comparable(experiment: Experiment) -> tuple[list[dict[str, Any]], str]:
    """Settings and score of configurations that had the same chance: those that ran to their end, or, while these are few, all of them
    at the last epoch that each one reached; and the words that say so.
    """
    metric = experiment.metric
    whole = [r for r in experiment.finished() if r.state == "complete"]
    if len(whole) >= 2 * ENOUGH:
        return [{**r.job.settings, metric: r.metrics[metric]} for r in whole], ""
    tried = [
        r for r in experiment.configurations() if r.state in ("complete", "stopped") and r.history
    ]
    epoch = min((int(r.history[-1]["epoch"]) for r in tried), default=0)
    scores = {
        r.name: entry.get(metric, math.nan)
        for r in tried
        for entry in r.history
        if entry["epoch"] == epoch
    }
    rows = [
        {**r.job.settings, metric: scores[r.name]}
        for r in tried
        if math.isfinite(scores.get(r.name, math.nan))
    ]
    return rows, f" after epoch {epoch}, which all have reached"


def contour_pair(rows: list[dict[str, Any]], shares: Mapping[str, float]) -> tuple[str, str] | None:
    """Margin and fusion temperature where both were searched, else the two numbers that matter most."""

    def numeric(name: str) -> bool:
        values = [r[name] for r in rows if name in r]
        return len(set(values)) >= 3 and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in values
        )

    wanted = ("loss.margin", "fusion.temperature")
    both = [r for r in rows if all(w in r for w in wanted)]
    if len(both) >= ENOUGH and all(len({r[w] for r in both}) >= 3 for w in wanted):
        return wanted
    ranked = [n for n in sorted(shares, key=lambda n: -shares[n]) if numeric(n)]
    return (ranked[0], ranked[1]) if len(ranked) >= 2 else None


def importances(rows: list[dict[str, Any]], names: list[str], metric: str) -> dict[str, float]:
    """Shares of the variance by a random forest; Optuna's own leaves out every setting that was not asked in all trials."""
    if len(rows) < 2 * ENOUGH or len({r[metric] for r in rows}) < 2:
        return {}
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    columns = [_column([r.get(n) for r in rows]) for n in names]
    forest = RandomForestRegressor(n_estimators=100, random_state=0).fit(
        np.array(columns).T, [r[metric] for r in rows]
    )
    return {n: float(v) for n, v in zip(names, forest.feature_importances_)}


def _column(values: list[Any]) -> list[float]:
    """Numbers as they are, words by rank of their name; what was not asked lies below all others."""
    known = [v for v in values if v is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in known):
        below = min(known) - (max(known) - min(known) or 1.0)
        return [below if v is None else float(v) for v in values]
    places = {name: i for i, name in enumerate(sorted({str(v) for v in known}))}
    return [-1.0 if v is None else float(places[str(v)]) for v in values]


def curves(experiment: Experiment) -> list[Any]:
    from distributed.reporting.figures import learning_curves

    metric, winner = experiment.metric, experiment.winner()
    histories = {
        tables.title(r) if r.job.label else r.name: [
            (e["epoch"], e[metric]) for e in r.history if math.isfinite(e.get(metric, math.nan))
        ]
        for r in experiment.configurations()
    }
    histories = {name: points for name, points in histories.items() if points}
    if not histories:
        return []
    best = (
        ""
        if winner is None
        else tables.title(winner.record)
        if winner.record.job.label
        else winner.record.name
    )
    picture = learning_curves(
        histories, y=tables.plain(metric), best=best, scale=tables.scale_of(metric)
    )
    caption = "Validation score of every configuration over its epochs; lines that end early were stopped."
    return [Figure(figure=picture, caption=caption, name="curves")]


class Writer:
    """Writes the report, the tables and TensorBoard in a thread, after every finished job but no more than a tenth of the time."""

    def __init__(self, write_all: Callable[[bool], None], least: float = 3.0) -> None:
        self.write_all, self.least = write_all, least
        self.wake, self.ended = threading.Event(), False
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._loop, name="report", daemon=True)
        self.thread.start()

    def poke(self) -> None:
        self.wake.set()

    def _loop(self) -> None:
        while True:
            self.wake.wait()
            if self.ended:
                return
            self.wake.clear()
            started = time.monotonic()
            try:
                self.write_all(False)
            except (
                Exception
            ) as error:  # a full disk must not stop the search; the last report raises it
                self.error = error
            pause = time.monotonic() + max(self.least, 9 * (time.monotonic() - started))
            while time.monotonic() < pause and not self.ended:
                time.sleep(0.1)

    def close(self) -> None:
        """Stops the thread and writes everything once more."""
        self.ended = True
        self.wake.set()
        self.thread.join()
        self.write_all(True)


def write_search_report(folder: Path, experiment: Experiment, found: list[Section]) -> None:
    words = f"{len(experiment.configurations())} configurations, decided by {tables.plain(experiment.metric)} on validation"
    write_report(folder, "Search", found, lead=words)
