"""Predicts single records, as a service does: everything that can be settled once is.

A record is a mapping from column to value: numbers and texts of table columns, encoded bytes of
image columns. Paths are no pictures here, since a record comes from somebody else's machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from distributed.inference.decisions.costs import CostMatrix
from distributed.inference.decisions.plan import DecisionPlan, plan_decisions
from distributed.inference.known_prior import class_prior
from distributed.inference.output_columns import OutputColumns
from distributed.inference.predictor import Predictor
from distributed.inference.rows.frames import column_cells
from distributed.inference.rows.inputs import RowEncoder, raw_manifest
from distributed.inference.rows.tasks import RawBatch
from distributed.inference.weighing import FixedAggregation, pick_device
from distributed.raw.rows import REASON
from distributed.runtime.suggestions import valid_names
from distributed.training.checkpoint import Checkpoint

Record = Mapping[str, object]
Answer = dict[str, Any]  # one prediction as JSON can hold it
MAX_NAME = 100  # characters of an unknown column that an answer repeats


@dataclass(frozen=True)
class Decisions:
    """How a service decides; as the options of predict.py."""

    prior: str = ""
    cost: CostMatrix = ()
    coverage: float | None = None
    abstain: float = 0.0


class RecordPredictor:
    """A loaded checkpoint that predicts batches of records.

    images, numbers, categories: its columns. plan: how it decides, with notes.
    """

    def __init__(self, checkpoint: Checkpoint, decisions: Decisions, gpus: float = 0.0) -> None:
        self.checkpoint = checkpoint
        manifest = raw_manifest(checkpoint, "records")
        self.id_column = str(manifest.prepare.get("id") or "id")
        # A record's id is handed back; it is no part of what is prepared, and neither is a label.
        prepare = {**manifest.prepare, "id": None, "label": None}
        self.encoder = RowEncoder(dataclasses.replace(manifest, prepare=prepare), {})
        self.images = tuple(image["column"] for image in manifest.prepare["images"])
        tables = manifest.schema.tables
        self.numbers = tuple(c.name for table in tables for c in table.numeric)
        self.categories = {c.name: c.vocabulary for table in tables for c in table.categorical}
        self.columns = (*self.images, *self.numbers, *self.categories)
        ignored = (manifest.prepare.get("label"), manifest.prepare.get("group"), self.id_column)
        self.ignored = {str(name) for name in ignored if name}
        prior_C = class_prior(decisions.prior, checkpoint.network) if decisions.prior else None
        shares = () if prior_C is None else tuple(prior_C.tolist())
        aggregation = FixedAggregation.uniform(checkpoint, shares)
        self.plan: DecisionPlan = plan_decisions(
            checkpoint,
            aggregation,
            abstain=decisions.abstain,
            cost=decisions.cost,
            coverage=decisions.coverage,
        )
        self.predictor = Predictor(checkpoint, aggregation, pick_device(gpus), rule=self.plan.rule)

    def problem(self, record: object) -> str:
        """Returns why a record cannot be predicted; "" where nothing speaks against it yet."""
        if not isinstance(record, Mapping):
            return f"a record must be an object of columns; got {type(record).__name__}"
        unknown = [str(name) for name in record if name not in {*self.columns, *self.ignored}]
        if unknown:
            name = unknown[0][:MAX_NAME]
            return f"a column must be one of the model's; got {name!r}; " + valid_names(
                name, self.columns
            )
        for name in self.images:
            if not isinstance(record.get(name), bytes | None):
                return f"{name} must be a picture as encoded bytes"
        for name in (*self.numbers, *self.categories):
            if not isinstance(record.get(name), str | int | float | None):
                return f"{name} must be a number or a text; got {type(record[name]).__name__}"
        return ""

    def predict(self, records: Sequence[Record]) -> list[Answer]:
        """Returns an answer to each record, in their order; a refused one has only a reason."""
        problems = [self.problem(record) for record in records]
        good = [record for record, problem in zip(records, problems) if not problem]
        answers = iter(self._answers_or_reasons(good))
        given: list[Answer] = []
        for record, problem in zip(records, problems, strict=True):
            answer = {"reason": problem} if problem else next(answers)
            if isinstance(record, Mapping) and record.get(self.id_column) is not None:
                answer = {"id": str(record[self.id_column]), **answer}
            given.append(answer)
        return given

    def _answers_or_reasons(self, records: Sequence[Record]) -> list[Answer]:
        """Returns an answer to each record; one that breaks the batch does so for itself only."""
        if not records:
            return []
        try:
            return self._answers(records)
        except Exception as error:  # the records come from anyone
            if len(records) == 1:
                return [{"reason": f"the record cannot be read ({type(error).__name__})"}]
        return [answer for record in records for answer in self._answers_or_reasons([record])]

    @torch.inference_mode()
    def _answers(self, records: Sequence[Record]) -> list[Answer]:
        cells = {name: [record.get(name) for record in records] for name in self.columns}
        columns = {
            name: pa.array(values, pa.binary())
            if name in self.images
            else column_cells(pd.Series([_cell(value) for value in values], dtype=object))
            for name, values in cells.items()
        }
        prepared = self.encoder.prepare(RawBatch(pa.table(columns), 0))
        table, _ = self.predictor.predict(prepared)
        return [_answer(row, self.predictor.columns) for row in table.to_pylist()]


def _cell(value: object) -> object:
    """Returns a table cell as Arrow can hold it: no truth values, no numbers without end."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        try:
            value = float(value)
        except OverflowError:
            return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _answer(row: Mapping[str, Any], columns: OutputColumns) -> Answer:
    """Returns a row of the predictions as nested JSON, for programs that read one record."""
    if row[REASON] is not None:
        return {"reason": row[REASON]}
    answer: Answer = {
        "prediction": row["prediction"],
        "probability": row["probability"],
        "abstained": row["abstained"],
        "entropy": row["entropy"],
        "probabilities": {name: row[f"p/{name}"] for name in columns.classes},
        "weights": {name: row[f"weight/{name}"] for name in columns.modalities},
        "unfamiliar": [name for name in columns.modalities if row[f"unfamiliar/{name}"]],
    }
    if columns.has_sets:
        answer["set"] = row["set"]
    if columns.has_costs:
        answer["expected_cost"] = row["expected_cost"]
    return answer
