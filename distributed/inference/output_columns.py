"""The columns of predictions, and their values for one batch.

Legend: B rows, M modalities, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from distributed.inference.decisions.rule import DecidedRows, DecisionRule
from distributed.inference.explanations import explanation_fields
from distributed.inference.rows.inputs import PreparedBatch
from distributed.inference.weighing import expert_count
from distributed.raw.rows import REASON
from distributed.training.checkpoint import Checkpoint
from model.outputs import Outputs

IN_INPUT = "input/"  # before the name of a kept column that the predictions have a column of


@dataclass(frozen=True)
class OutputColumns:
    """Which columns the predictions have.

    Every class has a column of its own, so that any tool can filter, sort and average its
    probabilities by name.
    has_splits: whether a column says train, val or test. kept: columns of the input.
    explained: columns of what each part of a record contributes.
    """

    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    experts: int
    has_splits: bool = False
    has_sets: bool = False
    has_costs: bool = False
    kept: pa.Schema | None = None
    explained: tuple[tuple[str, pa.DataType], ...] = ()

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        rule: DecisionRule,
        *,
        has_splits: bool = False,
        kept: pa.Schema | None = None,
        explained: bool = False,
    ) -> OutputColumns:
        """Returns the columns for the predictions of a checkpoint."""
        schema = checkpoint.network.schema
        return cls(
            classes=schema.classes,
            modalities=schema.modalities,
            experts=expert_count(checkpoint),
            has_splits=has_splits,
            has_sets=bool(rule.thresholds),
            has_costs=bool(rule.cost),
            kept=kept,
            explained=tuple(explanation_fields(schema)) if explained else (),
        )

    @property
    def schema(self) -> pa.Schema:
        """The names and types of all columns, in their order, without the kept ones."""
        columns = [("id", pa.string())]
        if self.has_splits:
            columns.append(("split", pa.string()))
        columns += [("label", pa.string()), ("prediction", pa.string())]
        columns += [("probability", pa.float32()), ("abstained", pa.bool_())]
        if self.has_costs:
            columns.append(("expected_cost", pa.float32()))
        if self.has_sets:
            columns += [("set", pa.list_(pa.string())), ("set_size", pa.int32())]
        columns.append(("entropy", pa.float32()))
        columns += [(f"p/{name}", pa.float32()) for name in self.classes]
        columns += [(f"weight/{name}", pa.float32()) for name in self.modalities]
        columns += [(f"unfamiliar/{name}", pa.bool_()) for name in self.modalities]
        columns += [(f"expert_weight/{e}", pa.float32()) for e in range(1, self.experts + 1)]
        columns += self.explained
        columns.append((REASON, pa.string()))  # why the row was refused
        return pa.schema(columns)

    @property
    def schema_with_kept(self) -> pa.Schema:
        """The columns with the kept ones after the id."""
        plain = self.schema
        if self.kept is None:
            return plain
        kept = [entry.with_name(self.kept_name(entry.name)) for entry in self.kept]
        return pa.schema([plain.field(0), *kept, *list(plain)[1:]])

    def kept_name(self, name: str) -> str:
        """Returns what a kept column is called among the predictions."""
        return f"{IN_INPUT}{name}" if name in self.schema.names else name

    def with_kept(self, predictions: pa.Table, kept: pa.Table | None) -> pa.Table:
        """Returns the predictions of a batch with the kept columns of the same rows."""
        if self.kept is None:
            return predictions
        assert kept is not None
        columns = {name: predictions[name] for name in predictions.column_names}
        for entry in self.kept:
            columns[self.kept_name(entry.name)] = kept[entry.name].cast(entry.type)
        schema = self.schema_with_kept
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def table(
        self,
        prepared: PreparedBatch,
        outputs: Outputs,
        probabilities_BC: Tensor,
        decided: DecidedRows,
        expert_weights: tuple[float, ...],
        explanation: Mapping[str, pa.Array] | None = None,
    ) -> pa.Table:
        """Returns the predictions of the usable rows of a batch.

        explanation: the values of the columns `explained`.
        """
        rows = len(decided.decided_N)
        # One more name at the end, an empty one, for rows without a class.
        places_B = torch.where(decided.abstained_N, len(self.classes), decided.decided_N).numpy()
        weights_BM = outputs.weights_BM.float().cpu()
        unfamiliar_BM = outputs.unfamiliar_BM.cpu()
        columns: dict[str, object] = {
            "id": prepared.ids,
            "split": [prepared.split] * rows,
            "label": prepared.labels,
            "prediction": pa.array([*self.classes, ""], pa.string()).take(pa.array(places_B)),
            "probability": probabilities_BC.gather(1, decided.decided_N[:, None])[:, 0].numpy(),
            "abstained": decided.abstained_N.numpy(),
            "entropy": torch.special.entr(probabilities_BC).sum(1).numpy(),
        }
        if decided.expected_cost_N is not None:
            columns["expected_cost"] = decided.expected_cost_N.float().numpy()
        if decided.in_set_NC is not None:
            columns["set"] = set_names(decided.in_set_NC, probabilities_BC, self.classes)
            columns["set_size"] = decided.in_set_NC.sum(1, dtype=torch.int32).numpy()
        for c, name in enumerate(self.classes):
            columns[f"p/{name}"] = probabilities_BC[:, c].numpy()
        for m, name in enumerate(self.modalities):
            columns[f"weight/{name}"] = weights_BM[:, m].numpy()
            columns[f"unfamiliar/{name}"] = unfamiliar_BM[:, m].numpy()
        for e, weight in enumerate(expert_weights, start=1):
            columns[f"expert_weight/{e}"] = np.full(rows, weight, np.float32)
        columns |= explanation or {}
        columns[REASON] = pa.nulls(rows, pa.string())
        schema = self.schema
        return pa.table([columns[name] for name in schema.names], schema=schema)


def insert_kept(predictions: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Returns a frame of predictions with columns of the same rows after the id."""
    names = [f"{IN_INPUT}{name}" if name in predictions else name for name in kept.columns]
    return pd.concat(
        [predictions.iloc[:, :1], kept.set_axis(names, axis=1), predictions.iloc[:, 1:]], axis=1
    )


def set_names(in_set_BC: Tensor, probabilities_BC: Tensor, classes: tuple[str, ...]) -> pa.Array:
    """Returns the names of the classes in each set, the most probable one first."""
    order_BC = probabilities_BC.argsort(dim=1, descending=True, stable=True)
    is_in_BC = in_set_BC.gather(1, order_BC)
    names = pa.array(classes, pa.string()).take(pa.array(order_BC[is_in_BC].numpy()))
    ends = np.concatenate([[0], is_in_BC.sum(1).cumsum(0).numpy()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), names)
