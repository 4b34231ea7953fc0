"""The jobs of a search and what became of each, kept in the experiment's file records.jsonl."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, TypeGuard

from distributed.runtime.storage import DamagedFile, append_lines
from model.metrics.names import METRICS

SEARCH_METRICS = (*METRICS, "train_seconds")
RECORDS_FILE = "records.jsonl"
SMOOTH_METRIC = "balanced_nll"  # by which runs are compared where few rows make noise of others
LINE_START = b'{"job": '  # of each line of records.jsonl

# Kinds of jobs that try a configuration, and all that train.
CONFIGURATIONS = ("search", "named", "portfolio")
DISTILLED = "distilled"  # kind and method of the network that learns from the model
TRAINED = (*CONFIGURATIONS, "replicate", "fold")
# Kinds of jobs that follow the trials, and are not compared with them by a stopper.
AFTER_TRIALS = ("replicate", "fold", "ensemble", DISTILLED, "test", "spoilt")

SettingValue = bool | int | float | str
SettingValues = Mapping[str, SettingValue]  # by dotted name, such as optim.lr


FOLD_ERROR = "fold_error"  # metric of a job `fold`: standard error of the deciding metric
OVER_START = "over_start"  # the same: difference of the deciding metric from the starting point's
OVER_START_ERROR = "over_start_error"  # standard error of that


def fold_name(configuration: str, fold: int) -> str:
    """The name of a configuration's run on a fold; the first one has that of the configuration."""
    return f"{configuration}-fold{fold}" if fold else configuration


def configuration_of(run: str) -> str:
    """The name of the configuration of a run, which `fold_name` may have given its name."""
    return re.sub(r"-fold\d+$", "", run)


class EpochResult(TypedDict):
    """What a running job reports after an epoch."""

    epoch: int  # the first one is 1
    epochs: int  # of the whole job
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class SearchJob:
    """One training run of a search. The field names are those of records.jsonl.

    kind: `search` is a trial of the space, `named` a baseline that the space cannot express,
        `portfolio` a configuration that is worth a try on any data,
        `replicate` a repetition with another seed, `fold` one with another cut of training and
        validation rows, whose metrics are those of all folds so far together, `ensemble` the
        choice of runs that answer together, `test` the winner's or the ensemble's run on the test
        split, `spoilt` the same for test rows of which a modality is spoilt, `distilled` the
        training of one network on the ensemble's answers.
    label: name of a baseline or of the starting point; empty for other trials.
    settings: changes to the search's starting point.
    number: of the trial in Optuna's study.
    of: name of the job that a replicate, a fold or a test repeats.
    seed: replaces optim.seed. fold: replaces data.fold.
    start: name of the starting point's run, with which a fold is compared; empty: with none.
    state: name of the job from whose saved network this one continues; empty for its own.
    method: `boosting` for gradient-boosted trees, `distilled` for the network that learns from the
        ensemble; empty for another network.
    plain: name of the run of plain concatenation among the members of a job `spoilt`.
    members: names of the runs that an ensemble chooses from, or that `spoilt` compares it with.
    """

    name: str
    kind: str
    label: str = ""
    settings: SettingValues = field(default_factory=dict)
    number: int | None = None
    of: str = ""
    seed: int | None = None
    state: str = ""
    members: Sequence[str] = ()
    plain: str = ""
    method: str = ""
    fold: int = 0
    start: str = ""

    @property
    def is_baseline(self) -> bool:
        """Whether it is the starting point, or what that is compared with."""
        return bool(self.label) and self.kind != "portfolio"

    def to_dict(self) -> dict[str, object]:
        """The job as JSON can hold it, which is also the configuration of its trial in Ray Tune."""
        plain = dataclasses.asdict(self)
        return {**plain, "settings": dict(self.settings), "members": list(self.members)}


@dataclass
class SearchRecord:
    """A job and what became of it. The field names are those of records.jsonl.

    state: running, complete, stopped (early, by the stopper or by the time budget) or failed.
    reason: why the job failed; empty otherwise.
    epoch: the last epoch reported. epochs: how many the whole job has.
    metrics: of the last epoch on validation; of a test job on the test split. None: undefined.
    history: the metrics of every epoch, with the epoch's number under "epoch".
    started: seconds since 1970. seconds: wall time of the job in the process that ended it.
    """

    job: SearchJob
    state: str = "running"
    reason: str = ""
    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    started: float = 0.0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.job.name

    def value(self, metric: str) -> float:
        """A metric's value; NaN where it is undefined or absent."""
        value = self.metrics.get(metric)
        return math.nan if value is None else value

    def to_dict(self) -> dict[str, object]:
        """The record as JSON can hold it."""
        return {**dataclasses.asdict(self), "job": self.job.to_dict()}


