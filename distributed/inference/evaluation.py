"""A checkpoint under test conditions: metrics with intervals, how the experts were weighed, how good the confidences are.

Legend: N rows, R rows of the split, C classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distributed.inference import notes, shifts, weighing
from distributed.inference.matching import SchemaMatch, match_schemas
from distributed.shards.batches import BatchSource, EpochPlan, MemorySource, StreamSource
from distributed.shards.corruption import apply_corruption, parse_corruption
from distributed.shards.decode import Arrays, decode_columns, empty_arrays
from distributed.shards.index import read_index
from distributed.shards.manifest import read_manifest
from distributed.shards.memory import decide_cache, load_arrays
from distributed.shards.reader import Columns, ShardReader
from distributed.shards.sampling import IntArray, Selection
from distributed.training.checkpoint import Checkpoint
from distributed.training.scoring import compute_metrics, confidence_report
from model.decisions.aggregation import Aggregation
from model.fusion.novelty import only_unfamiliar
from model.metrics import metrics
from model.metrics.names import CONFIDENCE_FACTS
from model.metrics.scoring import FORMULAS
from model.schema import Schema, join_names

INTERVALS = tuple(FORMULAS)
SHOWN = ("rows", *CONFIDENCE_FACTS)


@dataclass(frozen=True, kw_only=True)
class EvaluationConditions:
    """What is asked of an evaluation. prior_C: a known class prior of the test rows."""

    split: str = "test"
    aggregation: str = "uniform"
    prior_C: Tensor | None = None
    shift: str = ""
    modalities: tuple[str, ...] = ()
    corrupt: str = ""
    seed: int = 0
    replicates: int = 200


@dataclass
class EvaluationResult:
    """Everything that was found; `flat` is all of it under flat names."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    notes: dict[str, str]
    confidence: list[dict[str, Any]]
    aggregation: Aggregation
    asked: str
    rows: int  # scored
    available: int  # rows of the split before a cut
    class_rows: dict[str, int]
    remarks: list[str] = field(default_factory=list)

    def flat(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            **self.metrics,
            "rows": self.rows,
            "rows_available": self.available,
        }
        for name, (low, high) in self.intervals.items():
            found |= {f"{name}/low": low, f"{name}/high": high}
        found |= weighing.aggregation_facts(self.aggregation, self.asked)
        for row in self.confidence:
            found |= {
                f"confidence/{row['modality']}/{row['group']}/{name}": row[name] for name in SHOWN
            }
        found |= {f"rows/{name}": count for name, count in self.class_rows.items()}
        if self.aggregation.prior_C is not None:
            found |= {
                f"prior/{name}": float(p)
                for name, p in zip(self.class_rows, self.aggregation.prior_C, strict=True)
            }
        found |= {f"note/{name}": text for name, text in self.notes.items()}
        return found | {"remarks": "; ".join(self.remarks)}


def score_checkpoint(
    checkpoint: Checkpoint, shards: str, condition: EvaluationConditions, device: torch.device
) -> EvaluationResult:
    """Labels of the split serve the cut, which is a protocol, and the metrics; no decision is made on them."""
    network, classes = checkpoint.network, checkpoint.network.schema.classes
    source, found_match, available = open_split(checkpoint, shards, condition)
    seen = weighing.score_rows(checkpoint, source, device)
    weighed = weighing.aggregate_experts(
        checkpoint,
        condition.aggregation,
        seen.logits_NEC,
        source,
        device,
        condition.prior_C,
        condition.seed,
    )
    probabilities_NC = weighed.probabilities_NC
    decisions_N = checkpoint.calibration.decide(probabilities_NC)
    counts_C, labels_N = network.counts_C.cpu(), seen.labels_N
    common = (probabilities_NC, labels_N, counts_C)
    remarks = list(found_match.notes)
    if checkpoint.config.data.corrupt:
        remarks.append(
            f"the run was trained with data.corrupt={checkpoint.config.data.corrupt}: applied here too"
        )
    unlike, nowhere = (
        seen.unfamiliar_NM.sum(0).tolist(),
        int(only_unfamiliar(seen.present_NM, seen.unfamiliar_NM).sum()),
    )
    remarks += notes.unfamiliar_notes(network.schema.modalities, unlike, nowhere, len(labels_N))
    remarks += notes.cross_modal_notes(
        network.schema.modalities, seen.agreement, checkpoint.cross_modal
    )
    nothing = int((~seen.present_NM.any(1)).sum())
    if nothing:
        remarks.append(
            f"{nothing} of {len(labels_N)} rows have no modality left: they get what the network gives for nothing"
        )
    class_rows = {name: int((labels_N == c).sum()) for c, name in enumerate(classes)}
    remarks += notes.prior_notes(
        classes, () if condition.prior_C is None else condition.prior_C.tolist()
    )
    kept = network.schema.keep(condition.modalities).modalities
    if taken := [
        term.modality
        for term in parse_corruption(condition.corrupt, network.schema)
        if term.modality not in kept
    ]:
        remarks.append(f"{', '.join(taken)} is taken away: nothing of it is left to corrupt")
    single = [name for name, count in class_rows.items() if count == 1]
    if single and condition.replicates:
        remarks.append(
            f"intervals are too narrow: they cannot know how much a class with one row varies ({join_names(single)})"
        )
    return EvaluationResult(
        metrics=compute_metrics(seen, network, probabilities_NC, decisions_N),
        intervals=metrics.bootstrap_intervals(
            *common, INTERVALS, condition.replicates, condition.seed, predictions_N=decisions_N
        ),
        notes=metrics.explain_metrics(*common, classes, decisions_N),
        confidence=confidence_report(seen, network),
        aggregation=weighed,
        asked="prior" if condition.aggregation == "given" else condition.aggregation,
        rows=int((labels_N >= 0).sum()),
        available=available,
        class_rows=class_rows,
        remarks=remarks,
    )


