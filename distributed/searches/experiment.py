"""What a search knows: its jobs, what became of each, which configuration leads, and what is to be run once the search is over."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.searches.records import SearchJob, SearchRecord, _finite
from model.metrics.names import check_name
from model.metrics.names import metric as metric_named


def check_metrics(words: str) -> list[str]:
    names = [name.strip() for name in words.split(",") if name.strip()]
    for name in names:
        check_name("--metric", name, "train_seconds")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--metric takes one name or several different ones; got {words!r}")
    return names


@dataclass(frozen=True)
class Standing:
    """One configuration: its first run, and its replicates over fresh seeds."""

    record: SearchRecord
    replicates: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        return self.record.job.label or f"trial {self.record.name}"

    def score(self, metric: str) -> float:
        """The mean of the replicates where there are any: fresh seeds, so that being picked for a lucky run counts for nothing."""
        if self.replicates:
            return sum(self.replicates) / len(self.replicates)
        return self.record.metrics.get(metric, math.nan)


class Experiment:
    """Records of one search in a folder; every finished job is one line of records.jsonl, so a kill loses nothing that was finished."""

    def __init__(
        self,
        folder: str | Path,
        metrics: list[str],
        *,
        replicates: int = 0,
        best: int = 3,
        seed: int = 0,
    ) -> None:
        self.folder, self.metrics = Path(folder), metrics
        self.folder.mkdir(parents=True, exist_ok=True)
        self.replicates, self.best, self.seed = replicates, best, seed
        self.records: dict[str, SearchRecord] = {}
        self.lock = threading.RLock()  # the report is written by a thread of its own
        self.log = self.folder / "records.jsonl"
        self._load()

    def _load(self) -> None:
        if not self.log.exists():
            return
        for line in self.log.read_text().splitlines():
            try:
                raw = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line being written when the driver was killed
            record = SearchRecord(**{**raw, "job": SearchJob(**raw["job"])})
            self.records[record.name] = record

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def sign(self) -> float:
        return -1.0 if metric_named(self.metric).direction == "min" else 1.0

    def start(self, job: SearchJob) -> None:
        with self.lock:
            self.records[job.name] = SearchRecord(job, started=time.time())

    def begin(self, name: str) -> None:
        """A job has its place on the cluster: the time it waited for one does not count."""
        with self.lock:
            record = self.records[name]
            if record.state == "running" and not record.epoch:
                record.started = time.time()

    def put(self, record: SearchRecord) -> None:
        """A record from elsewhere."""
        with self.lock:
            self.records[record.name] = record
            self._append(record)

    def progress(self, name: str, result: Mapping[str, Any]) -> None:
        """One epoch of a running job; an epoch that a resumed job repeats replaces the old one."""
        with self.lock:
            record = self.records[name]
            record.epoch, record.epochs = int(result["epoch"]), int(result.get("epochs", 0))
            entry = {
                "epoch": record.epoch,
                **{k: v for k, v in result["metrics"].items() if isinstance(v, int | float)},
            }
            record.history = [e for e in record.history if e["epoch"] < record.epoch] + [entry]
            record.metrics = dict(result["metrics"])

    def end(
        self, name: str, state: str, metrics: Mapping[str, float] | None = None, reason: str = ""
    ) -> None:
        with self.lock:
            record = self.records[name]
            record.state, record.reason = state, reason
            record.seconds = time.time() - record.started
            if metrics:
                record.metrics = dict(metrics)
            self._append(record)

    def explain(self, name: str, reason: str) -> None:
        """Says why a job that has just failed did so."""
        with self.lock:
            record = self.records[name]
            if record.state == "failed":
                record.reason = reason
                self._append(record)

    def _append(self, record: SearchRecord) -> None:
        """A later line on the same job replaces the earlier one; a line that a kill cut short is closed first."""
        line = json.dumps(record.to_dict()) + "\n"
        if self.log.exists() and self.log.stat().st_size:
            with self.log.open("rb") as file:
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else "\n" + line
        with self.log.open("a") as file:
            file.write(line)

    def told(self) -> dict[str, tuple[str, list[float]]]:
        """What Optuna should know of each finished trial of the search."""
        ended = (
            r for r in self.records.values() if r.job.kind == "search" and r.state != "running"
        )
        return {
            r.name: (r.state, [r.metrics.get(m, math.nan) for m in self.metrics]) for r in ended
        }

    def of_kind(self, *kinds: str) -> list[SearchRecord]:
        with self.lock:
            return [r for r in self.records.values() if r.job.kind in kinds]

    def configurations(self) -> list[SearchRecord]:
        """In the order in which they were begun."""
        return sorted(self.of_kind("search", "named"), key=lambda r: r.started)

    def replicates_of(self, name: str) -> list[SearchRecord]:
        return [r for r in self.of_kind("replicate") if r.job.of == name and r.state == "complete"]

    def standing(self, record: SearchRecord) -> Standing:
        values = tuple(
            r.metrics[self.metric]
            for r in self.replicates_of(record.name)
            if _finite(r.metrics.get(self.metric))
        )
        return Standing(record, values)

    def finished(self) -> list[SearchRecord]:
        """Configurations that ran to their end, best first; those stopped early only where none did."""
        whole = [
            r
            for r in self.configurations()
            if r.state == "complete" and _finite(r.metrics.get(self.metric))
        ]
        if not whole:
            whole = [
                r
                for r in self.configurations()
                if r.state == "stopped" and _finite(r.metrics.get(self.metric))
            ]
        return sorted(whole, key=lambda r: -self.sign * r.metrics[self.metric])

    def named(self) -> list[SearchRecord]:
        return [r for r in self.configurations() if r.job.label and r.state == "complete"]

    def candidates(self) -> list[SearchRecord]:
        """The configurations that are run again with fresh seeds: the best k of the search, the named ones, and every one that was run
        again before, so that an extension drops no winner that fresh seeds have confirmed.
        """
        named = {r.name: r for r in self.named()}
        searched = [r for r in self.finished() if r.name not in named]
        found = searched[: self.best] + [
            r for r in searched[self.best :] if self.replicates_of(r.name)
        ]
        return [*found, *named.values()]

    def winner(self) -> Standing | None:
        """The best mean over replicates, among those that have all of them if any has; before there are any, the best single run."""
        standings = [self.standing(r) for r in self.candidates()]
        standings = [s for s in standings if _finite(s.score(self.metric))]
        most = max((min(len(s.replicates), self.replicates or 1) for s in standings), default=0)
        standings = [s for s in standings if len(s.replicates) >= most]
        return max(standings, key=lambda s: self.sign * s.score(self.metric), default=None)

    def front(self) -> list[SearchRecord]:
        """The configurations that no other beats in every metric."""
        signs = [-1.0 if metric_named(m).direction == "min" else 1.0 for m in self.metrics]
        found = [r for r in self.finished() if all(_finite(r.metrics.get(m)) for m in self.metrics)]
        points = {r.name: [s * r.metrics[m] for s, m in zip(signs, self.metrics)] for r in found}

        def beaten(p: list[float]) -> bool:
            return any(all(a >= b for a, b in zip(q, p)) and q != p for q in points.values())

        return [r for r in found if not beaten(points[r.name])]

    def plan(self, searching: bool, test: bool = True) -> SearchJob | str | None:
        """The next job after the search: replicates, then the test of the winner; None is wait, "finished" the end."""
        wanted = self.named() if searching else self.candidates()
        for seed in range(1, self.replicates + 1):
            for record in wanted:
                job = self._again(record, f"{record.name}-seed{seed}", "replicate", seed)
                if job.name not in self.records:
                    return job
        if searching or any(r.state == "running" for r in self.of_kind("replicate", "test")):
            return None
        winner = self.winner()
        if not test or winner is None:
            return "finished"
        repeats = self.replicates_of(winner.record.name)
        runs: Iterable[tuple[str, int]] = [
            (r.name, (r.job.seed or 0) - self.seed) for r in repeats
        ] or [(winner.record.name, 0)]
        for name, seed in runs:
            job = dataclasses.replace(
                self._again(winner.record, f"{name}-test", "test", seed), state=name
            )
            if job.name not in self.records:
                return job
        return "finished"

    def _again(self, record: SearchRecord, name: str, kind: str, seed: int) -> SearchJob:
        return SearchJob(
            name=name,
            kind=kind,
            label=record.job.label,
            settings=record.job.settings,
            of=record.name,
            seed=self.seed + seed,
        )

    def tests(self) -> list[SearchRecord]:
        """Of the winner, as it is now."""
        winner = self.winner()
        return [
            r
            for r in self.of_kind("test")
            if winner and r.job.of == winner.record.name and r.state == "complete"
        ]

    def read_before(self) -> bool:
        """Whether the test split was read before the last other job began: a search that was extended after its end."""
        first = min((r.started for r in self.of_kind("test")), default=math.inf)
        return any(r.started > first for r in self.of_kind("search", "named", "replicate"))

    def kept_states(self) -> set[str]:
        """Jobs whose saved network is still needed: replicates until the test, or the leading run where there are none."""
        if self.replicates:
            return {r.name for r in self.of_kind("replicate")}
        winner = self.winner()
        return {winner.record.name} if winner else set()
