"""Predicts every row of shards or of a table and writes the predictions to a folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence

from pyarrow.fs import FileSelector

from distributed.inference.batches.joined_csv import CSV_FILE, check_csv_columns, join_parts
from distributed.inference.batches.part_files import PARTS, PredictionSettings, predict_in_process
from distributed.inference.decisions.costs import read_costs
from distributed.inference.decisions.plan import (
    COST_PRIOR_NOTE,
    DecisionPlan,
    implied_prior,
    plan_decisions,
)
from distributed.inference.estimation import choose_aggregation
from distributed.inference.known_prior import class_prior
from distributed.inference.notes import refusal_warnings, row_notes
from distributed.inference.options import MAX_ROWS_IN_PROCESS, PredictOptions
from distributed.inference.results import PredictResult
from distributed.inference.rows.inputs import InputRows, RowCounter
from distributed.inference.rows.tables import open_input
from distributed.inference.score import score_of_totals
from distributed.inference.totals import PredictionTotals
from distributed.inference.weighing import GIVEN, Facts, FixedAggregation, aggregation_method
from distributed.raw.encoding import EMPTY_CELLS
from distributed.runtime import lease, progress, ray_session, signals, storage
from distributed.runtime.errors import Failure, OptionError
from distributed.runtime.lease_files import LEASE
from distributed.runtime.option_values import check_options
from distributed.runtime.storage import filesystem, join
from distributed.training.checkpoint import Checkpoint, find_checkpoint, parse_checkpoint

SUMMARY = "summary.json"
MAX_REASONS = 10  # kinds of refusals that the summary counts


def predict(options: PredictOptions) -> PredictResult:
    """Predicts all rows and writes part files, with the refused rows in them, and a summary."""
    options = check_options(PredictOptions, options)
    out = storage.absolute_location(options.out)
    with lease.hold(out):
        return _predict_into(out, options)


def _predict_into(out: str, options: PredictOptions) -> PredictResult:
    """Predicts all rows into `out`, which this process holds."""
    with storage.as_option_error(out):
        check_output_folder(out)
    content = find_checkpoint(options.checkpoint)
    checkpoint = parse_checkpoint(content, options.checkpoint)
    if options.trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    settings = checkpoint.config.inference
    batch_size = options.batch_size or settings.batch_size
    rows, input_notes = open_input(
        checkpoint,
        options.data,
        images=image_folders(options.image),
        split=options.split,
        batch_size=batch_size,
        encoding=options.encoding,
        id_column=options.id,
        keep=options.keep,
    )
    if options.format == "csv":
        check_csv_columns(rows.kept)
    prior = implied_prior(options.prior, bool(options.cost), options.aggregation)
    method = aggregation_method(options.aggregation, prior, settings.aggregation)
    prior_C = class_prior(prior, checkpoint.network) if method == GIVEN else None
    with storage.as_option_error(out):  # noticed before any work
        system, path = filesystem(join(out, PARTS))
        system.create_dir(path, recursive=True)
    started = time.perf_counter()
    aggregation, facts = choose_aggregation(
        checkpoint, rows, method, prior_C, batch_size, options.gpus_per_actor
    )
    plan = decision_plan(checkpoint, aggregation, options)
    storage.remove_folder(join(out, PARTS))
    totals = predict_all(
        content,
        checkpoint,
        PredictionSettings(
            rows=rows,
            aggregation=aggregation,
            out=out,
            rule=plan.rule,
            gpus=options.gpus_per_actor,
            explain=options.explain,
            trust_unfamiliar=options.trust_unfamiliar,
        ),
        options.concurrency,
    )
    if options.format == "csv":
        input_notes += join_parts(out)
    seconds = time.perf_counter() - started
    if prior != options.prior:
        input_notes.append(COST_PRIOR_NOTE)
    all_notes = [*input_notes, *plan.notes, *row_notes(checkpoint, totals, prior_C)]
    result = make_result(options, out, checkpoint, totals, seconds, all_notes, facts)
    write_summary(result)
    return result


def decision_plan(
    checkpoint: Checkpoint, aggregation: FixedAggregation, options: PredictOptions
) -> DecisionPlan:
    """Returns how classes are decided, as the options say."""
    classes = checkpoint.network.schema.classes
    return plan_decisions(
        checkpoint,
        aggregation,
        abstain=options.abstain,
        cost=read_costs(options.cost, classes) if options.cost else (),
        coverage=options.coverage,
    )


def image_folders(texts: Sequence[str]) -> dict[str, str]:
    """Returns the image folder of every column in texts such as COLUMN=FOLDER."""
    folders: dict[str, str] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if name in folders:
            raise OptionError(f"image must name a column once; got {name!r} again", "image")
        folders[name] = folder
    return folders


def check_output_folder(out: str) -> None:
    """Refuses a folder that holds anything but the part files that a broken run left."""
    system, path = filesystem(out)
    for place, own_names in (
        (path, rf"{PARTS}|{re.escape(CSV_FILE)}.*|{re.escape(LEASE)}"),
        (join(path, PARTS), r"part-\d+\.parquet.*"),
    ):
        for entry in system.get_file_info(FileSelector(place, allow_not_found=True)):
            if not re.fullmatch(own_names, entry.base_name):
                raise OptionError(
                    f"out must be a new or empty folder; {out} holds "
                    f"{entry.path.removeprefix(path).lstrip('/')}",
                    "out",
                )


def predict_all(
    content: bytes, checkpoint: Checkpoint, settings: PredictionSettings, concurrency: int | None
) -> PredictionTotals:
    """Predicts all rows, in this process or in a pool, and returns their counts.

    content: the bytes of the checkpoint's model.pt, which the actors of a pool load.
    """
    counter = RowCounter(settings.rows)
    if needs_pool(settings.rows, concurrency):
        # Ray takes seconds to import and to start, and few rows are done sooner than that.
        from distributed.inference.batches.pool import predict_in_pool, start_pool

        actors = start_pool(concurrency, settings.gpus)
        with signals.stop_requests():
            parts = predict_in_pool(content, settings, counter.task_groups(actors), actors)
            totals = add_up(parts, settings.rows.row_count)
    else:
        parts = predict_in_process(checkpoint, settings, counter.task_groups(1))
        totals = add_up(parts, settings.rows.row_count)
    refused = totals.refused.total()
    if totals.rows != counter.rows or totals.rows != totals.predicted + refused:
        raise Failure(
            f"{counter.rows} rows were read, {totals.predicted} predicted and "
            f"{refused} refused: some are lost in {settings.out}"
        )
    return totals


def needs_pool(rows: InputRows, concurrency: int | None) -> bool:
    """Whether a pool of actors is requested, or the rows are so many that it is worth its start."""
    if concurrency is not None and concurrency > 1:
        return True
    task_groups = rows.task_groups(1)
    first = next(task_groups, None)
    many = first is not None and (
        first.rows > MAX_ROWS_IN_PROCESS or next(task_groups, None) is not None
    )
    return many and (concurrency is None or ray_session.in_cluster())


def add_up(parts: Iterable[PredictionTotals], expected_rows: int | None) -> PredictionTotals:
    """Returns the sums of all counts while showing the progress."""
    totals = PredictionTotals()
    with progress.show_progress("predicting", expected_rows) as advance:
        for part in parts:
            totals.add(part)
            advance(part.rows)
    return totals


def make_result(
    options: PredictOptions,
    out: str,
    checkpoint: Checkpoint,
    totals: PredictionTotals,
    seconds: float,
    result_notes: list[str],
    aggregation: Facts,
) -> PredictResult:
    """Gathers the counts by name."""
    schema = checkpoint.network.schema
    predicted = max(1, totals.predicted)
    refused = totals.refused.total()
    return PredictResult(
        options=options,
        out=out,
        rows=totals.rows,
        predicted=totals.predicted,
        refused=refused,
        abstained=totals.abstained,
        seconds=seconds,
        class_rows=dict(zip(schema.classes, totals.class_rows)),
        set_rows={size: rows for size, rows in enumerate(totals.set_rows) if rows},
        score=score_of_totals(checkpoint, totals),
        weights={
            name: value / predicted for name, value in zip(schema.modalities, totals.weight_sums)
        },
        unfamiliar_rows={
            name: rows for name, rows in zip(schema.modalities, totals.unfamiliar_rows) if rows
        },
        unread={
            name: count
            for name, count in sorted(totals.unread.items())
            if count and not name.startswith(EMPTY_CELLS)
        },
        reasons=dict(totals.refused.most_common(MAX_REASONS)),
        notes=result_notes,
        warnings=refusal_warnings(refused, totals.rows),
        aggregation=aggregation,
    )


def write_summary(result: PredictResult) -> None:
    """Writes the summary, after everything else: where it is, the folder is complete."""
    content = json.dumps(result.flat(), indent=1, allow_nan=False).encode()
    storage.write_file(join(result.out, SUMMARY), content)