class SearchLog:
    """All records of a search. Every finished job is a line of records.jsonl, so a kill loses none.

    The thread that writes the report reads while the search writes: `lock` guards every change.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / RECORDS_FILE
        self.lock = threading.RLock()
        self.records = _read(self.path)

    def start(self, job: SearchJob) -> None:
        """Notes that a job was handed to Ray Tune."""
        with self.lock:
            self.records[job.name] = SearchRecord(job, started=time.time())

    def restart_clock(self, name: str) -> None:
        """Counts a job's seconds from now: it waited for a place on the cluster until now."""
        with self.lock:
            record = self.records[name]
            if record.state == "running" and not record.epoch:
                record.started = time.time()

    def add(self, record: SearchRecord) -> None:
        """Adds a finished record that was rebuilt from Optuna's study."""
        with self.lock:
            self.records[record.name] = record
            self._append(record)

    def add_epoch(self, name: str, result: EpochResult) -> None:
        """Adds an epoch of a running job; if a resumed job repeats one, the new values count."""
        with self.lock:
            record = self.records[name]
            record.epoch, record.epochs = int(result["epoch"]), int(result.get("epochs", 0))
            numbers = {k: v for k, v in result["metrics"].items() if isinstance(v, int | float)}
            earlier = [entry for entry in record.history if entry["epoch"] < record.epoch]
            record.history = [*earlier, {"epoch": record.epoch, **numbers}]
            record.metrics = dict(result["metrics"])

    def finish(
        self, name: str, state: str, metrics: Mapping[str, float] | None = None, reason: str = ""
    ) -> None:
        """Notes the end of a job. metrics: its final ones; without them the last epoch's stay."""
        with self.lock:
            record = self.records[name]
            record.state, record.reason = state, reason
            record.seconds = time.time() - record.started
            if metrics:
                record.metrics = dict(metrics)
            self._append(record)

    def explain_failure(self, name: str, reason: str) -> None:
        """Replaces the reason of a failed job by one that became known after its end."""
        with self.lock:
            record = self.records[name]
            if record.state == "failed":
                record.reason = reason
                self._append(record)

    def of_kind(self, *kinds: str) -> list[SearchRecord]:
        """The records of jobs of these kinds."""
        with self.lock:
            return [r for r in self.records.values() if r.job.kind in kinds]

    def configurations(self) -> list[SearchRecord]:
        """The trials and the baselines beside them, in the order in which they began."""
        return sorted(self.of_kind(*CONFIGURATIONS), key=lambda r: r.started)

    def ended(self) -> list[SearchRecord]:
        """The records of jobs that run no more."""
        with self.lock:
            return [r for r in self.records.values() if r.state != "running"]

    def _append(self, record: SearchRecord) -> None:
        """Writes a line; of several lines on one job the last one counts."""
        append_lines(str(self.path), json.dumps(record.to_dict()).encode() + b"\n")


def _read(path: Path) -> dict[str, SearchRecord]:
    """The records by name, from the lines of the file.

    Damaged lines are named on stderr; a last line that a kill has cut short is left out.
    """
    records: dict[str, SearchRecord] = {}
    damaged: list[int] = []
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None:
            damaged.append(number)
        else:
            records[record.name] = record
    if last and not last.startswith(LINE_START[: len(last)]):
        damaged.append(len(lines) + 1)
    if damaged and not records:
        raise DamagedFile(f"{path} is damaged: none of its lines is the record of a job")
    if damaged:
        print(
            f"warning: {path} is damaged: line {', '.join(map(str, damaged))} is no record;"
            " its job is taken from Optuna's study or runs again",
            file=sys.stderr,
        )
    return records


def _parse(line: bytes) -> SearchRecord | None:
    """The record in a line; None where there is none."""
    try:
        entry = json.loads(line)
        job = SearchJob(**entry["job"])
        job = dataclasses.replace(job, members=tuple(job.members))
        return SearchRecord(**{**entry, "job": job})
    except (ValueError, TypeError, LookupError):
        return None


def parse_records(content: bytes) -> list[SearchRecord]:
    """The records in the content of another search's file; of several on one job the last one."""
    parsed = [_parse(line) for line in content.split(b"\n")]
    return list({record.name: record for record in parsed if record is not None}.values())


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a metric's value is a number that can be compared."""
    return isinstance(value, int | float) and math.isfinite(value)
