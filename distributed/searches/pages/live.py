"""What a person sees while a search runs: one short live table on a terminal, one line a finished run elsewhere; then the final table."""

from __future__ import annotations

import sys
import time
from typing import Any

from distributed.reporting.tables import ReportTable, cell_text
from distributed.searches.experiment import Experiment
from distributed.searches.pages import tables
from distributed.searches.records import SearchRecord

STAGES = {
    "search": "searching",
    "named": "searching",
    "replicate": "running the best again with fresh seeds",
    "test": "testing the winner",
}
REFRESH = 0.5  # seconds


class SearchView:
    """Trials done, what runs now, the best so far and the defaults."""

    def __init__(self, experiment: Experiment, trials: int) -> None:
        self.experiment, self.trials = experiment, trials
        self.started, self.drawn = time.monotonic(), 0.0
        self.said = {r.name for r in experiment.records.values() if r.state != "running"}
        self.live: Any = None

    def __enter__(self) -> SearchView:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(
                self.table(), console=Console(stderr=True), auto_refresh=False, transient=True
            )
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self) -> None:
        """Cheap enough to be called after every event."""
        if self.live is None:
            for record in list(self.experiment.records.values()):
                if record.state != "running" and record.name not in self.said:
                    self.said.add(record.name)
                    print(self.line(record), file=sys.stderr, flush=True)
        elif time.monotonic() - self.drawn > REFRESH:
            self.live.update(self.table(), refresh=True)
            self.drawn = time.monotonic()

    def done(self) -> int:
        return sum(r.state != "running" for r in self.experiment.configurations())

    def line(self, record: SearchRecord) -> str:
        """A finished run in one line of a log."""
        metric = self.experiment.metric
        what = {"replicate": f"seed {record.job.seed}, ", "test": "on the test split "}.get(
            record.job.kind, ""
        )
        name = record.job.label or f"trial {record.job.of or record.name}"
        words = tables.shown(record.metrics.get(metric), metric)
        state = {
            "complete": words,
            "stopped": f"stopped at epoch {record.epoch} with {words}",
            "failed": f"failed: {record.reason}",
        }[record.state]
        best = self.experiment.winner()
        lead = (
            ""
            if best is None
            else f", best {tables.shown(best.score(metric), metric)} ({best.title})"
        )
        return f"[{self.clock()}] {self.done()}/{max(self.trials, self.done())}{lead} | {name}: {what}{state}, {record.seconds:.0f} s"

    def clock(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def table(self) -> Any:
        from rich.table import Table as RichTable

        metric = self.experiment.metric
        running = [r for r in list(self.experiment.records.values()) if r.state == "running"]
        stage = STAGES[running[-1].job.kind] if running else "starting"
        caption = f"{stage}: {self.done()} of {max(self.trials, self.done())} configurations, {self.clock()}"
        shown = RichTable(title=caption, title_justify="left", box=None, pad_edge=False)
        for column in ("", "", f"{tables.plain(metric)}"):
            shown.add_column(column)
        for record in running[-6:]:
            epochs = f"epoch {record.epoch}/{record.epochs}" if record.epochs else "starting"
            shown.add_row(
                f"running {record.name}",
                epochs,
                tables.shown(record.metrics.get(metric), metric) if record.metrics else "",
            )
        leaders = [r for r in self.experiment.finished() if not r.job.label][:3]
        for record in [*leaders, *self.experiment.named()]:
            score = self.experiment.standing(record).score(metric)
            shown.add_row(tables.title(record), "", tables.shown(score, metric))
        failed = sum(r.state == "failed" for r in self.experiment.records.values())
        if failed:
            shown.add_row(f"[red]{failed} failed[/red]", "", "")
        return shown


def print_table(table: ReportTable) -> None:
    """A table as plain aligned columns on stdout: it may be a log."""
    cells = [list(table.columns), *[[cell_text(c) for c in row] for row in table.rows]]
    widths = [min(60, max(len(row[i]) for row in cells)) for i in range(len(table.columns))]
    print(f"\n{table.caption}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
