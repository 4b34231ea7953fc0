"""TensorBoard of a search: a run a job, and HParams with every searched setting and every metric, replicates folded into one row."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distributed.config import setting_fields
from distributed.searches.experiment import Experiment
from distributed.searches.records import SEARCH_METRICS, SearchRecord

PER_EPOCH = ("loss", "rows_per_second")


class SearchBoard:
    """Event files in the experiment's folder: its own holds the HParams columns, trials/NAME holds each job's curves and session."""

    def __init__(
        self,
        experiment: Experiment,
        base: Mapping[str, Any],
        names: Sequence[str],
        curves: bool = True,
    ) -> None:
        self.experiment, self.base = experiment, dict(base)
        self.curves = curves  # False: the jobs' workers write their own
        self.names: list[str] = []
        self.wanted = sorted(names)
        self.writers: dict[str, Any] = {}
        self.written: dict[str, int] = {}  # last epoch in the event file
        self.closed = {
            r.name
            for r in experiment.records.values()
            if r.state != "running" and any(self.folder(r.name).glob("events.*"))
        }

    def folder(self, name: str) -> Path:
        return self.experiment.folder / "trials" / name

    def update(self) -> None:
        """Writes what is new since the last call."""
        with self.experiment.lock:
            records = [r for r in self.experiment.records.values() if r.name not in self.closed]
            snapshot = [(r, list(r.history), r.state) for r in records]
        asked = {name for record, _, _ in snapshot for name in record.job.settings}
        if not self.names or not asked <= set(self.names):
            self.columns(sorted({*self.names, *self.wanted, *asked}))
        for record, history, state in snapshot:
            self.epochs(record, history)
            if state != "running":
                self.end(record)

    def columns(self, names: list[str]) -> None:
        """The columns are written once and for all: they do not come from the first trial, which lacks what it was not asked."""
        from tensorboard.plugins.hparams import api_pb2 as api
        from tensorboard.plugins.hparams import metadata

        for old in self.experiment.folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.names = names
        known = setting_fields()
        settings = [
            api.HParamInfo(name=n, description=known[n].metadata["help"], type=self.kind(n))
            for n in names
            if n in known
        ]
        metrics = [
            api.MetricInfo(name=api.MetricName(tag=f"final/{m}"), display_name=m)
            for m in SEARCH_METRICS
        ]
        writer = self._writer(self.experiment.folder)
        self._plugin(
            writer,
            metadata.EXPERIMENT_TAG,
            experiment=api.Experiment(hparam_infos=settings, metric_infos=metrics),
        )
        writer.close()

    def kind(self, name: str) -> Any:
        """The type by which TensorBoard filters and sorts a setting."""
        from tensorboard.plugins.hparams import api_pb2 as api

        kinds = {bool: api.DATA_TYPE_BOOL, str: api.DATA_TYPE_STRING}
        return kinds.get(type(self.base[name]), api.DATA_TYPE_FLOAT64)

    def epochs(self, record: SearchRecord, history: list[dict[str, float]]) -> None:
        new = [entry for entry in history if entry["epoch"] > self.written.get(record.name, 0)]
        if not new:
            return
        writer = self.session(record)
        for entry in new if self.curves else ():
            values = {
                ("loss/total" if k == "loss" else k if k in PER_EPOCH else f"val/{k}"): v
                for k, v in entry.items()
                if k != "epoch"
            }
            self._scalars(writer, values, int(entry["epoch"]))
        self.written[record.name] = int(new[-1]["epoch"])
        writer.flush()

    def session(self, record: SearchRecord) -> Any:
        """The open event file of a job, with its settings at the start; replicates share the row of the configuration they repeat."""
        if record.name not in self.writers:
            from tensorboard.plugins.hparams import summary_v2 as hp

            writer = self.writers[record.name] = self._writer(self.folder(record.name))
            values = {
                name: record.job.settings.get(name, self.base.get(name)) for name in self.names
            }
            group = f"{record.job.of or record.name} {record.job.label}".strip()
            known = {name: value for name, value in values.items() if value is not None}
            self._add(
                writer, hp.hparams_pb(known, trial_id=group, start_time_secs=record.started), 0
            )
        return self.writers[record.name]

    def end(self, record: SearchRecord) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        writer = self.session(record)
        split = "test" if record.job.kind == "test" else "final"
        self._scalars(
            writer,
            {
                f"{split}/{k}": v
                for k, v in record.metrics.items()
                if k in SEARCH_METRICS or "/" in k
            },
            record.epoch,
        )
        status = api_pb2.STATUS_FAILURE if record.state == "failed" else api_pb2.STATUS_SUCCESS
        ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._plugin(writer, metadata.SESSION_END_INFO_TAG, session_end_info=ended)
        writer.close()
        del self.writers[record.name]
        self.closed.add(record.name)

    def close(self) -> None:
        self.update()
        for writer in self.writers.values():
            writer.close()
        self.writers.clear()

    @staticmethod
    def _writer(folder: Path) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        return EventFileWriter(str(folder))

    def _plugin(self, writer: Any, tag: str, **content: Any) -> None:
        from tensorboard.plugins.hparams import plugin_data_pb2
        from tensorboard.plugins.hparams.summary_v2 import _summary_pb

        self._add(writer, _summary_pb(tag, plugin_data_pb2.HParamsPluginData(**content)), 0)

    @staticmethod
    def _add(writer: Any, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _scalars(self, writer: Any, values: Mapping[str, Any], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        kept = {k: v for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
        self._add(
            writer,
            Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in kept.items()]),
            step,
        )
