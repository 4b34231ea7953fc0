"""TensorBoard of a search: a run a job, and HParams with every searched setting and every metric, replicates folded into one row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distributed.config import setting_fields
from distributed.reporting.events import EventWriter, SettingColumn, remove_event_files
from distributed.searches.records import SEARCH_METRICS, SearchLog, SearchRecord

UNGROUPED = ("rows_per_second",)  # metrics of an epoch that are no validation scores


class SearchBoard:
    """Event files in the experiment's folder: its own holds the HParams columns, trials/NAME holds each job's curves and session."""

    def __init__(
        self,
        log: SearchLog,
        base: Mapping[str, Any],
        names: Sequence[str],
        curves: bool = True,
    ) -> None:
        self.log, self.base = log, dict(base)
        self.curves = curves  # False: the jobs' workers write their own
        self.names: list[str] = []
        self.wanted = sorted(names)
        self.writers: dict[str, EventWriter] = {}
        self.written: dict[str, int] = {}  # last epoch in the event file
        self.closed = {
            r.name
            for r in log.records.values()
            if r.state != "running" and any(self.folder(r.name).glob("events.*"))
        }

    def folder(self, name: str) -> Path:
        return self.log.folder / "trials" / name

    def update(self) -> None:
        """Writes what is new since the last call."""
        with self.log.lock:
            records = [r for r in self.log.records.values() if r.name not in self.closed]
            snapshot = [(r, list(r.history), r.state) for r in records]
        asked = {name for record, _, _ in snapshot for name in record.job.settings}
        if not self.names or not asked <= set(self.names):
            self.columns(sorted({*self.names, *self.wanted, *asked}))
        for record, history, state in snapshot:
            self.epochs(record, history)
            if state != "running":
                self.end(record)

    def columns(self, names: list[str]) -> None:
        """Writes the columns of the HParams table anew: every setting that any job has.

        TensorBoard would take them from the first job, which lacks what it was not given.
        """
        remove_event_files(self.log.folder)
        self.names = names
        fields = setting_fields()
        events = EventWriter(self.log.folder)
        events.hparams_table(
            [
                SettingColumn(
                    name=name,
                    description=fields[name].metadata["help"],
                    type=type(self.base[name]),
                )
                for name in names
                if name in fields
            ],
            metrics=[f"final/{metric}" for metric in SEARCH_METRICS],
        )
        events.close()

    def epochs(self, record: SearchRecord, history: list[dict[str, float]]) -> None:
        new = [entry for entry in history if entry["epoch"] > self.written.get(record.name, 0)]
        if not new:
            return
        events = self.session(record)
        for entry in new if self.curves else ():
            values = {_epoch_tag(name): value for name, value in entry.items() if name != "epoch"}
            events.scalars(_finite(values), int(entry["epoch"]))
        self.written[record.name] = int(new[-1]["epoch"])
        events.flush()

    def session(self, record: SearchRecord) -> EventWriter:
        """Returns the open event file of a job, which begins with the job's settings.

        Replicates share the row of the configuration that they repeat.
        """
        if record.name not in self.writers:
            events = self.writers[record.name] = EventWriter(self.folder(record.name))
            values = {
                name: record.job.settings.get(name, self.base.get(name)) for name in self.names
            }
            events.start_session(
                {name: value for name, value in values.items() if value is not None},
                group=f"{record.job.of or record.name} {record.job.label}".strip(),
                started=record.started,
            )
        return self.writers[record.name]

    def end(self, record: SearchRecord) -> None:
        """Writes a job's final metrics and its state, and closes its event file."""
        events = self.session(record)
        split = "test" if record.job.kind == "test" else "final"
        final = {
            f"{split}/{name}": value
            for name, value in record.metrics.items()
            if name in SEARCH_METRICS or "/" in name
        }
        events.scalars(_finite(final), record.epoch)
        events.end_session(failed=record.state == "failed")
        events.close()
        del self.writers[record.name]
        self.closed.add(record.name)

    def close(self) -> None:
        self.update()
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()


def _epoch_tag(name: str) -> str:
    if name == "loss":
        return "loss/total"
    return name if name in UNGROUPED else f"val/{name}"


def _finite(values: Mapping[str, object]) -> dict[str, float]:
    """Returns the values that are finite numbers."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
