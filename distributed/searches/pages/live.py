"""What the user sees while a search runs: a short live table on a terminal, else a line for each
finished run.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from distributed.searches.pages.forecast import duration, seconds_left
from distributed.searches.pages.verdict import title
from distributed.searches.state.records import SearchRecord
from distributed.searches.state.standings import Standings
from model.metrics import names

STAGES = {
    "search": "searching",
    "named": "searching",
    "portfolio": "searching",
    "replicate": "running the best again with fresh seeds",
    "fold": "training the best on more folds",
    "ensemble": "choosing the networks that answer together",
    "distilled": "training one network on the answers of the model",
    "test": "testing the winner and the model",
    "spoilt": "testing them on rows with a spoilt modality",
}
REFRESH_SECONDS = 0.5
LISTED_RUNS = 6  # running ones in the live table
LISTED_TRIALS = 3  # leading ones in the live table, beside the baselines


class SearchView:
    """Shows configurations done, what runs now, the best so far and the starting point."""

    def __init__(self, standings: Standings, trials: int) -> None:
        self.standings = standings
        self.log = standings.log
        self.trials = trials
        self.metric = names.metric(standings.metric)
        self.started = time.monotonic()
        self.drawn = 0.0
        self.printed = {r.name for r in self.log.ended()}
        self.live: Live | None = None

    def __enter__(self) -> SearchView:
        if sys.stderr.isatty():
            self.live = Live(
                self.table(), console=Console(stderr=True), auto_refresh=False, transient=True
            )
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the live table."""
        if self.live is not None:
            self.live.stop()

    def update(self) -> None:
        """Shows what is new. Cheap enough to be called after every event."""
        if self.live is None:
            for record in self.log.ended():
                if record.name not in self.printed:
                    self.printed.add(record.name)
                    print(self.line(record), file=sys.stderr, flush=True)
        elif time.monotonic() - self.drawn > REFRESH_SECONDS:
            self.live.update(self.table(), refresh=True)
            self.drawn = time.monotonic()

    def progress(self) -> tuple[int, int]:
        """Configurations that have ended, and how many there will be."""
        done = sum(r.state != "running" for r in self.log.configurations())
        return done, max(self.trials, done)

    def line(self, record: SearchRecord) -> str:
        """A finished run as a line of a log."""
        job = record.job
        kinds = {
            "replicate": f"seed {job.seed}, ",
            "fold": f"{job.fold + 1} folds, ",
            "test": "on the test split ",
        }
        name = job.label or f"trial {job.of or record.name}"
        score = self.score(record.metrics.get(self.metric.name))
        outcome = {
            "complete": score,
            "stopped": f"stopped at epoch {record.epoch} with {score}",
            "failed": f"failed: {record.reason}",
        }[record.state]
        done, total = self.progress()
        seconds = names.metric("train_seconds").text(record.seconds)
        winner = self.standings.winner()
        best = ""
        if winner is not None:
            best = f", best {self.score(winner.score(self.metric.name))} ({winner.title})"
        return (
            f"[{self.clock()}{self.rest()}] {done}/{total}{best} | {name}:"
            f" {kinds.get(job.kind, '')}{outcome}, {seconds}"
        )

    def score(self, value: float | None) -> str:
        return self.metric.text(value, missing="none")

    def clock(self) -> str:
        """Minutes and seconds since this process began to search."""
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def rest(self) -> str:
        """How long the trainings take that are left, once that can be told."""
        left = seconds_left(self.standings, self.trials)
        return f", about {duration(left)} left" if left else ""

    def table(self) -> Table:
        """The live table."""
        with self.log.lock:
            records = list(self.log.records.values())
        running = [r for r in records if r.state == "running"]
        stage = STAGES[running[-1].job.kind] if running else "starting"
        done, total = self.progress()
        caption = f"{stage}: {done} of {total} configurations, {self.clock()}{self.rest()}"
        table = Table(title=caption, title_justify="left", box=None, pad_edge=False)
        for column in ("", "", self.metric.title):
            table.add_column(column)
        for record in running[-LISTED_RUNS:]:
            epochs = f"epoch {record.epoch}/{record.epochs}" if record.epochs else "starting"
            score = self.score(record.metrics.get(self.metric.name)) if record.metrics else ""
            table.add_row(f"running {record.name}", epochs, score)
        leading = [r for r in self.standings.finished() if not r.job.is_baseline][:LISTED_TRIALS]
        for record in [*leading, *self.standings.named()]:
            mean = self.standings.standing(record).score(self.metric.name)
            table.add_row(title(record), "", self.score(mean))
        failed = sum(r.state == "failed" for r in records)
        if failed:
            table.add_row(f"[red]{failed} failed[/red]", "", "")
        return table
