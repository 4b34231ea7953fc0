"""Predicts new rows, of shards or straight from a table and its images, through a pool of model actors."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.config import AGGREGATIONS
from distributed.runtime import command as cli
from distributed.runtime import errors, progress, ray_session, signals, storage
from distributed.runtime import options as options_
from distributed.runtime.storage import filesystem, is_uri, join
from distributed.shards.layout import REJECTED, SPLITS
from model.schema import join_names

if TYPE_CHECKING:
    from distributed.inference.inputs import InputRows
    from distributed.inference.predictor import PredictionTotals
    from distributed.inference.weighing import FixedAggregation
    from distributed.training.checkpoint import Checkpoint

SMALL_ROWS = 20_000  # up to here starting Ray would take longer than predicting
SUMMARY = "summary.json"
MOST_REASONS = 10  # kinds of refusals that are told
MANY_UNSEEN = 0.1  # share of a column's cells: some new categories are normal
PARTS = "predictions"
COLUMNS = """columns of the predictions, a row each record: id; split (of shards); label, where one is given; predictor, empty where
abstained; probability, of the best class; abstained; entropy (nats); p/CLASS; weight/MODALITY, 0 to 1, in the fusion; unfamiliar/MODALITY,
whether it is unlike anything in training; expert_weight/N"""


def parser() -> argparse.ArgumentParser:
    made = options_.Parser(
        prog="predict.py", description=__doc__, epilog=COLUMNS, allow_abbrev=False
    )
    add = made.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="C",
        help="a run, or its checkpoint folder; a path or a URI",
    )
    add(
        "--data",
        required=True,
        metavar="SHARDS|T",
        help="shards, or a CSV or Parquet table (or a folder of them); a path or a URI",
    )
    add(
        "--image",
        nargs="+",
        action="extend",
        default=[],
        metavar="COL[=DIR]",
        help="folder of the paths in an image column of a table (default: the table's folder)",
    )
    add(
        "--out",
        required=True,
        metavar="DIR",
        help="new folder or URI: predictions/*.parquet, summary.json, rejected.parquet",
    )
    add(
        "--concurrency",
        type=int,
        metavar="N",
        help=f"model actors (default: none up to {SMALL_ROWS:,} rows, else one a CPU or GPU share)",
    )
    add(
        "--gpus-per-actor",
        type=float,
        default=0.0,
        metavar="G",
        help="GPUs a model actor, fractions allowed (default: 0)",
    )
    add("--aggregation", choices=AGGREGATIONS, help="how experts are weighed; estimates come first, from a sample of the rows "
        "(default: the run's inference.aggregation)")  # fmt: skip
    add(
        "--prior",
        default="",
        metavar="F.json",
        help="known class prior of the rows, {class: weight}, 0 for classes left out (default: none)",
    )
    add(
        "--abstain",
        type=float,
        default=0.0,
        metavar="P",
        help="no class for rows whose best probability is below P (default: 0, never)",
    )
    add(
        "--trust-unfamiliar",
        action="store_true",
        help="go by modalities unlike anything in training, too (default: they count as absent)",
    )
    add("--split", default="all", choices=("all", *SPLITS), help="of shards (default: all)")
    add(
        "--batch-size",
        type=int,
        default=0,
        metavar="N",
        help="rows of a batch (default: the run's inference.batch_size)",
    )
    add("--encoding", default="utf-8", help="text encoding of a CSV table (default: utf-8)")
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    check(options)
    out = options.out.rstrip("/") if is_uri(options.out) else str(Path(options.out).resolve())
    with storage.as_option_error(out):
        free(out)
    from distributed.inference import inputs, predictor, weighing
    from distributed.training.checkpoint import find_checkpoint, parse_checkpoint

    content = find_checkpoint(options.checkpoint)
    checkpoint = parse_checkpoint(content, options.checkpoint)
    if options.trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    batch_size = options.batch_size or checkpoint.config.inference.batch_size
    rows, notes = inputs.open_input(
        checkpoint,
        options.data,
        images=folders(options.image),
        split=options.split,
        batch_size=batch_size,
        encoding=options.encoding,
    )
    method = weighing.aggregation_method(
        options.aggregation or "", options.prior, checkpoint.config.inference.aggregation
    )
    prior = (
        tuple(weighing.read_prior(options.prior, checkpoint.network.schema.classes).tolist())
        if method == "given"
        else ()
    )
    with storage.as_option_error(out):
        system, path = filesystem(join(out, PARTS))
        system.create_dir(path, recursive=True)
    started = time.perf_counter()
    weighing, facts = decide(checkpoint, rows, method, prior, options, batch_size)
    storage.remove_folder(join(out, PARTS))
    recipe = predictor.PredictionSettings(
        rows=rows,
        weighing=weighing,
        out=out,
        abstain=options.abstain,
        gpus=options.gpus_per_actor,
        trust=options.trust_unfamiliar,
    )
    waves, total = inputs.CountedWaves(rows), predictor.PredictionTotals()
    if pooled(rows, options):
        actors = pool_size(options)
        with signals.stop_requests():
            gather(
                predictor.predict_in_pool(content, recipe, waves.of(actors), actors), total, waves
            )
    else:
        gather(predictor.predict_in_process(checkpoint, recipe, waves.of(1)), total, waves)
    seconds = time.perf_counter() - started
    if total.rows != waves.rows or total.rows != total.predicted + len(total.refused):
        raise errors.Failure(
            f"{waves.rows} rows were read, {total.predicted} predicted and {len(total.refused)} refused: some are lost in {out}"
        )
    told = summary(checkpoint, total, notes, prior, seconds, options) | facts
    write(out, told, total)
    if total.refused and not total.predicted:
        raise ValueError(
            f"--data must have rows that can be predicted; all {total.rows:,} were refused: {'; '.join(reasons(told))}"
        )
    print(describe(told, out))
    return 0


def reasons(told: dict[str, Any]) -> list[str]:
    """Why rows were refused, the most frequent reason first."""
    return [
        f"{n:,} x {name.removeprefix('refused/')}"
        for name, n in told.items()
        if name.startswith("refused/")
    ]


def check(options: argparse.Namespace) -> None:
    """Errors of the command line that need no look at the data."""
    if not 0 <= options.abstain <= 1:
        raise ValueError(f"--abstain must be a probability from 0 to 1; got {options.abstain:g}")
    if options.concurrency is not None and options.concurrency < 1:
        raise ValueError(f"--concurrency must be at least 1; got {options.concurrency}")
    for name in ("batch_size", "gpus_per_actor"):
        if getattr(options, name) < 0:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at least 0; got {getattr(options, name)}"
            )


def folders(words: list[str]) -> dict[str, str]:
    """The image folder of every column that was given one."""
    named = [word.partition("=")[::2] for word in words]
    for name, _ in named:
        if sum(name == other for other, _ in named) > 1:
            raise ValueError(f"--image must name a column once; got {name!r} again")
    return dict(named)


def free(out: str) -> None:
    """Refuses a folder that holds anything but the parts that a broken run left."""
    from pyarrow.fs import FileSelector

    system, path = filesystem(out)
    for place, own in ((path, PARTS), (join(path, PARTS), r"part-\d+\.parquet.*")):
        for found in system.get_file_info(FileSelector(place, allow_not_found=True)):
            if not re.fullmatch(own, found.base_name):
                raise ValueError(
                    f"--out must be a new or empty folder; {out} holds {found.path.removeprefix(path).lstrip('/')}"
                )


def decide(
    checkpoint: Checkpoint,
    rows: InputRows,
    method: str,
    prior: tuple[float, ...],
    options: argparse.Namespace,
    batch_size: int,
) -> tuple[FixedAggregation, dict[str, Any]]:
    """How the experts are weighed, the same for every row; estimated on a sample of them where the method says so."""
    from distributed.inference import predictor, weighing
    from distributed.inference.weighing import FixedAggregation

    classes, experts = checkpoint.network.schema.classes, weighing.expert_count(checkpoint)
    if method in ("uniform", "given"):
        return FixedAggregation((1 / experts,) * experts, prior), {"aggregation": method}
    device = weighing.pick_device(options.gpus_per_actor)
    source = predictor.sample_rows(checkpoint, rows, batch_size)
    if not len(source.arrays["labels"]):
        return FixedAggregation((1 / experts,) * experts, prior), {
            "aggregation": "uniform",
            "aggregation/reason": "no row to estimate from",
        }
    logits_NEC = weighing.score_rows(checkpoint, source, device).logits_NEC
    found = weighing.aggregate_experts(checkpoint, method, logits_NEC, source, device)
    facts = weighing.aggregation_facts(found, method) | {"aggregation/rows": float(len(logits_NEC))}
    if found.prior_C is not None:
        facts |= {f"prior/{name}": float(p) for name, p in zip(classes, found.prior_C, strict=True)}
    return FixedAggregation.of(found), facts


def pooled(rows: InputRows, options: argparse.Namespace) -> bool:
    """Whether the rows are worth a pool of actors."""
    if options.concurrency is not None and options.concurrency > 1:
        return True
    waves = rows.waves(1)
    large = next(waves).rows > SMALL_ROWS or next(waves, None) is not None
    return large and (options.concurrency is None or ray_session.in_cluster())


def pool_size(options: argparse.Namespace) -> int:
    """Actors of the pool: as asked, else what the cluster has room for."""
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # else Ray tells users of an issue with its own actor pools at every start
    ray_session.start_ray()
    import ray

    there = ray.cluster_resources()
    share = options.gpus_per_actor
    if share and there.get("GPU", 0) < share:
        raise ValueError(
            f"--gpus-per-actor must be at most what a machine of the cluster has ({there.get('GPU', 0):g}); got {share:g}"
        )
    room = there["GPU"] / share if share else there.get("CPU", 1)
    return int(options.concurrency or max(1, room))


def gather(outcomes: Iterable[PredictionTotals], total: PredictionTotals, waves: Any) -> None:
    with progress.show_progress("predicting", waves.expected) as advance:
        for outcome in outcomes:
            total.add(outcome)
            advance(outcome.rows)


def summary(
    checkpoint: Checkpoint,
    total: PredictionTotals,
    notes: list[str],
    prior: tuple[float, ...],
    seconds: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One flat object, like that of evaluate.py --json."""
    from distributed.inference.notes import cross_modal_notes, prior_notes, unfamiliar_notes
    from distributed.ingestion.summary import count_reasons
    from distributed.raw.rows import EMPTY_CELLS

    schema = checkpoint.network.schema
    found: dict[str, Any] = {
        name: getattr(options, name) for name in ("checkpoint", "data", "abstain")
    }
    found |= {
        "rows": total.rows,
        "predicted": total.predicted,
        "rejected": len(total.refused),
        "abstained": total.abstained,
    }
    found |= {"seconds": seconds, "rows_per_second": total.rows / max(seconds, 1e-9)}
    found |= {f"rows/{name}": count for name, count in zip(schema.classes, total.classes)}
    found |= {
        f"weight/{name}": value / max(1, total.predicted)
        for name, value in zip(schema.modalities, total.weights)
    }
    found |= {f"rows_unfamiliar/{name}": n for name, n in zip(schema.modalities, total.unlike) if n}
    found |= {
        f"unread/{name}": n
        for name, n in sorted(total.unread.items())
        if n and not name.startswith(EMPTY_CELLS)
    }
    found |= {
        f"refused/{reason}": n
        for reason, n in count_reasons(reason for _, reason in total.refused).most_common(
            MOST_REASONS
        )
    }
    notes = [
        *notes,
        *unfamiliar_notes(schema.modalities, total.unlike, total.nowhere, total.predicted),
    ]
    notes += cross_modal_notes(schema.modalities, total.agreement, checkpoint.cross_modal)
    notes += unread_notes(checkpoint, total)
    notes += prior_notes(schema.classes, prior)
    return found | {"notes": notes}


