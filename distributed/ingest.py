"""Makes a SHARDS folder from a table and its images, through Ray Data."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed import cli

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from distributed import images, ingest_assign, ingest_passes, ingest_plan, ingest_report, ingest_table
    from model.schema import Schema

FRACTIONS = (0.7, 0.1, 0.2)
SAMPLED = 100_000  # training rows whose values give the quantiles: all of them in most tables
PART_BYTES = 32 << 20
MOST_FILES = 2000  # each is a result of every task that deals rows out, and Ray copes with few thousand; but none is beyond MOST_BYTES


def parser() -> argparse.ArgumentParser:
    found = cli.Parser(prog="ingest.py", description=__doc__, allow_abbrev=False)
    add = found.add_argument
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "COL"}
    add("--table", required=True, help="CSV or Parquet: a file, a folder of them, or a URI (s3://, gs://)")
    add("--label", required=True, metavar="COL", help="column of the classes")
    add(
        "--image",
        **{**many, "metavar": "COL[=DIR]"},
        help="image columns: encoded bytes, or paths relative to DIR, else to the table (default: no images)",
    )
    add("--group", metavar="COL", help="rows of one group stay in one split: a patient, a lot (default: every row for itself)")
    add("--id", metavar="COL", help="column of unique ids (default: rows are numbered)")
    add("--drop", **many, help="columns to leave out (default: none)")
    add("--numeric", **many, help="columns that are numbers, whatever they look like (default: by their values)")
    add("--categorical", **many, help="columns that are categories, whatever they look like (default: by their values)")
    add("--modality", **{**many, "metavar": "NAME=COL,COL"}, help="table modalities of their own (default: all columns are one, table)")
    add("--split-column", metavar="COL", help="column that says train, val or test (default: --split)")
    add("--split", default=None, metavar="TRAIN,VAL,TEST", help=f"shares of a stratified split (default: {','.join(map(str, FRACTIONS))})")
    add("--image-size", default="auto", metavar="N|HxW|auto", help="pixels; auto: the median size, longer side at most 64 (default: auto)")
    add("--fit", default="pad", choices=("pad", "crop", "stretch"), help="how an image of another shape is fitted (default: pad)")
    add(
        "--window",
        default="auto",
        metavar="LOW,HIGH|auto",
        help="16-bit grey values that become black and white; auto: 0.5 and 99.5 %% of them (default: auto)",
    )
    add("--max-pixels", type=int, default=64_000_000, metavar="N", help="larger images are refused (default: 64 million pixels)")
    add("--encoding", default="utf-8", help="text encoding of a CSV table (default: utf-8)")
    add(
        "--rows-per-file",
        type=int,
        default=0,
        metavar="N",
        help="rows of one part file (default: 0, by size: 32 MiB, more from 2,000 files on)",
    )
    add("--overwrite", action="store_true", help="replace a SHARDS folder at --out (default: refuse)")
    add("--seed", type=int, default=0, help="of the split and of the order of the rows (default: 0)")
    add("--out", required=True, metavar="SHARDS", help="folder or URI to write")
    return found


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    fractions = check(options)
    from distributed import ingest_plan, ingest_table
    from distributed.ingest_write import Target

    target = Target(options.out, options.overwrite)
    table = ingest_table.open_table(options.table, options.encoding)
    roles = ingest_plan.roles(options, table)
    looks = [ingest_plan.look_at_images(options, table, column, folder) for column, folder in roles.images.items()]
    cli.start_ray()
    signal.signal(signal.SIGTERM, cli.interrupt)
    with target.writing() as folder:
        manifest, report = ingest(table, roles, looks, options, fractions, folder, target.clear)
        target.commit(manifest)
    report.show(manifest, options.out)
    return 0


def check(options: argparse.Namespace) -> tuple[float, float, float]:
    """The shares of the splits; errors of the command line that need no look at the data."""
    if options.split and options.split_column:
        raise ValueError("--split and --split-column exclude each other: give one")
    for name, low in (("max_pixels", 1), ("rows_per_file", 0), ("seed", 0)):
        if getattr(options, name) < low:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {low}; got {getattr(options, name)}")
    if not options.split:
        return FRACTIONS
    try:
        train, val, test = (float(w) for w in options.split.split(","))
    except ValueError:
        train = val = test = -1.0
    if not (train > 0 and val > 0 and test >= 0 and abs(train + val + test - 1) < 1e-6):
        raise ValueError(f"--split must be three shares TRAIN,VAL,TEST that sum to 1, the first two above 0; got {options.split!r}")
    return train, val, test


def ingest(
    table: ingest_table.RawTable,
    roles: ingest_plan.Roles,
    looks: list[tuple[images.ImageSpec, float]],
    options: argparse.Namespace,
    fractions: tuple[float, float, float],
    folder: str,
    clear: Callable[[], None],
) -> tuple[Any, ingest_report.Report]:
    """Writes the parts into `folder` and returns the manifest, which the caller commits, and what there is to tell.

    looks: from ingest_plan.look_at_images. clear: empties the folder, once all that can be wrong with the table is known.
    """
    import ray

    from distributed import ingest_assign, ingest_passes, ingest_plan, ingest_write
    from distributed.shards import REJECTED, SPLITS, Manifest, join

    cpus = int(ray.cluster_resources().get("CPU", 1))
    specs = [spec for spec, _ in looks]
    try:
        with cli.progress("preparing rows", table.rows) as advance:
            plan, names = ingest_plan.plan(roles, specs), ingest_plan.source_columns(roles)
            blocks = ingest_passes.prepare_all(table, plan, names, [pixels for _, pixels in looks], cpus, advance)
    except Exception as error:
        raise reading_error(table, error) from error
    if not len(blocks):
        raise ValueError(f"--table must hold rows; {table.uri!r} has none")
    known = ingest_passes.identities(blocks, cpus)
    assigned, schema, report = settle(blocks, known, roles, specs, options.seed, fractions, cpus)
    rows = assigned.rows
    parts = part_files(rows.split, known, schema, options.rows_per_file)
    clear()
    with cli.progress("writing files", sum(parts.files)) as advance:
        written = ingest_passes.write_all(blocks, rows, parts, schema, report.readings(), folder, cpus, advance)
    refused = [ingest_write.write_table(join(folder, REJECTED), assigned.rejected)] if assigned.rejected.num_rows else []
    ingest_write.verify([*written, *refused])
    kept = {image.name for image in schema.images}
    prepare = ingest_assign.prepare_record(roles, [s for s in specs if s.name in kept], schema, options.seed, fractions, report)
    content = ingest_write.content(written)
    return Manifest(schema=schema, rows=dict(zip(SPLITS, parts.rows)), prepare=prepare, content=content), report


def settle(
    blocks: ingest_passes.Blocks,
    known: pa.Table,
    roles: ingest_plan.Roles,
    specs: list[images.ImageSpec],
    seed: int,
    fractions: tuple[float, float, float],
    cpus: int,
) -> tuple[ingest_assign.Assigned, Schema, ingest_report.Report]:
    """The rows of every split and the columns to keep. Rows that have nothing but dropped columns are refused, and all is settled anew."""
    from distributed import ingest_assign, ingest_passes, ingest_report

    report = ingest_report.Report()
    while True:
        assigned = ingest_assign.assign(known, roles, fractions, seed, report)
        with cli.progress("counting rows", len(blocks)) as advance:
            counts, sums = ingest_passes.statistics(blocks, assigned.rows, SAMPLED, cpus, advance)
        schema = ingest_assign.schema(roles, specs, counts, sums, assigned, report)
        names = ingest_passes.prepared_columns(schema)
        left_out = len(names) < len(roles.features) + len(specs)
        if not left_out or not (blank := ingest_passes.blank_rows(blocks, assigned.rows, names, cpus)).any():
            break
        known, report = ingest_assign.refuse(known, blank), ingest_report.Report(stay_dropped=report.decisions)
    ingest_assign.check_leaks(known, counts, schema, assigned, roles, report)
    return assigned, schema, report


def reading_error(table: ingest_table.RawTable, error: Exception) -> Exception:
    """Errors of the table's text and files as one line; anything else as it is."""
    import pyarrow as pa

    from distributed import ingest_table

    cause = getattr(error, "cause", None) or error
    damage = isinstance(cause, OSError) and cause.errno is None and table.kind == "csv"  # of its compression
    if damage or isinstance(cause, (pa.ArrowInvalid, UnicodeError)) or "Failed to read CSV" in str(error):
        return ingest_table.explain(table, cause)
    return error


def part_files(split: np.ndarray, known: pa.Table, schema: Any, rows_per_file: int) -> ingest_passes.Parts:
    """Files of about 32 MiB, but not too many, and at least eight where the training rows suffice: workers share and shuffle them."""
    import numpy as np

    from distributed.ingest_passes import LENGTH, MOST_BYTES, Parts

    per_row = 32.0 + 4 * sum(len(t.numeric) + len(t.categorical) for t in schema.tables)
    for name in known.column_names:
        if name.startswith(LENGTH):
            per_row += float(known[name].to_numpy().sum()) / max(1, len(split))
    counts = [int(np.sum(split == s)) for s in range(3)]
    small = min(int(PART_BYTES / per_row), max(1024, -(-counts[0] // 8)))
    size = rows_per_file or max(1, small, min(int(MOST_BYTES / per_row), -(-sum(counts) // MOST_FILES)))
    return Parts(rows=tuple(counts), files=tuple(max(1, -(-n // size)) for n in counts))


if __name__ == "__main__":
    cli.run(main)
