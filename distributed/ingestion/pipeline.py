"""Ingestion from end to end: look at the table, prepare every row, settle splits and columns, write the parts, commit the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from distributed.ingestion import assignment, output, passes, roles
from distributed.ingestion.options import FRACTIONS, IngestOptions
from distributed.ingestion.roles import ColumnRoles
from distributed.ingestion.summary import IngestReport
from distributed.raw import images
from distributed.raw.table import RawTable, explain_reading_error, open_raw_table
from distributed.runtime import options as option_rules
from distributed.runtime import progress, ray_session, signals
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import join
from distributed.shards.layout import REJECTED, SPLITS
from distributed.shards.manifest import Manifest
from model.schema import Schema

SAMPLED = 100_000  # training rows whose values give the quantiles: all of them in most tables
PART_BYTES = 32 << 20
MOST_FILES = 2000  # each is a result of every task that deals rows out, and Ray copes with few thousand; but none is beyond MOST_BYTES


@dataclass(frozen=True)
class IngestResult:
    """The shards that an ingest has written, and what there is to tell about them."""

    shards: str  # folder or URI
    manifest: Manifest
    report: IngestReport

    def show(self) -> None:
        """Prints columns, classes, splits, refused rows, notes and warnings."""
        self.report.show(self.manifest, self.shards)


def ingest(options: IngestOptions) -> IngestResult:
    """Makes a SHARDS folder from a table and its images. The folder appears whole or not at all."""
    option_rules.check(options)
    fractions = split_shares(options)
    target = output.OutputFolder(options.out, options.overwrite)
    table = open_raw_table(options.table, options.encoding)
    chosen = roles.assign_roles(options, table)
    looks = [
        roles.inspect_image_column(options, table, column, folder)
        for column, folder in chosen.images.items()
    ]
    ray_session.start_ray()
    with signals.stop_requests(), target.writing() as folder:
        manifest, report = write_parts(
            table, chosen, looks, options, fractions, folder, target.clear
        )
        target.commit(manifest)
    return IngestResult(options.out, manifest, report)


def split_shares(options: IngestOptions) -> tuple[float, float, float]:
    """The shares of train, val and test."""
    if options.split and options.split_column:
        raise OptionError(
            "split and split_column exclude each other: give one", "split", "split_column"
        )
    if not options.split:
        return FRACTIONS
    try:
        train, val, test = (float(word) for word in options.split.split(","))
    except ValueError:
        train = val = test = -1.0
    if not (train > 0 and val > 0 and test >= 0 and abs(train + val + test - 1) < 1e-6):
        rule = "split must be three shares TRAIN,VAL,TEST that sum to 1, the first two above 0"
        raise OptionError(f"{rule}; got {options.split!r}", "split")
    return train, val, test


def write_parts(
    table: RawTable,
    chosen: ColumnRoles,
    looks: list[tuple[images.ImageSpec, float]],
    options: IngestOptions,
    fractions: tuple[float, float, float],
    folder: str,
    clear: Callable[[], None],
) -> tuple[Manifest, IngestReport]:
    """Writes the parts into `folder` and returns the manifest, which the caller commits, and what there is to tell.

    looks: from roles.look_at_images. clear: empties the folder, once all that can be wrong with the table is known.
    """
    cpus = int(ray.cluster_resources().get("CPU", 1))
    specs = [spec for spec, _ in looks]
    try:
        with progress.show_progress("preparing rows", table.rows) as advance:
            plan, names = roles.row_plan(chosen, specs), roles.source_columns(chosen)
            blocks = passes.prepare_all(
                table, plan, names, [pixels for _, pixels in looks], cpus, advance
            )
    except Exception as error:
        raise reading_error(table, error) from error
    if not len(blocks):
        raise OptionError(f"table must hold rows; {table.uri!r} has none", "table")
    known = passes.collect_identities(blocks, cpus)
    assigned, schema, report = settle(blocks, known, chosen, specs, options.seed, fractions, cpus)
    rows = assigned.rows
    parts = plan_parts(rows.split, known, schema, options.rows_per_file)
    clear()
    with progress.show_progress("writing files", sum(parts.files)) as advance:
        written = passes.write_all_parts(
            blocks, rows, parts, schema, report.readings(), folder, cpus, advance
        )
    refused = (
        [output.write_table(join(folder, REJECTED), assigned.rejected)]
        if assigned.rejected.num_rows
        else []
    )
    output.verify_parts([*written, *refused])
    kept = {image.name for image in schema.images}
    prepare = assignment.prepare_record(
        chosen, [s for s in specs if s.name in kept], schema, options.seed, fractions, report
    )
    rows_of = dict(zip(SPLITS, parts.rows))
    return Manifest(
        schema=schema, rows=rows_of, prepare=prepare, content=output.parts_digest(written)
    ), report


def settle(
    blocks: passes.PreparedBlocks,
    known: pa.Table,
    chosen: ColumnRoles,
    specs: list[images.ImageSpec],
    seed: int,
    fractions: tuple[float, float, float],
    cpus: int,
) -> tuple[assignment.SplitRows, Schema, IngestReport]:
    """The rows of every split and the columns to keep. Rows that have nothing but dropped columns are refused, and all is settled anew."""

    report = IngestReport()
    while True:
        assigned = assignment.assign_rows(known, chosen, fractions, seed, report)
        with progress.show_progress("counting rows", len(blocks)) as advance:
            counts, sums = passes.training_statistics(blocks, assigned.rows, SAMPLED, cpus, advance)
        schema = assignment.build_schema(chosen, specs, counts, sums, assigned, report)
        names = passes.prepared_columns(schema)
        left_out = len(names) < len(chosen.features) + len(specs)
        if (
            not left_out
            or not (blank := passes.all_blank_rows(blocks, assigned.rows, names, cpus)).any()
        ):
            break
        known, report = (
            assignment.refuse_blank_rows(known, blank),
            IngestReport(stay_dropped=report.decisions),
        )
    assignment.check_leaks(known, counts, schema, assigned, chosen, report)
    return assigned, schema, report


def reading_error(table: RawTable, error: Exception) -> Exception:
    """Errors of the table's text and files as one line; anything else as it is."""

    cause = getattr(error, "cause", None) or error
    damage = (
        isinstance(cause, OSError) and cause.errno is None and table.kind == "csv"
    )  # of its compression
    if (
        damage
        or isinstance(cause, (pa.ArrowInvalid, UnicodeError))
        or "Failed to read CSV" in str(error)
    ):
        return explain_reading_error(table, cause)
    return error


def plan_parts(
    split: np.ndarray, known: pa.Table, schema: Any, rows_per_file: int
) -> passes.PartLayout:
    """Files of about 32 MiB, but not too many, and at least eight where the training rows suffice: workers share and shuffle them."""

    per_row = 32.0 + 4 * sum(len(t.numeric) + len(t.categorical) for t in schema.tables)
    for name in known.column_names:
        if name.startswith(passes.LENGTH):
            per_row += float(known[name].to_numpy().sum()) / max(1, len(split))
    counts = [int(np.sum(split == s)) for s in range(3)]
    small = min(int(PART_BYTES / per_row), max(1024, -(-counts[0] // 8)))
    size = rows_per_file or max(
        1, small, min(int(passes.MAX_TABLE_BYTES / per_row), -(-sum(counts) // MOST_FILES))
    )
    return passes.PartLayout(rows=tuple(counts), files=tuple(max(1, -(-n // size)) for n in counts))
