"""TensorBoard's files of a search: curves of every job, and a table of settings and final metrics.

TensorBoard calls the table HParams. Replicates share a row of it with what they repeat, and the row
has the mean of all its runs, the first one too. The report ranks by fresh seeds alone, so the rank
and the score of the report are columns of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from distributed.config import setting_fields
from distributed.reporting.events import EventWriter, SettingColumn, remove_event_files
from distributed.reporting.files import write_atomically
from distributed.searches.state.records import (
    SEARCH_METRICS,
    SearchRecord,
    SettingValues,
    is_finite,
)
from distributed.searches.state.standings import Standings
from model.metrics.names import metric

# TensorBoard sorts groups of scalars by name, and this is the first one.
CHOSEN_BY = "chosen_by"
REPORT = "report"  # group of what the report says of a configuration
RANK = f"{REPORT}/rank"
CHARTS = ("balanced_nll", "few_shot_accuracy", "worst_recall", "accuracy")
UNGROUPED = ("rows_per_second",)  # metrics of an epoch that are no validation scores


class SearchBoard:
    """Keeps the event files of an experiment up to date with its records.

    The file of the experiment's folder holds the columns of the table and the page of charts;
    trials/NAME holds the curves and the row of a job.

    start: all settings of the search's starting point.
    names: settings that are columns of the table from the beginning.
    curves: whether to write curves; workers of a job's own write them themselves.
    """

    def __init__(
        self, standings: Standings, start: SettingValues, names: Sequence[str], curves: bool = True
    ) -> None:
        self.standings, self.log, self.start = standings, standings.log, dict(start)
        self.first_columns, self.curves = sorted(names), curves
        self.columns: list[str] = []
        self.writers: dict[str, EventWriter] = {}  # of the jobs whose files are open
        self.written_epochs: dict[str, int] = {}  # the last epoch in a job's file
        # An earlier process of the search has written these.
        self.closed = {
            r.name for r in self.log.ended() if any(self.folder(r.name).glob("events.*"))
        }

    def folder(self, name: str) -> Path:
        """The folder of a job's event file."""
        return self.log.folder / "trials" / name

    def update(self) -> None:
        """Writes what is new since the last call."""
        with self.log.lock:
            records = [r for r in self.log.records.values() if r.name not in self.closed]
            snapshot = [(r, list(r.history), r.state) for r in records]
        settings = {name for record, _, _ in snapshot for name in record.job.settings}
        if not self.columns or not settings <= set(self.columns):
            self._write_columns(sorted({*self.columns, *self.first_columns, *settings}))
        for record, history, state in snapshot:
            self._write_epochs(record, history)
            if state != "running":
                self._write_end(record)

    def close(self) -> None:
        """Writes what is new and the ranks of the report, and closes all files."""
        self.update()
        self._write_ranks()
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()

    def _write_columns(self, names: list[str]) -> None:
        """Writes the columns of the table anew: every setting that any job has.

        TensorBoard would take them from the first job, which lacks what it was not given.
        """
        remove_event_files(self.log.folder)
        self.columns = names
        fields = setting_fields()
        columns = [
            SettingColumn(
                name=name, description=fields[name].metadata["help"], type=type(self.start[name])
            )
            for name in names
            if name in fields
        ]
        deciding = metric(self.standings.metric)
        writer = EventWriter(self.log.folder)
        writer.hparams_table(
            columns,
            metrics={
                RANK: "rank in the report",
                f"{REPORT}/{deciding.name}": f"{deciding.title} in the report",
                **{f"final/{name}": name for name in (deciding.name, *SEARCH_METRICS)},
            },
        )
        writer.charts(chart_layout(self.standings.metrics))
        writer.close()

    def _write_epochs(self, record: SearchRecord, history: list[dict[str, float]]) -> None:
        """Writes the epochs of a job that its file does not have yet."""
        last = self.written_epochs.get(record.name, 0)
        new = [entry for entry in history if entry["epoch"] > last]
        if not new:
            return
        writer = self._open(record)
        for entry in new:
            scalars = {
                f"{CHOSEN_BY}/{name}": entry[name]
                for name in self.standings.metrics
                if is_finite(entry.get(name))
            }
            if self.curves:
                scalars |= _epoch_scalars(entry)
            writer.scalars(scalars, int(entry["epoch"]))
        self.written_epochs[record.name] = int(new[-1]["epoch"])
        writer.flush()

    def _open(self, record: SearchRecord) -> EventWriter:
        """Returns the open event file of a job, which begins with the job's settings."""
        if record.name not in self.writers:
            job = record.job
            writer = self.writers[record.name] = EventWriter(self.folder(record.name))
            settings = {**self.start, **job.settings}
            writer.start_session(
                {name: settings[name] for name in self.columns if name in settings},
                group=f"{job.of or record.name} {job.label}".strip(),
                started=record.started,
            )
        return self.writers[record.name]

    def _write_end(self, record: SearchRecord) -> None:
        """Writes a job's final metrics and its state, and closes its file."""
        writer = self._open(record)
        split = "test" if record.job.kind == "test" else "final"
        final = {
            f"{split}/{name}": value
            for name, value in record.metrics.items()
            if name in (*SEARCH_METRICS, *self.standings.metrics) and is_finite(value)
        }
        writer.scalars(final, record.epoch)
        writer.end_session(failed=record.state == "failed")
        writer.close()
        del self.writers[record.name]
        self.closed.add(record.name)

    def _write_ranks(self) -> None:
        """Writes the rank and the score that the report has, in the place of earlier ones."""
        name = self.standings.metric
        for rank, standing in enumerate(self.standings.ranked(), start=1):
            record, score = standing.record, standing.score(name)
            if not is_finite(score):
                continue
            # TensorBoard reads the files of a folder by their names: this one after the curves.
            ended = int(record.started + record.seconds) + 1
            path = self.folder(record.name) / f"events.out.tfevents.{ended:010d}.report"
            writer = EventWriter(path.parent, upload=functools.partial(_replace, path))
            writer.scalars({RANK: float(rank), f"{REPORT}/{name}": score}, record.epoch)
            writer.close()


def _replace(path: Path, _: str, content: bytes) -> None:
    """Writes a file, so that an extended search has no earlier rank beside the new one."""
    write_atomically(path, content)


def chart_layout(metrics: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Returns the page of charts: one score a chart, with a curve for every job.

    metrics: of the search, the deciding one first. Workers of a job's own write the weights without
    `val/` before them.
    """
    chosen = {f"{metric(name).title} on validation": f"{CHOSEN_BY}/{name}$" for name in metrics}
    others = {metric(name).title: f"val/{name}$" for name in CHARTS if name not in metrics}
    charts = {**chosen, **others, "training loss": "loss/total$"}
    return {
        "search": {title: [pattern] for title, pattern in charts.items()},
        "fusion": {"weights of the modalities": ["(val/)?weight/.+$"]},
    }


def _epoch_scalars(entry: Mapping[str, float]) -> dict[str, float]:
    """An epoch's metrics under their names in TensorBoard."""
    scalars = {}
    for name, value in entry.items():
        if name == "epoch" or not is_finite(value):
            continue
        tag = name if name in UNGROUPED else f"val/{name}"
        scalars["loss/total" if name == "loss" else tag] = value
    return scalars
