"""The options of `evaluate` and `predict`, for commands, Python and the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from distributed.config import AGGREGATIONS
from distributed.shards.layout import SPLITS
from model.declarations import Declared, option, required
from model.limits import MAX_SEED

MAX_ROWS_IN_PROCESS = 20_000  # up to here starting Ray would take longer than predicting
CHECKPOINT_HELP = "a run, or its checkpoint folder; a path or a URI"
FORMATS = ("parquet", "csv")


def prior_option() -> Declared:
    """Returns the option of the class shares, for evaluate, predict, serve and export."""
    return option(
        "",
        "class shares of the rows, to which the probabilities are moved: training: as among the "
        "training rows, for most rows right; uniform: all classes alike; or a file {class: "
        "weight}, 0 for classes left out",
        metavar="training|uniform|F.json",
        shown="the prior of the training loss, uniform with the default settings",
    )


def cost_option() -> Declared:
    """Returns the option of the costs of decisions, for evaluate, predict and serve."""
    return option(
        "",
        "costs of decisions, a row for each true class and a column for each decided one; the "
        "class of the lowest expected cost is decided, at the prior `training` unless another is "
        "given",
        metavar="F.csv",
        shown="the most probable class",
    )


def coverage_option(more: str = "") -> Declared:
    """Returns the option of prediction sets, for evaluate, predict and serve.

    more: what a command does with the sets besides, at the end of the help.
    """
    return option(
        None,
        "prediction sets that hold the true class of this share of the rows of every class, by the "
        f"checkpoint's validation rows{more}",
        low=0.5,
        high=0.999,
        metavar="P",
        shown="no sets",
    )


def abstain_option(rows: str) -> Declared:
    """Returns the option of rows without a class, for predict and serve.

    rows: what a command calls them.
    """
    return option(
        0.0,
        f"no class for {rows} whose best probability is below P",
        low=0,
        high=1,
        metavar="P",
        shown="0, never",
    )


def trust_option() -> Declared:
    """Returns the option to use unfamiliar modalities, for evaluate, predict, serve and export."""
    return option(
        False, "go by modalities unlike anything in training, too", shown="they count as absent"
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What `evaluate` scores: a checkpoint, labelled rows, and the conditions of the test."""

    checkpoint: str = option("", CHECKPOINT_HELP, metavar="C", shown="or --compare")
    compare: tuple[str, ...] = option(
        (),
        "several runs or checkpoints, to compare on the same rows in place of one checkpoint; what "
        "holds none is passed over",
        metavar="RUN",
        shown="none",
    )
    data: str = required(
        "folder or URI made by ingest.py; classes and categories are matched by name", "SHARDS"
    )
    metric: str = option("balanced_accuracy", "by which runs are compared", metavar="M")
    split: str = option("test", "rows to evaluate", choices=SPLITS)
    aggregation: str | None = option(
        None,
        "how experts are weighted",
        choices=AGGREGATIONS,
        shown="the run's inference.aggregation",
    )
    prior: str = prior_option()
    cost: str = cost_option()
    coverage: float | None = coverage_option("; shows how often they do in these rows")
    by: tuple[str, ...] = option(
        (),
        "columns of the shards, such as sex or site: every metric by their groups, and which gaps "
        "between them are more than noise",
        metavar="COL",
        shown="none",
    )
    shift: str = option(
        "",
        "cut the rows to uniform, forward-K or backward-K, such as forward-10",
        metavar="KIND",
        shown="no cut",
    )
    modalities: str = option(
        "",
        "the modalities to leave in place, the others are taken away",
        metavar="A,B",
        shown="all",
    )
    corrupt: str = option(
        "", "MODALITY=noise|shuffle|missing[:FRACTION], comma-separated", metavar="SPEC"
    )
    trust_unfamiliar: bool = trust_option()
    seed: int = option(0, "of the cut, the perturbed views and the bootstrap", low=0, high=MAX_SEED)
    replicates: int = option(
        200, "bootstrap replicates behind the 95 % intervals; 0: none", low=0, metavar="N"
    )
    gpus: float = option(0.0, "1 to use this machine's GPU", low=0, high=1, metavar="G")
    json: str = option("", "write everything as one flat object", metavar="F", shown="print only")
    report: str = option(
        "",
        "write a page: classes, confusion, calibration, what the model goes by, and the worst "
        "mistakes of these rows",
        metavar="F.html",
        shown="none",
    )
    audit: str = option(
        "",
        "list training rows of --data whose label may be wrong: a folder or URI that gets "
        "suspects.csv and audit.html",
        metavar="DIR",
        shown="none",
    )


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What `predict` reads and writes: a checkpoint, new rows, the folder of the predictions."""

    checkpoint: str = required(CHECKPOINT_HELP, "C")
    data: str = required(
        "shards, or a CSV or Parquet table (or a folder of them); a path or a URI", "SHARDS|T"
    )
    image: tuple[str, ...] = option(
        (),
        "folder of the paths in an image column of a table",
        metavar="COL[=DIR]",
        shown="the table's folder",
    )
    id: str = option(
        "",
        "column of a table with the rows' ids",
        metavar="COL",
        shown="the id column of the training rows, else the rows' numbers from 0",
    )
    keep: tuple[str, ...] = option(
        (), "columns of a table that the predictions keep", metavar="COL", shown="none"
    )
    format: str = option(
        "parquet",
        "parquet: predictions/*.parquet, or csv: predictions.csv",
        choices=FORMATS,
    )
    out: str = required(
        "new folder or URI: the predictions, a row for every row of the data in its order, and "
        "summary.json",
        "DIR",
    )
    concurrency: int | None = option(
        None,
        "model actors",
        low=1,
        metavar="N",
        shown=f"none up to {MAX_ROWS_IN_PROCESS:,} rows, else one per CPU or GPU share",
    )
    gpus_per_actor: float = option(
        0.0, "GPUs per model actor, fractions allowed", low=0, metavar="G"
    )
    aggregation: str | None = option(
        None,
        "how experts are weighted; estimates come first, from a sample of the rows",
        choices=AGGREGATIONS,
        shown="the run's inference.aggregation",
    )
    prior: str = prior_option()
    cost: str = cost_option()
    coverage: float | None = coverage_option()
    abstain: float = abstain_option("rows")
    explain: bool = option(
        False,
        "say what each modality, cell and image patch contributes to the probability of the class; "
        "some 50 times the time",
    )
    trust_unfamiliar: bool = trust_option()
    split: str = option("all", "of shards", choices=("all", *SPLITS))
    batch_size: int = option(
        0, "rows of a batch", low=0, metavar="N", shown="the run's inference.batch_size"
    )
    encoding: str = option("utf-8", "text encoding of a CSV table", metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What `export` writes: a checkpoint as one file for other programs."""

    checkpoint: str = required(CHECKPOINT_HELP, "C")
    out: str = required(
        "file or URI: FILE.pt2 for torch, FILE.onnx for onnx; FILE.json beside it says what the "
        "inputs are",
        "FILE",
    )
    format: str = option(
        "torch",
        "torch: torch.export, which torch.export.load reads; onnx (extra `onnx`)",
        choices=("torch", "onnx"),
    )
    prior: str = prior_option()
    trust_unfamiliar: bool = trust_option()