def unread_notes(checkpoint: Checkpoint, total: PredictionTotals) -> list[str]:
    """Cells of the table that hold something and tell nothing: another date format, another spelling of the categories."""
    from distributed.raw.columns import READING_NOTES
    from distributed.raw.rows import EMPTY_CELLS, NO_CLASS

    schema, readings = checkpoint.network.schema, checkpoint.manifest.prepare.get("readings", {})
    found = []
    for table in schema.tables:
        for column in (*table.numeric, *table.categorical):
            if (
                column.missing < 0.5
                and total.predicted
                and total.unread.get(EMPTY_CELLS + column.name, 0) >= total.rows
            ):
                found.append(
                    f"{column.name}: empty in every row; in training {column.missing:.1%} of the cells were"
                )
        for number in table.numeric:
            if count := total.unread.get(number.name):
                wanted = READING_NOTES.get(readings.get(number.name, ""), "numbers").partition(":")[
                    0
                ]
                found.append(
                    f"{number.name}: {count:,} of {total.rows:,} cells are no {wanted} as in training: missing"
                )
        for category in table.categorical:
            count = total.unread.get(category.name, 0)
            if count and count >= MANY_UNSEEN * total.rows:
                known = join_names(category.vocabulary)
                found.append(
                    f"{category.name}: {count:,} of {total.rows:,} cells are none of the categories of training ({known})"
                )
    if count := total.unread.get(NO_CLASS):
        label = checkpoint.manifest.prepare.get("label")
        found.append(
            f"{label}: {count:,} of {total.rows:,} labels are none of the classes ({join_names(schema.classes)}): no label there"
        )
    if total.blank:
        found.append(
            f"{total.blank:,} of {total.predicted:,} rows have no modality at all: they get what the network gives for nothing"
        )
    return found


