"""A trained model in Python: loads a checkpoint and predicts pandas frames, without Ray.

from distributed import load
model = load("runs/best")
predictions = model.predict(frame, images="photos/")
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa
from torch import Tensor

from distributed.inference.decisions.costs import Costs, cost_matrix
from distributed.inference.decisions.plan import DecisionPlan, implied_prior, plan_decisions
from distributed.inference.decisions.rule import DecisionRule
from distributed.inference.estimation import choose_aggregation
from distributed.inference.explanations import Explanation, explain_record, importance_of_rows
from distributed.inference.known_prior import class_prior
from distributed.inference.notes import refusal_warnings, row_notes
from distributed.inference.options import PredictOptions
from distributed.inference.output_columns import insert_kept
from distributed.inference.predictor import Predictor
from distributed.inference.rows.column_checks import check_column
from distributed.inference.rows.expected_columns import expected_columns
from distributed.inference.rows.frames import (
    FrameRows,
    Location,
    Record,
    Rows,
    open_frame,
    to_frame,
)
from distributed.inference.rows.inputs import raw_manifest
from distributed.inference.score import score_of_totals
from distributed.inference.totals import PredictionTotals
from distributed.inference.weighing import (
    FixedAggregation,
    aggregation_method,
    pick_device,
    torch_threads,
)
from distributed.runtime.option_values import check_option
from distributed.runtime.storage import DamagedFile
from distributed.shards.prefetching import decoding_threads
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.results import read_metrics
from model.metrics.names import metric

Metrics = dict[str, dict[str, float]]  # by split


class PredictionNote(UserWarning):
    """Something about the predicted rows that their user should know, such as unread cells."""


def load(location: Location, *, gpu: bool = False, trust_unfamiliar: bool = False) -> LoadedModel:
    """Loads a trained model.

    location: a run or its checkpoint folder; a path or a URI.
    gpu: predict on this machine's GPU.
    trust_unfamiliar: also use modalities that are unlike anything in training. Otherwise they
    count as absent in the rows where that is so.
    """
    uri = str(check_option(PredictOptions, "checkpoint", location))
    checkpoint = load_checkpoint(uri)
    if trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    return LoadedModel(uri, checkpoint, gpus=float(gpu))


class LoadedModel:
    """A trained model that predicts new rows; `load` returns it.

    classes: the class names, in the order of the probabilities.
    metrics: the metrics of the run for each split, if it was loaded from a finished run.
    """

    def __init__(self, location: str, checkpoint: Checkpoint, gpus: float = 0.0) -> None:
        self.location, self.checkpoint = location, checkpoint
        self.classes: tuple[str, ...] = checkpoint.network.schema.classes
        self.metrics: Metrics | None = _read_metrics(location)
        self._gpus = gpus
        pick_device(gpus)  # raises an error now if there is no GPU

    def predict(
        self,
        rows: Rows,
        images: Location | Mapping[str, Location] | None = None,
        *,
        id: str = "",
        keep: Sequence[str] = (),
        prior: str | Mapping[str, float] | None = None,
        cost: Costs | None = None,
        coverage: float | None = None,
        aggregation: str | None = None,
        abstain: float = 0.0,
        batch_size: int = 0,
        explain: bool = False,
    ) -> pd.DataFrame:
        """Predicts the class of every row.

        rows: a frame, a record as a dict, or a list of records, with the columns of the table
        that was ingested (see `schema`). An image column holds encoded bytes, paths, PIL images
        or numpy arrays. Without the columns of a modality, it is absent in every row.
        images: the folder where paths of image columns begin, or a folder for each column; the
        current folder otherwise. Paths that leave it are refused.
        id: the column with the ids of the rows; that of the training rows otherwise.
        keep: columns of the rows that the predictions keep.
        prior: the class shares of these rows: training, uniform, or {class: weight}, 0 for classes
        left out.
        cost: costs of decisions, as a frame or {true class: {decided class: cost}}, or the name of
        a CSV file; the class of the lowest expected cost is decided, at the prior `training`
        unless another is given.
        coverage: adds prediction sets that hold the true class of this share of the rows of every
        class.
        aggregation: how the experts are weighted: uniform, stability or prior, estimated from
        these rows; the run's own setting otherwise.
        abstain: rows whose best probability is lower get an empty class.
        batch_size: rows at a time; the run's own setting otherwise.
        explain: add what each part of a row contributes: contribution/MODALITY,
        contribution/TABLE.COLUMN, patches/IMAGE. See also the method `explain`.

        Returns a row for every input row, in order and with the same index. The columns are those
        that predict.py writes (id, label, prediction, probability, abstained, expected_cost, set,
        set_size, entropy, p/CLASS, weight/MODALITY, unfamiliar/MODALITY, expert_weight/N, reason).
        `reason` says why a row was refused, in which case its prediction is missing. What else
        should be known of the rows is in `attrs["notes"]` and shown as warnings; where rows have
        labels, the metrics are in `attrs["score"]`.
        """
        _check_arguments(aggregation, abstain, batch_size, coverage, keep)
        frame = to_frame(rows)
        _check_columns(frame, id, keep)
        source, notes = open_frame(self.checkpoint, frame, images, batch_size, id)
        weights, prior_C = self._weigh_experts(source, prior, cost, aggregation)
        plan = self._plan_decisions(weights, abstain, cost, coverage)
        predictions, totals = self._predict_rows(source, weights, plan.rule, explain)
        predictions = insert_kept(predictions, frame[list(keep)])
        return self._with_notes(predictions, [*notes, *plan.notes], totals, prior_C)

    def explain(
        self,
        record: Record,
        images: Location | Mapping[str, Location] | None = None,
        *,
        class_name: str = "",
    ) -> Explanation:
        """Says what each modality, cell and image patch of a record contributes.

        class_name: the class to explain; the predicted one otherwise.
        """
        source, _ = open_frame(self.checkpoint, to_frame(record), images, batch_size=1)
        return explain_record(self.checkpoint, source, pick_device(self._gpus), class_name)

    def importance(
        self, rows: Rows, images: Location | Mapping[str, Location] | None = None
    ) -> pd.DataFrame:
        """Says how much balanced accuracy falls where a modality or column is of another record.

        rows: with labels. Returns modality, column, and the fall as a share with its 95 % interval.
        """
        source, _ = open_frame(self.checkpoint, to_frame(rows), images)
        return importance_of_rows(self.checkpoint, source, pick_device(self._gpus))

    @property
    def schema(self) -> pd.DataFrame:
        """The columns that `predict` reads: their modality, kind, and values.

        All columns of a table modality must be given, or none; any cell may be missing.
        """
        return expected_columns(raw_manifest(self.checkpoint, "a frame"))

    def __repr__(self) -> str:
        parts = [
            f"{len(self.classes)} classes",
            " + ".join(self.checkpoint.network.schema.modalities),
            self.checkpoint.network.made_of,
        ]
        accuracy = (self.metrics or {}).get("test", {}).get("balanced_accuracy")
        if accuracy is not None:
            parts.append(f"balanced accuracy {metric('balanced_accuracy').text(accuracy)} on test")
        return f"<LoadedModel {self.location}: {', '.join(parts)}>"

    def _weigh_experts(
        self,
        source: FrameRows,
        prior: str | Mapping[str, float] | None,
        cost: Costs | None,
        aggregation: str | None,
    ) -> tuple[FixedAggregation, Tensor | None]:
        """Returns the weights of the experts, and the class prior, if there is one."""
        prior = prior or implied_prior("", cost is not None, aggregation)
        own = self.checkpoint.config.inference.aggregation
        method = aggregation_method(aggregation, prior, own)
        prior_C = class_prior(prior, self.checkpoint.network) if prior else None
        weights, _ = choose_aggregation(
            self.checkpoint, source, method, prior_C, source.batch_size, self._gpus
        )
        return weights, prior_C

    def _plan_decisions(
        self,
        weights: FixedAggregation,
        abstain: float,
        cost: Costs | None,
        coverage: float | None,
    ) -> DecisionPlan:
        return plan_decisions(
            self.checkpoint,
            weights,
            abstain=abstain,
            cost=() if cost is None else cost_matrix(cost, self.classes),
            coverage=coverage,
        )

    def _predict_rows(
        self, source: FrameRows, weights: FixedAggregation, rule: DecisionRule, explain: bool
    ) -> tuple[pd.DataFrame, PredictionTotals]:
        """Returns the predictions of all rows with the index of the frame, and counts."""
        device = pick_device(self._gpus)
        predictor = Predictor(self.checkpoint, weights, device, rule=rule, explained=explain)
        tables = [predictor.schema.empty_table()]
        totals = PredictionTotals()
        with torch_threads(1):  # as predict.py does, so that every digit is the same
            for task_group in source.task_groups(1):
                for task in task_group.tasks:
                    for _, table, counts in predictor.predict_task(
                        source, task_group, task, decoding_threads()
                    ):
                        tables.append(table)
                        totals.add(counts)
        predictions: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        predictions.index = source.frame.index
        return predictions, totals

    def _with_notes(
        self,
        predictions: pd.DataFrame,
        notes: list[str],
        totals: PredictionTotals,
        prior_C: Tensor | None,
    ) -> pd.DataFrame:
        """Attaches the notes and the score; warns of each note in the line that calls `predict`."""
        notes = [
            *notes,
            *refusal_warnings(totals.refused.total(), totals.rows),
            *row_notes(self.checkpoint, totals, prior_C, "load(..., trust_unfamiliar=True)"),
        ]
        predictions.attrs["notes"] = notes
        if score := score_of_totals(self.checkpoint, totals):
            predictions.attrs["score"] = score.metrics
        for note in notes:
            warnings.warn(note, PredictionNote, stacklevel=3)
        return predictions


def _check_arguments(
    aggregation: str | None,
    abstain: float,
    batch_size: int,
    coverage: float | None,
    keep: Sequence[str],
) -> None:
    """Raises OptionError for the first argument that predict.py would not take as an option."""
    arguments = {
        "aggregation": aggregation,
        "abstain": abstain,
        "batch_size": batch_size,
        "coverage": coverage,
        "keep": list(keep),
    }
    for name, value in arguments.items():
        check_option(PredictOptions, name, value)


def _check_columns(frame: pd.DataFrame, id: str, keep: Sequence[str]) -> None:
    """Raises OptionError where `keep` or `id` names no column of the frame."""
    for option, column in (*(("keep", name) for name in keep), *([("id", id)] if id else [])):
        check_column(option, column, [*frame.columns], "frame")


def _read_metrics(location: str) -> Metrics | None:
    """Returns the metrics of a run, also where its checkpoint folder was named.

    None where there is no metrics.json, and, with a warning, where it is damaged.
    """
    try:
        content = read_metrics(location)
    except DamagedFile as error:
        warnings.warn(f"{error}; the model has no metrics", PredictionNote, stacklevel=4)
        return None
    except OSError:
        return None
    return {split: values for split, values in content.items() if isinstance(values, dict)}
