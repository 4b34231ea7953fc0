"""Turns prepared batches into predictions: class, probabilities, fusion weights.

The batch prediction (part_files.py, pool.py) and the Python interface (loaded.py) both use it.
Legend: B rows, M modalities, E experts, C classes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distributed.inference.rows.inputs import InputRows, PreparedBatch, insert_refused
from distributed.inference.rows.tasks import RowRange, TaskGroup
from distributed.inference.weighing import FixedAggregation, expert_count
from distributed.ingestion.summary import count_reasons
from distributed.raw.rows import REASON
from distributed.shards.batches import arrays_to_batch
from distributed.shards.parallel import prefetch
from distributed.training import priors
from distributed.training.checkpoint import Checkpoint
from distributed.training.optimisation.precision import autocast
from distributed.training.scoring import modality_posteriors
from model.fusion.cross_modal import CrossModalStats
from model.fusion.novelty import only_unfamiliar
from model.outputs import Outputs

Number = TypeVar("Number", int, float)


class PlainTotals(TypedDict):
    """PredictionTotals as JSON can hold them."""

    rows: int
    predicted: int
    abstained: int
    class_rows: list[int]
    weight_sums: list[float]
    unfamiliar_rows: list[int]
    rows_without_familiar: int
    agreement: dict[str, list[float]] | None
    refused: dict[str, int]
    unread: dict[str, int]
    blank: int


@dataclass
class PredictionTotals:
    """Counts over the rows of some batches; the totals of several parts can be added."""

    rows: int = 0
    predicted: int = 0
    abstained: int = 0
    class_rows: list[int] = field(default_factory=list)  # rows predicted as each class
    weight_sums: list[float] = field(default_factory=list)  # of the fusion weights
    # Rows in which a modality is unlike anything in training, for each modality.
    unfamiliar_rows: list[int] = field(default_factory=list)
    rows_without_familiar: int = 0  # rows in which that holds for every present modality
    agreement: CrossModalStats | None = (
        None  # of the modalities with each other, over predicted rows
    )
    refused: Counter[str] = field(default_factory=Counter)  # refused rows by kind of reason
    # Cells of each table column that hold something the model cannot use.
    unread: Counter[str] = field(default_factory=Counter)
    blank: int = 0  # predicted rows without any modality

    def add(self, other: PredictionTotals) -> None:
        """Adds the counts of further rows."""
        self.rows += other.rows
        self.predicted += other.predicted
        self.abstained += other.abstained
        self.class_rows = _sum_lists(self.class_rows, other.class_rows)
        self.weight_sums = _sum_lists(self.weight_sums, other.weight_sums)
        self.unfamiliar_rows = _sum_lists(self.unfamiliar_rows, other.unfamiliar_rows)
        self.rows_without_familiar += other.rows_without_familiar
        if self.agreement and other.agreement:
            self.agreement = self.agreement + other.agreement
        else:
            self.agreement = self.agreement or other.agreement
        self.refused += other.refused
        self.unread += other.unread
        self.blank += other.blank

    def to_plain(self) -> PlainTotals:
        """Returns the totals as JSON can hold them."""
        agreement = None
        if self.agreement:
            sums = self.agreement.state_dict()
            agreement = {name: tensor.tolist() for name, tensor in sums.items()}
        return PlainTotals(
            rows=self.rows,
            predicted=self.predicted,
            abstained=self.abstained,
            class_rows=self.class_rows,
            weight_sums=self.weight_sums,
            unfamiliar_rows=self.unfamiliar_rows,
            rows_without_familiar=self.rows_without_familiar,
            agreement=agreement,
            refused=dict(self.refused),
            unread=dict(self.unread),
            blank=self.blank,
        )

    @classmethod
    def from_plain(cls, plain: PlainTotals) -> PredictionTotals:
        """Returns the totals that to_plain wrote, also after JSON made lists of its tuples."""
        sums = plain["agreement"]
        return cls(
            rows=plain["rows"],
            predicted=plain["predicted"],
            abstained=plain["abstained"],
            class_rows=plain["class_rows"],
            weight_sums=plain["weight_sums"],
            unfamiliar_rows=plain["unfamiliar_rows"],
            rows_without_familiar=plain["rows_without_familiar"],
            agreement=CrossModalStats.from_state_dict(sums) if sums else None,
            refused=Counter(plain["refused"]),
            unread=Counter(plain["unread"]),
            blank=plain["blank"],
        )


def _sum_lists(first: Sequence[Number], second: Sequence[Number]) -> list[Number]:
    """Element-wise sums; before the first batch a list is empty."""
    return [a + b for a, b in itertools.zip_longest(first, second, fillvalue=0)]


class Predictor:
    """A checkpoint's network with all that is applied after it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        aggregation: FixedAggregation,
        device: torch.device,
        *,
        abstain: float = 0.0,
        has_splits: bool = False,
    ) -> None:
        """abstain: rows whose best probability is lower get no class.

        has_splits: the predictions have a column that says train, val or test.
        """
        self.checkpoint = checkpoint
        self.aggregation = aggregation
        self.device = device
        self.abstain = abstain
        self.network = checkpoint.network.eval()
        # PyTorch's stubs lack memory_format.
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained_C = priors.mean_class_prior(checkpoint)
        self.schema = output_schema(checkpoint, has_splits)

    def predict_task(
        self, rows: InputRows, task_group: TaskGroup, task: Sequence[RowRange], threads: int
    ) -> Iterator[tuple[PreparedBatch, pa.Table, PredictionTotals]]:
        """Yields the batches of a task, their predictions, and their counts.

        threads: that many prepare batches ahead of their use.
        """
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            for prepared in prefetch(pool, rows.prepare, rows.batches(task_group, task), threads):
                table, totals = self.predict(prepared)
                yield prepared, table, totals

    @torch.inference_mode()
    def predict(self, prepared: PreparedBatch) -> tuple[pa.Table, PredictionTotals]:
        """Returns the rows of one batch as a table of output_schema, and their counts.

        Refused rows are at their places, without a prediction.
        """
        table, totals = self.schema.empty_table(), PredictionTotals(unread=prepared.unread)
        if len(prepared.ids):
            table, predicted = self._predict_usable(prepared)
            totals.add(predicted)
        if prepared.refused is not None:
            table = insert_refused(table, prepared.refused)
            totals.rows += prepared.refused.num_rows
            totals.refused += count_reasons(prepared.refused[REASON].to_pylist())
        return table, totals

    def _predict_usable(self, prepared: PreparedBatch) -> tuple[pa.Table, PredictionTotals]:
        schema = self.network.schema
        batch = arrays_to_batch(prepared.arrays, schema).to(self.device)
        with autocast(self.checkpoint.config, self.device):
            outputs: Outputs = self.network(batch)
        probabilities_BC = self.aggregation.probabilities(
            self.checkpoint, outputs.logits_BEC.float().cpu(), self.trained_C
        )
        if not torch.isfinite(probabilities_BC).all():
            raise ValueError(
                "the checkpoint gives probabilities that are no numbers: "
                "its training diverged; use an earlier one"
            )
        decided_B = self.checkpoint.calibration.decide(probabilities_BC)
        abstained_B = probabilities_BC.amax(1) < self.abstain
        table = self._table(prepared, outputs, probabilities_BC, decided_B, abstained_B)
        return table, self._count(outputs, decided_B, abstained_B)

    def _table(
        self,
        prepared: PreparedBatch,
        outputs: Outputs,
        probabilities_BC: Tensor,
        decided_B: Tensor,
        abstained_B: Tensor,
    ) -> pa.Table:
        classes, modalities = self.network.schema.classes, self.network.schema.modalities
        rows = len(decided_B)
        # One more name at the end, an empty one, for rows without a class.
        places_B = torch.where(abstained_B, len(classes), decided_B).numpy()
        weights_BM = outputs.weights_BM.float().cpu()
        unfamiliar_BM = outputs.unfamiliar_BM.cpu()
        columns: dict[str, object] = {
            "id": prepared.ids,
            "split": [prepared.split] * rows,
            "label": prepared.labels,
            "prediction": pa.array([*classes, ""], pa.string()).take(pa.array(places_B)),
            "probability": probabilities_BC.gather(1, decided_B[:, None])[:, 0].numpy(),
            "abstained": abstained_B.numpy(),
            "entropy": torch.special.entr(probabilities_BC).sum(1).numpy(),
        }
        for c, name in enumerate(classes):
            columns[f"p/{name}"] = probabilities_BC[:, c].numpy()
        for m, name in enumerate(modalities):
            columns[f"weight/{name}"] = weights_BM[:, m].numpy()
            columns[f"unfamiliar/{name}"] = unfamiliar_BM[:, m].numpy()
        for e, weight in enumerate(self.aggregation.expert_weights, start=1):
            columns[f"expert_weight/{e}"] = np.full(rows, weight, np.float32)
        columns[REASON] = pa.nulls(rows, pa.string())
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)

    def _count(self, outputs: Outputs, decided_B: Tensor, abstained_B: Tensor) -> PredictionTotals:
        unfamiliar_BM, present_BM = outputs.unfamiliar_BM.cpu(), outputs.present_BM.cpu()
        agreement = None
        if self.checkpoint.cross_modal:
            agreement = self.checkpoint.cross_modal.compare(*modality_posteriors(outputs))
        counts_C = torch.bincount(
            decided_B[~abstained_B], minlength=len(self.network.schema.classes)
        )
        return PredictionTotals(
            rows=len(decided_B),
            predicted=len(decided_B),
            abstained=int(abstained_B.sum()),
            class_rows=counts_C.tolist(),
            weight_sums=outputs.weights_BM.float().cpu().sum(0).tolist(),
            unfamiliar_rows=unfamiliar_BM.sum(0).tolist(),
            rows_without_familiar=int(only_unfamiliar(present_BM, unfamiliar_BM).sum()),
            agreement=agreement,
            blank=int((~present_BM.any(1)).sum()),
        )


def output_schema(checkpoint: Checkpoint, has_splits: bool) -> pa.Schema:
    """Returns the columns of the predictions.

    Every class has a column of its own, so that any tool can filter, sort and average its
    probabilities by name.
    """
    schema = checkpoint.network.schema
    columns = [("id", pa.string())]
    if has_splits:
        columns.append(("split", pa.string()))
    columns += [("label", pa.string()), ("prediction", pa.string())]
    columns += [("probability", pa.float32()), ("abstained", pa.bool_()), ("entropy", pa.float32())]
    columns += [(f"p/{name}", pa.float32()) for name in schema.classes]
    columns += [(f"weight/{name}", pa.float32()) for name in schema.modalities]
    columns += [(f"unfamiliar/{name}", pa.bool_()) for name in schema.modalities]
    experts = range(1, expert_count(checkpoint) + 1)
    columns += [(f"expert_weight/{e}", pa.float32()) for e in experts]
    columns.append((REASON, pa.string()))  # why the row was refused
    return pa.schema(columns)
