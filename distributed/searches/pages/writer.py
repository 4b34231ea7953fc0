"""Writes everything in the experiment's folder that is not state, in a thread beside the search."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from distributed import config
from distributed.reporting.files import write_atomically
from distributed.reporting.page import write_report
from distributed.reporting.tables import to_csv
from distributed.searches.pages.board import SearchBoard
from distributed.searches.pages.distilled import distilled_sentence
from distributed.searches.pages.notes import search_notes
from distributed.searches.pages.report import Ending, report_lead, report_title, sections
from distributed.searches.pages.searched_model import searched_model
from distributed.searches.pages.spoilt_table import spoilt_rows
from distributed.searches.pages.tables import configurations_table
from distributed.searches.pages.verdict import title
from distributed.searches.setup import CheckedSearch
from distributed.searches.state.mirror import Mirror
from distributed.searches.state.records import SettingValues
from distributed.searches.state.standings import Standings
from model.metrics import names


class PageWriter:
    """Writes trials.csv, best.toml, the report and TensorBoard's files, and uploads them.

    train_command: trains with the winner's settings.
    started: when this process began to work, on the monotonic clock.
    """

    def __init__(
        self,
        search: CheckedSearch,
        standings: Standings,
        mirror: Mirror,
        train_command: str,
        started: float,
    ) -> None:
        self.standings, self.mirror = standings, mirror
        self.train_command, self.started = train_command, started
        setup = search.setup
        self.base = setup.lasting
        self.notes = search_notes(search)
        self.defaults = config.flatten(config.Config())
        outside = {name for job in search.starting_points.outside for name in job.settings}
        self.board = SearchBoard(
            standings,
            config.flatten(setup.settings),
            sorted({*search.searched, *outside}),
            curves=setup.settings.scaling.workers == 1,
        )

    def write(self, last: bool) -> None:
        """Writes all files anew. last: the search has ended."""
        write_tables(self.standings, self.base)
        wall_seconds = time.monotonic() - self.started
        out = self.mirror.out
        blocks = sections(
            self.standings,
            self.base,
            self.defaults,
            self.train_command,
            wall_seconds,
            self.notes,
            Ending(
                searched_model(self.standings, out),
                spoilt_rows(self.standings, out),
                distilled_sentence(self.standings, out),
            ),
        )
        write_report(
            self.mirror.folder,
            report_title(self.notes, out),
            blocks,
            lead=report_lead(self.standings, self.notes),
        )
        if last:
            self.board.close()
        else:
            self.board.update()
        self.mirror.upload()


def write_tables(standings: Standings, base: SettingValues) -> None:
    """Writes trials.csv, and best.toml once a configuration leads.

    base: settings of the starting point that best.toml has.
    """
    write_atomically(standings.folder / "trials.csv", to_csv(configurations_table(standings)))
    winner = standings.winner()
    if winner is None:
        return
    metric = names.metric(standings.metric)
    score = metric.text(winner.score(metric.name), missing="none")
    about = f"{title(winner.record)}: {metric.title} {score} on validation. For train.py --config."
    settings = {**base, **winner.record.job.settings}
    write_atomically(standings.folder / "best.toml", config.settings_file(settings, about))


class BackgroundWriter:
    """Calls a function that writes, in a thread, after every `wake`.

    It pauses so long that writing takes a tenth of the time at most.

    write: takes whether this is the last call.
    min_pause: seconds between two calls, at least.
    """

    def __init__(self, write: Callable[[bool], None], min_pause: float = 3.0) -> None:
        self.write, self.min_pause = write, min_pause
        self.woken, self.closed = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._loop, name="report", daemon=True)
        self.thread.start()

    def wake(self) -> None:
        """Says that there is something new to write."""
        self.woken.set()

    def _loop(self) -> None:
        while True:
            self.woken.wait()
            if self.closed.is_set():
                return
            self.woken.clear()
            started = time.monotonic()
            try:
                self.write(False)
            except Exception as error:
                # A full disk must not stop the search: the last call, in `close`, raises it.
                self.error = error
            seconds = time.monotonic() - started
            self.closed.wait(max(self.min_pause, 9 * seconds))

    def close(self) -> None:
        """Stops the thread and writes everything once more."""
        self.closed.set()
        self.woken.set()
        self.thread.join()
        self.write(True)
