"""Ingestion from end to end.

Look at the table, prepare every row, settle splits and columns, write the parts, and complete the
folder with its manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distributed.ingestion import assignment, passes
from distributed.ingestion.blocks import (
    MAX_TABLE_BYTES,
    PartLayout,
    Place,
    PreparedBlocks,
    ShardLayout,
    SourceRows,
)
from distributed.ingestion.costs import table_seconds
from distributed.ingestion.flips import with_flips
from distributed.ingestion.here import InThisProcess
from distributed.ingestion.image_specs import InspectedColumn, inspect_image_column
from distributed.ingestion.options import FRACTIONS, IngestOptions
from distributed.ingestion.output import (
    OutputFolder,
    WrittenFile,
    hold,
    parts_digest,
    verify_parts,
    write_table,
)
from distributed.ingestion.roles import ColumnRoles, assign_roles, row_plan
from distributed.ingestion.schema import build_schema, check_leaks, prepare_record
from distributed.ingestion.summary import IngestReport
from distributed.raw.images import ImageSpec
from distributed.raw.reading import explain_reading_error
from distributed.raw.table import RawTable, open_raw_table
from distributed.runtime import ray_session
from distributed.runtime.errors import OptionError, cause_of
from distributed.runtime.option_values import check_options
from distributed.runtime.progress import show_progress
from distributed.runtime.signals import stop_requests
from distributed.runtime.storage import join
from distributed.shards.checksums import record_key
from distributed.shards.layout import REJECTED, SPLITS
from distributed.shards.manifest import Manifest
from distributed.shards.sampling import IntArray
from model.schema import Schema

# Less work than this is done sooner in this process than Ray, which takes some 6 s to start and
# to end, could do it.
SMALL_SECONDS = 10.0
# Training rows whose values give the quantiles: all of them in most tables.
SAMPLED_ROWS = 100_000
PART_BYTES = 32 << 20
MIN_PART_ROWS = 1024
TRAINING_PARTS = 8  # wanted at least: workers share the parts and shuffle them
# Each part is a result of every task that deals rows out, and Ray copes with a few thousand; no
# part is beyond MAX_TABLE_BYTES, though.
MAX_FILES = 2000
ROW_BYTES, CELL_BYTES = 32.0, 4  # of a written row without its images, about


@dataclass(frozen=True)
class IngestResult:
    """The shards that an ingest has written, and what there is to tell about them.

    shards: a folder or a URI; distributed.Shards opens it.
    """

    shards: str
    manifest: Manifest
    report: IngestReport

    def show(self) -> None:
        """Prints columns, classes, splits, refused rows, notes and warnings."""
        self.report.show(self.manifest, self.shards)


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """What is decided before any row is prepared. fractions: shares of train, val and test."""

    table: RawTable
    roles: ColumnRoles
    images: list[InspectedColumn]
    fractions: tuple[float, float, float]
    seed: int
    rows_per_file: int

    @property
    def specs(self) -> list[ImageSpec]:
        return [image.spec for image in self.images]

    @property
    def mean_pixels(self) -> list[float]:
        """Of each source image of a row."""
        return [image.mean_pixels for image in self.images]


@dataclass(frozen=True)
class SettledRows:
    """What is decided after all rows are prepared: splits, columns, and what there is to tell."""

    rows: assignment.SplitAssignment
    schema: Schema
    report: IngestReport


def ingest(options: IngestOptions) -> IngestResult:
    """Writes a SHARDS folder from a table and its images.

    The folder appears whole or not at all. Nothing is printed except progress, on stderr.
    """
    options = check_options(IngestOptions, options)
    fractions = split_fractions(options)
    with hold(options.out):
        return _ingest_into(options, fractions)


def _ingest_into(options: IngestOptions, fractions: tuple[float, float, float]) -> IngestResult:
    """Writes the shards to the folder, which this process holds."""
    target = OutputFolder(options.out, options.overwrite)
    table = open_raw_table(options.table, options.encoding)
    roles = assign_roles(options, table)
    if roles.split:
        assignment.check_split_column(table, roles.split)
    images = [
        inspect_image_column(options, table, column, folder)
        for column, folder in roles.images.items()
    ]
    plan = IngestPlan(
        table=table,
        roles=roles,
        images=images,
        fractions=fractions,
        seed=options.seed,
        rows_per_file=options.rows_per_file,
    )
    place = choose_place(plan)
    with stop_requests(), target.writing() as folder:
        manifest, report = write_shards(plan, place, target, folder)
        target.commit(manifest)
    return IngestResult(options.out, manifest, report)


def split_fractions(options: IngestOptions) -> tuple[float, float, float]:
    """Returns the shares of train, val and test."""
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


def is_small(table: RawTable, pixels: Sequence[float]) -> bool:
    """Whether Ray need not be started for a table. pixels: of each source image of a row."""
    return table_seconds(table, pixels) < SMALL_SECONDS


def choose_place(plan: IngestPlan) -> Place:
    """Returns this process for a small table where no Ray runs, otherwise Ray, which is started."""
    has_ray = ray_session.is_running() or ray_session.in_cluster()
    if is_small(plan.table, plan.mean_pixels) and not has_ray:
        return InThisProcess()
    ray_session.start_ray()
    # Ray takes seconds to load, which a small table need not wait for.
    from distributed.ingestion.in_ray import InRay

    return InRay()


def write_shards(
    plan: IngestPlan, place: Place, target: OutputFolder, folder: str
) -> tuple[Manifest, IngestReport]:
    """Writes the parts into `folder`; returns the manifest, which the caller commits."""
    blocks = prepare_table(plan, place)
    identities = passes.collect_identities(blocks)
    settled = settle(plan, blocks, identities)
    schema = settled.schema
    report = settled.report
    rows = settled.rows.rows
    parts = plan_parts(rows.split, identities, schema, plan.rows_per_file)
    layout = ShardLayout(parts, schema, report.readings())
    target.clear()  # all that can be wrong with the table is known by now
    with show_progress("writing files", sum(parts.files)) as advance:
        written = passes.write_all_parts(blocks, rows, layout, folder, advance)
    verify_parts([*written, *_write_rejected(settled.rows.rejected, folder)])
    manifest = Manifest(
        schema=with_flips(schema, folder, parts.files[0]),
        rows=dict(zip(SPLITS, parts.rows)),
        prepare=prepare_record(plan.roles, plan.specs, schema, plan.seed, plan.fractions, report),
        content=parts_digest(written),
        parts=dict(sorted((record_key(part.uri), part.record) for part in written)),
    )
    return manifest, report


def _write_rejected(rejected: pa.Table, folder: str) -> list[WrittenFile]:
    """Writes the refused rows, if there are any."""
    if not rejected.num_rows:
        return []
    return [write_table(join(folder, REJECTED), rejected)]


def prepare_table(plan: IngestPlan, place: Place) -> PreparedBlocks:
    """Reads and prepares all rows of the table."""
    table, roles = plan.table, plan.roles
    source = SourceRows(
        table, row_plan(roles, plan.specs), roles.source_columns(), plan.mean_pixels
    )
    try:
        with show_progress("preparing rows", table.rows) as advance:
            blocks = passes.prepare_all(place, source, advance)
    except Exception as error:
        raise reading_error(table, error) from error
    if not len(blocks):
        raise OptionError(f"table must hold rows; {table.uri!r} has none", "table")
    return blocks


def settle(plan: IngestPlan, blocks: PreparedBlocks, identities: pa.Table) -> SettledRows:
    """Decides the split of every row and the columns to keep.

    Rows that have nothing but dropped columns are refused, and then all is decided anew.
    """
    roles, specs = plan.roles, plan.specs
    report = IngestReport()
    while True:
        rows = assignment.assign_rows(identities, roles, plan.fractions, plan.seed, report)
        with show_progress("counting rows", len(blocks)) as advance:
            statistics = passes.training_statistics(blocks, rows.rows, SAMPLED_ROWS, advance)
        schema = build_schema(roles, specs, statistics, rows, report)
        names = passes.prepared_columns(schema)
        if len(names) == len(roles.features) + len(specs):
            break
        blank = passes.all_blank_rows(blocks, rows.rows, names)
        if not blank.any():
            break
        identities = assignment.refuse_blank_rows(identities, blank)
        report = IngestReport(stay_dropped=report.decisions)
    check_leaks(identities, statistics.columns, schema, rows, report)
    return SettledRows(rows, schema, report)


def reading_error(table: RawTable, error: Exception) -> Exception:
    """Returns errors of the table's text and files as one line, any other error as it is."""
    cause = cause_of(error)
    damaged_file = isinstance(cause, OSError) and cause.errno is None
    bad_text = isinstance(cause, (pa.ArrowInvalid, UnicodeError))
    if damaged_file or bad_text or "Failed to read CSV" in str(error):
        return explain_reading_error(table, cause)
    return error


def plan_parts(
    split: IntArray, identities: pa.Table, schema: Schema, rows_per_file: int
) -> PartLayout:
    """Returns how many part files every split gets.

    They are of about 32 MiB, but not too many, and at least eight of training rows where there
    are enough. rows_per_file: the user's number of rows, or 0.
    """
    row_bytes = ROW_BYTES + CELL_BYTES * sum(len(table.columns) for table in schema.tables)
    for name in identities.column_names:
        if name.startswith(passes.LENGTH):
            row_bytes += float(identities[name].to_numpy().sum()) / max(1, len(split))
    rows = [int(np.sum(split == place)) for place in range(len(SPLITS))]
    training_part = max(MIN_PART_ROWS, -(-rows[0] // TRAINING_PARTS))
    wanted = min(int(PART_BYTES / row_bytes), training_part)
    not_too_many = min(int(MAX_TABLE_BYTES / row_bytes), -(-sum(rows) // MAX_FILES))
    size = rows_per_file or max(1, wanted, not_too_many)
    return PartLayout(rows=tuple(rows), files=tuple(max(1, -(-count // size)) for count in rows))