def open_split(
    checkpoint: Checkpoint, shards: str, condition: EvaluationConditions
) -> tuple[BatchSource, SchemaMatch, int]:
    """The rows of the condition as batches, from memory or streamed by size; and the rows that the split has."""
    schema, config = checkpoint.network.schema, checkpoint.config
    manifest = read_manifest(shards)
    found = match_schemas(manifest.schema, schema, manifest.prepare, checkpoint.manifest.prepare)
    spec = corruption_spec(checkpoint, condition)
    if not manifest.rows[condition.split]:
        raise ValueError(
            f"a split must have rows to be evaluated; {shards} has none in {condition.split}/"
        )
    index = read_index(shards, condition.split)
    check_labels(found, manifest.schema, index.labels_R, shards, condition.split)
    labels_R = found.labels(index.labels_R).astype(np.int64)
    rows_R = shifts.shifted_rows(
        labels_R, np.asarray(schema.counts), condition.shift, condition.seed
    )
    selection = Selection(
        rows_R,
        labels_R[rows_R],
        index.ranks_R[rows_R].astype(np.int64),
        np.bincount(labels_R[rows_R].clip(0), minlength=len(schema.classes)),
    )
    plan = EpochPlan(
        selection=selection,
        size=min(config.inference.batch_size, len(rows_R)),
        train=False,
        seed=config.optim.seed,
    )
    seed = config.optim.seed
    if decide_cache(schema, index.rows, config) == "memory":
        arrays = found.apply(load_arrays(shards, condition.split, found.read))
        return (
            MemorySource(
                schema,
                plan,
                apply_corruption(arrays, spec, schema, seed=seed, split=condition.split),
            ),
            found,
            index.rows,
        )
    return (
        StreamSource(schema, plan, MatchedReader(index, found.read, spec, seed, match=found)),
        found,
        index.rows,
    )


def corruption_spec(checkpoint: Checkpoint, condition: EvaluationConditions) -> str:
    """The run's own sabotage, what is asked for on top of it, and modalities that are taken away, as one specification."""
    schema = checkpoint.network.schema
    kept = schema.keep(condition.modalities).modalities
    parse_corruption(condition.corrupt, schema)
    taken = [f"{name}=missing" for name in schema.modalities if name not in kept]
    return ",".join(filter(None, (checkpoint.config.data.corrupt, condition.corrupt, *taken)))


def check_labels(
    found: SchemaMatch, data: Schema, labels_R: IntArray, shards: str, split: str
) -> None:
    """Rows of a class that the network cannot give would only count as its mistakes."""
    if not (labels_R >= 0).any():
        raise ValueError(
            f"an evaluation needs labelled rows; {shards} has none in {split}/: use predict.py for rows without labels"
        )
    rows_C = np.bincount(labels_R[labels_R >= 0], minlength=len(data.classes))
    unknown = [name for c, name in enumerate(data.classes) if name in found.strangers and rows_C[c]]
    if unknown:
        raise ValueError(
            f"--data must have rows of the checkpoint's classes only ({join_names(found.model.classes)}); "
            f"{split}/ has rows of {', '.join(unknown)}"
        )


@dataclass
class MatchedReader(ShardReader):
    """A reader whose batches come out in the checkpoint's terms; `schema` is what it decodes."""

    match: SchemaMatch = None  # type: ignore[assignment]

    def arrays_without_columns(self, rows: int) -> Arrays:
        return {
            name: values
            for name, values in empty_arrays(self.match.model, rows).items()
            if not values.size
        }

    def decode(self, columns: Columns) -> Arrays:
        arrays = self.match.apply(decode_columns(columns, self.schema))
        return apply_corruption(
            arrays, self.corruption, self.match.model, seed=self.seed, split=self.index.split
        )
