"""Predicts tasks of rows and writes a Parquet part file for each; here in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from distributed.inference.decisions.rule import DecisionRule
from distributed.inference.predictor import Predictor
from distributed.inference.rows.inputs import InputRows
from distributed.inference.rows.tasks import RowRange, TaskGroup
from distributed.inference.totals import PredictionTotals
from distributed.inference.weighing import FixedAggregation, pick_device, torch_threads
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.runtime.storage import filesystem, join, naming_full_disk
from distributed.shards.prefetching import decoding_threads
from distributed.training.checkpoint import Checkpoint

PARTS = "predictions"  # folder of the part files below the output folder
FLUSH_ROWS = 8192  # rows of one row group of a part file


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """What every process that predicts must agree on, besides the checkpoint."""

    rows: InputRows
    aggregation: FixedAggregation
    out: str
    rule: DecisionRule = field(default_factory=DecisionRule)
    gpus: float = 0.0  # of each process; fractions share one
    explain: bool = False  # say what each part of a row contributes
    trust_unfamiliar: bool = False  # also use modalities that are unlike training


class PartWriter:
    """Predicts tasks and writes their part files; made once in each process that predicts."""

    def __init__(self, checkpoint: Checkpoint, settings: PredictionSettings, threads: int) -> None:
        """threads: that many prepare batches ahead of their use."""
        self.settings, self.threads = settings, threads
        keep_freed_memory()
        if settings.trust_unfamiliar:
            checkpoint.network.accept_all_modalities()
        self.predictor = Predictor(
            checkpoint,
            settings.aggregation,
            pick_device(settings.gpus),
            rule=settings.rule,
            has_splits=settings.rows.has_splits,
            kept=settings.rows.kept,
            explained=settings.explain,
        )

    def write_task(
        self, task_group: TaskGroup, task: Sequence[RowRange], part: int
    ) -> PredictionTotals:
        """Predicts a task and writes part number `part`, whole or not at all."""
        totals = PredictionTotals()
        path = join(self.settings.out, PARTS, f"part-{part:05d}.parquet")
        system, target = filesystem(path)
        system.create_dir(target.rpartition("/")[0], recursive=True)
        batches = self.predictor.predict_task(self.settings.rows, task_group, task, self.threads)
        with (
            naming_full_disk(path),
            system.open_output_stream(f"{target}.tmp") as sink,
            pq.ParquetWriter(sink, self.predictor.schema) as writer,
        ):
            pending: list[pa.Table] = []
            for _, table, counts in batches:
                totals.add(counts)
                if table.num_rows:
                    pending.append(table)
                if sum(part_table.num_rows for part_table in pending) >= FLUSH_ROWS:
                    writer.write_table(pa.concat_tables(pending))
                    pending = []
            if pending:
                writer.write_table(pa.concat_tables(pending))
        system.move(f"{target}.tmp", target)
        return totals


def predict_in_process(
    checkpoint: Checkpoint, settings: PredictionSettings, task_groups: Iterator[TaskGroup]
) -> Iterator[PredictionTotals]:
    """Predicts every task in this process and yields the counts of each."""
    with torch_threads(1):  # the other CPUs decode
        writer = PartWriter(checkpoint, settings, threads=decoding_threads())
        part = 0
        for task_group in task_groups:
            for task in task_group.tasks:
                yield writer.write_task(task_group, task, part)
                part += 1
