"""Scores a checkpoint on a labelled split of its own or other shards, under test conditions: metrics with intervals, and their reasons."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.config import AGGREGATIONS, split_list
from distributed.runtime import command as cli
from distributed.runtime import options as options_
from distributed.runtime.storage import filesystem
from distributed.shards.layout import SPLITS
from model.schema import join_names

if TYPE_CHECKING:
    from distributed.inference.evaluation import EvaluationResult

MAIN = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "g_mean": "G-mean",
    "mcc": "Matthews correlation",
    "macro_auroc": "macro AUROC",
    "macro_auprc": "macro AUPRC",
    "many_shot_accuracy": "many-shot accuracy",
    "medium_shot_accuracy": "medium-shot accuracy",
    "few_shot_accuracy": "few-shot accuracy",
    "worst_recall": "worst class recall",
    "ece": "calibration error (ECE)",
    "classwise_ece": "class-wise ECE",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
}
PLAIN = ("nll", "brier")  # not in per cent
ASKED = (
    "checkpoint",
    "data",
    "split",
    "prior",
    "shift",
    "modalities",
    "corrupt",
    "trust_unfamiliar",
    "seed",
    "replicates",
)


def parser() -> argparse.ArgumentParser:
    made = options_.Parser(prog="evaluate.py", description=__doc__, allow_abbrev=False)
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
        metavar="SHARDS",
        help="folder or URI made by ingest.py; classes and categories are matched by name",
    )
    add("--split", default="test", choices=SPLITS, help="rows to evaluate (default: test)")
    add(
        "--aggregation",
        choices=AGGREGATIONS,
        help="how experts are weighed (default: the run's inference.aggregation)",
    )
    add(
        "--prior",
        default="",
        metavar="F.json",
        help="known class prior of the rows, {class: weight}, 0 for classes left out; moves the probabilities (default: none)",
    )
    add(
        "--shift",
        default="",
        metavar="KIND",
        help="cut the rows to uniform, forward-K or backward-K, such as forward-10 (default: no cut)",
    )
    add(
        "--modalities",
        default="",
        metavar="A,B",
        help="the modalities to leave in place, the others are taken away (default: all)",
    )
    add(
        "--corrupt",
        default="",
        metavar="SPEC",
        help="MODALITY=noise|shuffle|missing[:FRACTION], comma-separated (default: none)",
    )
    add(
        "--trust-unfamiliar",
        action="store_true",
        help="go by modalities unlike anything in training, too (default: they count as absent)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        help="of the cut, the perturbed views and the bootstrap (default: 0)",
    )
    add(
        "--replicates",
        type=int,
        default=200,
        metavar="N",
        help="bootstrap replicates behind the 95 %% intervals; 0: none (default: 200)",
    )
    add(
        "--gpus",
        type=float,
        default=0.0,
        metavar="G",
        help="1 to use this machine's GPU (default: 0)",
    )
    add(
        "--json",
        default="",
        metavar="F",
        help="write everything as one flat object (default: print only)",
    )
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    for name in ("seed", "replicates"):
        if getattr(options, name) < 0:
            raise ValueError(f"--{name} must be at least 0; got {getattr(options, name)}")
    if options.json:
        check_place(options.json)
    import torch

    from distributed.inference import evaluation, weighing
    from distributed.runtime import storage
    from distributed.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(options.checkpoint)
    if checkpoint.config.scaling.threads:
        torch.set_num_threads(checkpoint.config.scaling.threads)
    if options.trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    classes = checkpoint.network.schema.classes
    condition = evaluation.EvaluationConditions(
        split=options.split,
        aggregation=weighing.aggregation_method(
            options.aggregation, options.prior, checkpoint.config.inference.aggregation
        ),
        prior_C=weighing.read_prior(options.prior, classes) if options.prior else None,
        shift=options.shift,
        modalities=split_list(options.modalities),
        corrupt=options.corrupt,
        seed=options.seed,
        replicates=options.replicates,
    )
    found = evaluation.score_checkpoint(
        checkpoint, options.data, condition, weighing.pick_device(options.gpus)
    )
    print(describe(found, options))
    if options.json:
        asked = {name: getattr(options, name) for name in ASKED}
        storage.write_file(
            options.json, json.dumps({**found.flat(), **asked}, indent=1, allow_nan=False).encode()
        )
        print(f"\nwritten     {options.json}")
    return 0


def check_place(place: str) -> None:
    """Refuses a file that cannot be written before there is anything to write."""
    from distributed.runtime import storage

    files, path = filesystem(place)
    with storage.as_option_error(place, "json", "must name a file that can be written"):
        if files.get_file_info(path).type.name == "Directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        name = f".try-{uuid.uuid4().hex}"
        storage.write_file(f"{place}{name}", b"")
        files.delete_file(f"{path}{name}")


def describe(found: EvaluationResult, options: argparse.Namespace) -> str:
    """What a person reads: conditions, metrics with intervals, recalls, confidences, and every remark."""
    from distributed.reporting.tables import to_text

    cut = (
        f", cut from {found.available:,} by {options.shift} ({ratio(found)})"
        if options.shift
        else ""
    )
    head = [
        f"checkpoint  {options.checkpoint}",
        f"data        {options.data} {options.split}: {found.rows:,} rows{cut}",
    ]
    head += [f"conditions  {what}" for what in conditions(options)]
    head.append(f"experts     {experts(found)}")
    parts = [
        "\n".join(head),
        to_text(metric_table(found)),
        to_text(class_table(found)),
        to_text(confidence_table(found)),
    ]
    remarks = [
        *found.remarks,
        *(f"{name.replace('_', ' ')}: {text}" for name, text in grouped(found.notes).items()),
    ]
    return "\n\n".join(
        [*parts, *(["\n".join(f"note: {text}" for text in remarks)] if remarks else [])]
    )


def ratio(found: EvaluationResult) -> str:
    """What a cut came to: every class that has rows keeps at least one, so that few rows fall short of a steep shape."""
    sizes = [count for count in found.class_rows.values() if count]
    return f"the largest class has {max(sizes) / min(sizes):.3g} times the rows of the smallest"


def conditions(options: argparse.Namespace) -> list[str]:
    given = {"only": options.modalities, "corrupt": options.corrupt, "known prior": options.prior}
    return [f"{name} {value}" for name, value in given.items() if value] + [
        "trusts what is unlike training"
    ] * options.trust_unfamiliar


def experts(found: EvaluationResult) -> str:
    """How the experts were weighed and what the guard said."""
    weights = " ".join(f"{w:.2f}" for w in found.aggregation.weights_E.tolist())
    told = (
        f"{found.aggregation.method} weights {weights}"
        if found.aggregation.method != "given"
        else f"known prior, weights {weights}"
    )
    return (
        f"{told}; {found.asked} was refused ({found.aggregation.reason})"
        if found.aggregation.fell_back
        else told
    )


def metric_table(found: EvaluationResult) -> Any:
    from distributed.reporting.tables import ReportTable

    def shown(name: str, value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}" if name in PLAIN else f"{100 * value:.1f}"

    rows = []
    for name, title in MAIN.items():
        low, high = found.intervals.get(name, (None, None))
        unit = "" if name in PLAIN else " %"
        rows.append(
            (
                title + unit,
                shown(name, found.metrics.get(name)),
                shown(name, low),
                shown(name, high),
            )
        )
    return ReportTable(columns=("metric", "value", "95 % from", "to"), rows=rows)


def class_table(found: EvaluationResult) -> Any:
    from distributed.reporting.tables import ReportTable

    def per_cent(name: str) -> str:
        return f"{100 * found.metrics[name]:.1f}" if name in found.metrics else "-"

    rows = [
        (name, f"{count:,}", per_cent(f"recall/{name}"), per_cent(f"precision/{name}"))
        for name, count in found.class_rows.items()
    ]
    return ReportTable(columns=("class", "rows", "recall %", "precision %"), rows=rows)


def confidence_table(found: EvaluationResult) -> Any:
    """Predicted against true probability of the true class, for each modality and shot group."""
    from distributed.reporting.tables import ReportTable

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = []
    for row in found.confidence:
        values = [number(row[name]) for name in ("predicted", "true", "rank_correlation", "weight")]
        group = "all classes alike" if row["group"] == "all" else row["group"]
        rows.append((f"{row['modality']}, {group}", f"{row['rows']:,}", *values))
    return ReportTable(
        columns=("confidence", "rows", "predicted", "true", "rank corr.", "weight"), rows=rows
    )


def grouped(notes: dict[str, str]) -> dict[str, str]:
    """Notes with the same text on one line."""
    names: dict[str, list[str]] = {}
    for name, text in notes.items():
        names.setdefault(text, []).append(name)
    return {join_names(same): text for text, same in names.items()}


if __name__ == "__main__":
    cli.run(main)
