"""Turns prepared batches into predictions: class, probabilities, fusion weights.

Predictions of many rows (batches/) and the Python interface (loaded.py) both use it.
Legend: B rows, M modalities, E experts, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import torch
from torch import Tensor

from distributed.inference.decisions.rule import DecidedRows, DecisionRule
from distributed.inference.explanations import explanation_columns, posterior_of
from distributed.inference.output_columns import OutputColumns
from distributed.inference.rows.inputs import InputRows, PreparedBatch, insert_refused
from distributed.inference.rows.tasks import RowRange, TaskGroup
from distributed.inference.totals import PredictionTotals
from distributed.inference.weighing import FixedAggregation
from distributed.ingestion.summary import count_reasons
from distributed.raw.rows import REASON
from distributed.shards.batches import arrays_to_batch
from distributed.shards.prefetching import prefetch
from distributed.training import priors
from distributed.training.checkpoint import Checkpoint
from distributed.training.optimisation.precision import autocast
from distributed.training.scoring import modality_posteriors
from model.explaining.occlusion import explain
from model.fusion.novelty import only_unfamiliar
from model.outputs import Outputs


class Predictor:
    """A checkpoint's network with all that is applied after it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        aggregation: FixedAggregation,
        device: torch.device,
        *,
        rule: DecisionRule,
        has_splits: bool = False,
        kept: pa.Schema | None = None,
        explained: bool = False,
    ) -> None:
        """rule: how classes are decided from the probabilities.

        has_splits: the predictions have a column that says train, val or test.
        kept: columns of the input that the predictions keep.
        explained: the predictions say what each part of a record contributes.
        """
        self.checkpoint = checkpoint
        self.aggregation = aggregation
        self.device = device
        self.rule = rule
        self.network = checkpoint.network.eval()
        # PyTorch's stubs lack memory_format.
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained_C = priors.mean_class_prior(checkpoint)
        self.columns = OutputColumns.of(
            checkpoint, rule, has_splits=has_splits, kept=kept, explained=explained
        )
        self.schema = self.columns.schema_with_kept

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
        """Returns the rows of one batch as a table of this schema, and their counts.

        Refused rows are at their places, without a prediction.
        """
        table, totals = self.columns.schema.empty_table(), PredictionTotals(unread=prepared.unread)
        if len(prepared.ids):
            table, predicted = self._predict_usable(prepared)
            totals.add(predicted)
        if prepared.refused is not None:
            table = insert_refused(table, prepared.refused)
            totals.rows += prepared.refused.num_rows
            totals.refused += count_reasons(prepared.refused[REASON].to_pylist())
        return self.columns.with_kept(table, prepared.kept), totals

    def _predict_usable(self, prepared: PreparedBatch) -> tuple[pa.Table, PredictionTotals]:
        schema = self.network.schema
        batch = arrays_to_batch(prepared.arrays, schema).to(self.device)
        with autocast(self.checkpoint.config, self.device):
            outputs: Outputs = self.network(batch)
        logits_BEC = outputs.logits_BEC.float().cpu()
        probabilities_BC = self.aggregation.probabilities(
            self.checkpoint, logits_BEC, self.trained_C
        )
        if not torch.isfinite(probabilities_BC).all():
            raise ValueError(
                "the checkpoint gives probabilities that are no numbers: "
                "its training diverged; use an earlier one"
            )
        decided = self.rule.decide(
            self.checkpoint.calibration,
            probabilities_BC,
            self.aggregation.of_scaled(logits_BEC, self.trained_C),
        )
        explanation = None
        if self.columns.explained:
            posterior = posterior_of(self.checkpoint, self.aggregation)
            found = explain(self.network, batch, posterior, decided.decided_N.to(self.device))
            explanation = explanation_columns(found, schema)
        table = self.columns.table(
            prepared,
            outputs,
            probabilities_BC,
            decided,
            self.aggregation.expert_weights,
            explanation,
        )
        totals = self._count(outputs, decided)
        count_labelled(totals, batch.labels_B.cpu(), probabilities_BC, decided, self.rule)
        return table, totals

    def _count(self, outputs: Outputs, decided: DecidedRows) -> PredictionTotals:
        decided_B, abstained_B = decided.decided_N, decided.abstained_N
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


def count_labelled(
    totals: PredictionTotals,
    labels_B: Tensor,
    probabilities_BC: Tensor,
    decided: DecidedRows,
    rule: DecisionRule,
) -> None:
    """Adds to the totals how the decisions, sets and costs of a batch compare with its labels."""
    classes = probabilities_BC.shape[1]
    in_set_BC = decided.in_set_NC
    if in_set_BC is not None:
        sizes_B = in_set_BC.sum(1)
        totals.set_rows = torch.bincount(sizes_B, minlength=classes + 1).tolist()
    is_labelled_B = labels_B >= 0
    labels_L = labels_B[is_labelled_B]
    totals.label_rows = torch.bincount(labels_L, minlength=classes).tolist()
    has_class_B = is_labelled_B & ~decided.abstained_N
    pairs = zip(
        labels_B[has_class_B].tolist(), decided.decided_N[has_class_B].tolist(), strict=True
    )
    totals.confusion = Counter(pairs)
    if in_set_BC is not None:
        is_hit_L = in_set_BC[is_labelled_B].gather(1, labels_L[:, None])[:, 0]
        totals.set_hits = torch.bincount(labels_L[is_hit_L], minlength=classes).tolist()
        sizes_C = torch.zeros(classes, dtype=torch.long)
        totals.set_sizes = sizes_C.index_add(0, labels_L, sizes_B[is_labelled_B]).tolist()
    if rule.cost_CC is not None:
        top_L = probabilities_BC[is_labelled_B].argmax(1)
        decided_L = decided.decided_N[is_labelled_B]
        totals.costs = [
            float(rule.cost_CC[labels_L, chosen_L].sum()) for chosen_L in (decided_L, top_L)
        ]
