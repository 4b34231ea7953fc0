"""Scores a checkpoint on a labelled split of its own or other shards, under test conditions.

Legend: N rows, M modalities, C classes.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from distributed.config import split_list
from distributed.inference import notes
from distributed.inference.decisions.reports import report_costs, report_sets
from distributed.inference.evaluating.audit_page import write_audit_page
from distributed.inference.evaluating.evaluation_page import write_evaluation_page
from distributed.inference.evaluating.label_audit import (
    audit_labels,
    check_auditable,
    write_suspects,
)
from distributed.inference.evaluating.scored_split import score_split
from distributed.inference.evaluating.subgroups import read_group_columns, subgroups
from distributed.inference.options import EvaluateOptions
from distributed.inference.results import EvaluationResult, OperatingPoint
from distributed.inference.weighing import (
    GIVEN,
    torch_threads,
)
from distributed.runtime.errors import OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.storage import as_option_error, filesystem, write_file
from distributed.shards.corruption import parse_corruption
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.operating_points import operating_probabilities, trained_at
from distributed.training.scoring import Scores, compute_run_metrics, confidence_rows
from model.fusion.novelty import only_unfamiliar
from model.metrics import metrics
from model.metrics.names import OPERATING_METRICS
from model.metrics.scoring import FORMULAS
from model.schema import join_names

WITH_INTERVALS = tuple(FORMULAS)  # metrics that get a bootstrap interval


def evaluate(options: EvaluateOptions) -> EvaluationResult:
    """Scores a checkpoint on a labelled split and writes the result where options.json says."""
    options = check_options(EvaluateOptions, options)
    if not options.checkpoint:
        raise OptionError(
            "checkpoint must be given, or compare with several; got neither",
            *("checkpoint", "compare"),
        )
    if options.compare:
        raise OptionError(
            "compare takes the place of checkpoint; in Python it goes to compare_runs", "compare"
        )
    for name in ("json", "report"):
        if place := getattr(options, name):
            check_writable_file(place, name)
    checkpoint = load_checkpoint(options.checkpoint)
    if options.trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    if options.audit:
        check_auditable(checkpoint, options)
    with torch_threads(checkpoint.config.scaling.threads):
        result = score_checkpoint(checkpoint, options)
        if options.audit:
            audit, train = audit_labels(checkpoint, options)
            write_suspects(audit)
            write_audit_page(checkpoint, audit, train, options.data, options.gpus)
            result = replace(result, audit=audit)
    if options.json:
        content = json.dumps(result.flat(), indent=1, allow_nan=False)
        write_file(options.json, content.encode(), shared=True)  # no lease is on a single file
    return result


def check_writable_file(place: str, name: str = "json") -> None:
    """Refuses a file that cannot be written, before there is anything to write."""
    files, path = filesystem(place)
    with as_option_error(place, name, "must name a file that can be written"):
        if files.get_file_info(path).type.name == "Directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        suffix = f".try-{uuid.uuid4().hex}"
        write_file(f"{place}{suffix}", b"")
        files.delete_file(f"{path}{suffix}")


def score_checkpoint(checkpoint: Checkpoint, options: EvaluateOptions) -> EvaluationResult:
    """Scores a loaded checkpoint, options.checkpoint, under the conditions of the options.

    Labels of the split serve the cut, which is part of the test protocol, and the metrics; no
    decision of the model is made on them.
    """
    network, classes = checkpoint.network, checkpoint.network.schema.classes
    scored = score_split(checkpoint, options)
    rows, plan, scores = scored.rows, scored.plan, scored.scores
    decided = rows.decided
    groups = read_group_columns(options.data, options.split, options.by, scored.split.rows_N)
    points = operating_points(checkpoint, scores, options)
    if options.report:
        write_evaluation_page(checkpoint, options, scored)
    class_rows = rows.class_rows
    return EvaluationResult(
        options=options,
        metrics=compute_run_metrics(scores, network, rows.probabilities_NC, decided.decided_N),
        operating_points=points,
        sets=report_sets(rows, plan.sets) if plan.sets else None,
        costs=report_costs(rows, plan.rule, options.replicates, options.seed),
        subgroups=subgroups(rows, groups, options.replicates, options.seed),
        intervals=metrics.bootstrap_intervals(
            *rows.scored,
            WITH_INTERVALS,
            options.replicates,
            options.seed,
            predictions_N=decided.decided_N,
        ),
        notes=metrics.explain_metrics(*rows.scored, classes, decided.decided_N),
        confidence=confidence_rows(scores, network),
        aggregation=scored.aggregation,
        requested_aggregation="prior" if scored.method == GIVEN else scored.method,
        rows=sum(class_rows.values()),
        available=scored.split.available,
        class_rows=class_rows,
        remarks=[
            *scored.split.notes,
            *plan.notes,
            *scored.notes,
            *_row_remarks(checkpoint, scores, scored.prior_C),
            *_condition_remarks(checkpoint, options, class_rows),
        ],
    )


def operating_points(
    checkpoint: Checkpoint, scores: Scores, options: EvaluateOptions
) -> list[OperatingPoint]:
    """Returns what the checkpoint scores at every prior that has a name."""
    network, fitted = checkpoint.network, checkpoint.calibration
    own = trained_at(network, checkpoint.config)
    points = []
    for prior, probabilities_NC in operating_probabilities(
        scores.logits_NEC, network, checkpoint.config, fitted
    ):
        decisions_N = fitted.decide(probabilities_NC)
        scored = (probabilities_NC, scores.labels_N, network.counts_C.cpu())
        points.append(
            OperatingPoint(
                prior=prior,
                is_own=prior == own,
                metrics=metrics.compute_metrics(
                    *scored, network.schema.classes, decisions_N, names=OPERATING_METRICS
                ),
                intervals=metrics.bootstrap_intervals(
                    *scored,
                    OPERATING_METRICS,
                    options.replicates,
                    options.seed,
                    predictions_N=decisions_N,
                ),
            )
        )
    return points


def _row_remarks(checkpoint: Checkpoint, scores: Scores, prior_C: Tensor | None) -> Sequence[str]:
    """Remarks on the run's own corruption, on rows unlike training, and on the known prior."""
    schema, rows = checkpoint.network.schema, len(scores.labels_N)
    remarks: list[str] = []
    if corruption := checkpoint.config.data.corrupt:
        remarks.append(f"the run was trained with data.corrupt={corruption}: applied here too")
    remarks += notes.unfamiliar_notes(
        schema.modalities,
        scores.unfamiliar_NM.sum(0).tolist(),
        int(only_unfamiliar(scores.present_NM, scores.unfamiliar_NM).sum()),
        rows,
    )
    remarks += notes.cross_modal_notes(schema.modalities, scores.agreement, checkpoint.cross_modal)
    blank = int((~scores.present_NM.any(1)).sum())
    if blank:
        remarks.append(
            f"{blank} of {rows} rows have no modality left: "
            "their prediction does not depend on the record: it is the network's "
            "output without any input"
        )
    prior = () if prior_C is None else prior_C.tolist()
    return [*remarks, *notes.prior_notes(schema.classes, prior)]


def _condition_remarks(
    checkpoint: Checkpoint, options: EvaluateOptions, class_rows: dict[str, int]
) -> Sequence[str]:
    """Remarks on corruption without effect and on intervals that are too narrow."""
    schema = checkpoint.network.schema
    kept = schema.keep(split_list(options.modalities)).modalities
    corrupted = [term.modality for term in parse_corruption(options.corrupt, schema)]
    removed = [name for name in corrupted if name not in kept]
    remarks = []
    if removed:
        remarks.append(f"{', '.join(removed)} is taken away: nothing of it is left to corrupt")
    single = [name for name, rows in class_rows.items() if rows == 1]
    if single and options.replicates:
        remarks.append(
            "intervals are too narrow: they cannot know how much a class with one row varies "
            f"({join_names(single)})"
        )
    return remarks