def write(out: str, told: dict[str, Any], total: PredictionTotals) -> None:
    """The refused rows, and the summary last: it says that the folder is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from distributed.runtime.storage import write_file

    if total.refused:
        system, path = filesystem(join(out, REJECTED))
        columns = zip(*total.refused, strict=True)
        pq.write_table(
            pa.table(dict(zip(("id", "reason"), map(list, columns)))), path, filesystem=system
        )
    write_file(join(out, SUMMARY), json.dumps(told, indent=1, allow_nan=False).encode())


def describe(told: dict[str, Any], out: str) -> str:
    """What a person reads at the end."""
    from distributed.reporting.tables import ReportTable, to_text

    rate = f"{told['rows_per_second']:,.0f} rows/s"
    lines = [
        f"predicted   {told['predicted']:,} of {told['rows']:,} rows in {told['seconds']:.1f} s ({rate})"
    ]
    if told["rejected"]:
        lines.append(f"rejected    {told['rejected']:,}: {join(out, REJECTED)}")
        lines += [f"  {line}" for line in reasons(told)]
    if told["abstain"]:
        lines.append(
            f"abstained   {told['abstained']:,}: best probability below {told['abstain']:g}"
        )
    method = told["aggregation"]
    refused = (
        f"; {told['aggregation/asked']} was refused ({told['aggregation/reason']})"
        if told.get("aggregation/fell_back")
        else ""
    )
    lines.append(
        f"experts     {'known prior' if method == 'given' else method + ' weights'}{refused}"
    )
    counts = {name[5:]: n for name, n in told.items() if name.startswith("rows/")}
    share = max(1, sum(counts.values()))
    table = ReportTable(
        columns=("class", "rows", "%"),
        rows=[(name, f"{n:,}", f"{100 * n / share:.1f}") for name, n in counts.items()],
    )
    weights = [
        f"fusion weight {name[7:]}: {value:.2f}"
        for name, value in told.items()
        if name.startswith("weight/")
    ]
    notes = [f"note: {text}" for text in told["notes"]]
    return "\n".join(
        [
            *lines,
            "",
            to_text(table),
            "",
            *weights,
            *notes,
            "",
            f"written     {join(out, 'predictions')}/*.parquet",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
