"""Chooses how the experts are weighted on new rows, from a sample of them where that is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from distributed.inference.rows.inputs import InputRows
from distributed.inference.rows.tasks import RawBatch
from distributed.inference.weighing import (
    GIVEN,
    Facts,
    FixedAggregation,
    aggregate_experts,
    aggregation_facts,
    compute_outputs,
    pick_device,
)
from distributed.shards.batches import arrays_to_batch
from distributed.shards.decode import Arrays, empty_arrays
from distributed.training.checkpoint import Checkpoint
from model.batch import Batch
from model.schema import Schema

SAMPLE_ROWS = 8192  # an estimate of a few numbers needs no more rows


@dataclass
class SampledRows:
    """A source of batches in memory, for estimates."""

    schema: Schema
    arrays: Arrays
    batch_size: int

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields the rows as batches, the same in every epoch."""
        rows = len(self.arrays["labels"])
        for low in range(start * self.batch_size, rows, self.batch_size):
            part = {
                name: values[low : low + self.batch_size] for name, values in self.arrays.items()
            }
            yield arrays_to_batch(part, self.schema, 0, 0)


def read_every_kth_row(checkpoint: Checkpoint, rows: InputRows, batch_size: int) -> SampledRows:
    """Reads every k-th row of the input, at most SAMPLE_ROWS; refused rows are left out."""
    schema = checkpoint.network.schema
    total = sum(task_group.rows for task_group in rows.task_groups(1))
    stride = max(1, -(-total // SAMPLE_ROWS))
    parts = [empty_arrays(schema, 0)]
    for task_group in rows.task_groups(1):
        for task in task_group.tasks:
            for batch in rows.batches(task_group, task):
                selected = list(range(-batch.first % stride, batch.table.num_rows, stride))
                if selected:
                    part = RawBatch(batch.table.take(selected), batch.first, batch.split)
                    parts.append(rows.prepare(part).arrays)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return SampledRows(schema, arrays, batch_size)


def choose_aggregation(
    checkpoint: Checkpoint,
    rows: InputRows,
    method: str,
    prior_C: Tensor | None,
    batch_size: int,
    gpus: float,
) -> tuple[FixedAggregation, Facts]:
    """Returns how the experts are weighted, the same for every row, and the facts about it.

    method: uniform or given, which need no estimate, or stability or prior, which make one.
    prior_C: the known class prior of the rows, for `given`.
    """
    if method in ("uniform", GIVEN):
        prior = () if prior_C is None else tuple(prior_C.tolist())
        return FixedAggregation.uniform(checkpoint, prior), {"aggregation": method}
    device = pick_device(gpus)
    sample = read_every_kth_row(checkpoint, rows, batch_size)
    if not len(sample.arrays["labels"]):
        return FixedAggregation.uniform(checkpoint), {
            "aggregation": "uniform",
            "aggregation/reason": "no row to estimate from",
        }
    logits_NEC = compute_outputs(checkpoint, sample, device).logits_NEC
    estimate = aggregate_experts(checkpoint, method, logits_NEC, sample, device)
    facts = aggregation_facts(estimate, method)
    facts["aggregation/rows"] = float(len(logits_NEC))
    if estimate.prior_C is not None:
        classes = checkpoint.network.schema.classes
        for name, share in zip(classes, estimate.prior_C, strict=True):
            facts[f"prior/{name}"] = float(share)
    return FixedAggregation.from_estimate(estimate), facts
