"""Wrong labels: how well the audit ranks them, and what loss.trust_labels regains.

Part of the labels of training and validation rows become those of other classes, at random. AUROC
says how well the doubt of a training row's label tells the wrong labels from the right ones, over
all rows and over those labelled as few-shot classes. Balanced accuracy and macro-F1 are on test
rows, which keep their labels, of runs on clean and on wrong labels, without and with
loss.trust_labels. With --where they are also of runs of which only the training or only the
validation labels are wrong, and of runs without the training rows whose labels are wrong, which is
the most that an audit can regain. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.config import parse_assignments
from distributed.shards import batches
from distributed.shards.batches import in_storage_order
from distributed.shards.decode import Arrays
from distributed.shards.manifest import Manifest, read_manifest
from distributed.shards.memory import load_arrays
from distributed.training.exchange import Exchange
from distributed.training.results import RunResult
from distributed.training.run import open_split, run_training
from distributed.training.scoring import Evaluator
from distributed.training.spec import RunSpec
from distributed.wafers.default import resolve_shards
from model.decisions.label_noise import held_out_log_posterior, label_doubts
from model.metrics.scoring import shot_groups

FEW = 2  # the group of few-shot classes
METRICS = ("balanced_accuracy", "macro_f1")
TRUST = {"loss.trust_labels": 1.0}


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--data", default="", metavar="SHARDS", help="empty: the built-in wafers")
    parser.add_argument("--share", type=float, default=0.08, help="of the labels that are wrong")
    parser.add_argument(
        "--kind",
        choices=("uniform", "prior"),
        default="uniform",
        help="the wrong class: any other alike, or by its share of the rows",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--where", action="store_true", help="also measure which wrong labels cost what"
    )
    parser.add_argument("--audit-only", action="store_true", help="only the runs for the AUROC")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the runs"
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    shards, settings = resolve_shards(args.data), parse_assignments(args.set)
    manifest = read_manifest(shards)
    clean = {split: load_arrays(shards, split, manifest.schema) for split in manifest.rows}
    aurocs: list[tuple[float, float | None]] = []
    of_runs: dict[str, dict[str, list[float]]] = {metric: {} for metric in METRICS}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        rng = np.random.default_rng(seed)
        noisy = dict(clean)
        for split in ("train", "val"):
            noisy[split] = with_wrong_labels(clean[split], manifest, args.share, args.kind, rng)
        for name, (arrays, more) in runs_of(args, clean, noisy).items():
            changed = {**settings, **more, "optim.seed": seed}
            result = train(shards, manifest, arrays, changed)
            test = result.metrics.test
            assert test is not None
            for metric, of_metric in of_runs.items():
                of_metric.setdefault(name, []).append(round(100 * test[metric], 1))
            if name == "wrong labels":
                wrong_N = arrays["train"]["labels"] != clean["train"]["labels"]
                aurocs.append(auroc(shards, manifest, arrays, result, changed, wrong_N))
    of_few = [few for _, few in aurocs if few is not None]
    summary: dict[str, object] = {
        "benchmark": "label_noise",
        "data": args.data or "wafers",
        "kind": args.kind,
        "share": args.share,
        "seeds": args.seeds,
        "first seed": args.first_seed,
        "auroc": [round(every, 3) for every, _ in aurocs],
        "auroc of few-shot labels": [round(few, 3) for few in of_few],
    }
    for metric, of_metric in of_runs.items():
        means = {name: float(np.mean(values)) for name, values in of_metric.items()}
        summary[metric] = {
            **of_metric,
            "means": {name: round(mean, 1) for name, mean in means.items()},
        }
        if not args.audit_only:
            cost = means["clean"] - means["wrong labels"]
            regained = means["wrong labels, trust"] - means["wrong labels"]
            summary[f"{metric}: cost of wrong labels"] = round(cost, 2)
            summary[f"{metric}: regained"] = round(regained, 2)
            lost = means["clean"] - means["clean, trust"]
            summary[f"{metric}: cost on clean data"] = round(lost, 2)
    return summary


def runs_of(
    args: argparse.Namespace, clean: Mapping[str, Arrays], noisy: Mapping[str, Arrays]
) -> dict[str, tuple[dict[str, Arrays], dict[str, object]]]:
    """Returns the rows and the settings of the runs of a seed, by name."""
    runs: dict[str, tuple[dict[str, Arrays], dict[str, object]]] = {"wrong labels": ({**noisy}, {})}
    if not args.audit_only:
        runs["clean"] = ({**clean}, {})
        runs["wrong labels, trust"] = ({**noisy}, {**TRUST})
        runs["clean, trust"] = ({**clean}, {**TRUST})
    if args.where:
        right_N = noisy["train"]["labels"] == clean["train"]["labels"]
        runs["only training labels wrong"] = ({**clean, "train": noisy["train"]}, {})
        runs["only validation labels wrong"] = ({**clean, "val": noisy["val"]}, {})
        left_out = {name: values[right_N] for name, values in noisy["train"].items()}
        left_out["ranks"] = ranks_of(left_out["labels"], left_out["ranks"])
        runs["wrong training labels left out"] = ({**noisy, "train": left_out}, {})
    return runs


def ranks_of(labels_N: NDArray[Any], keys_N: NDArray[Any]) -> NDArray[Any]:
    """Returns the ranks of rows in their classes, in the order of the keys."""
    ranks_N = np.empty(len(labels_N), dtype=keys_N.dtype)
    for c in np.unique(labels_N):
        rows = np.flatnonzero(labels_N == c)
        ranks_N[rows[np.argsort(keys_N[rows], kind="stable")]] = np.arange(len(rows))
    return ranks_N


def with_wrong_labels(
    arrays: Arrays, manifest: Manifest, share: float, kind: str, rng: np.random.Generator
) -> Arrays:
    """Returns the rows with part of the labels wrong, and the ranks that belong to the labels."""
    classes = len(manifest.schema.classes)
    labels_N = arrays["labels"].copy()
    shares_C = np.ones(classes) if kind == "uniform" else np.asarray(manifest.schema.counts, float)
    for row in np.flatnonzero(rng.random(len(labels_N)) < share):
        others_C = shares_C.copy()
        others_C[labels_N[row]] = 0
        labels_N[row] = rng.choice(classes, p=others_C / others_C.sum())
    ranks_N = np.empty_like(arrays["ranks"])
    for c in range(classes):
        rows = np.flatnonzero(labels_N == c)
        ranks_N[rows] = rng.permutation(len(rows))
    return {**arrays, "labels": labels_N, "ranks": ranks_N}


def train(
    shards: str, manifest: Manifest, arrays: Mapping[str, Arrays], settings: Mapping[str, object]
) -> RunResult:
    """Trains on the arrays; the class counts of the manifest are those of their labels."""
    use_counts_of(manifest, arrays)
    return run_training(RunSpec(shards=shards, settings=settings), arrays=arrays)


def use_counts_of(manifest: Manifest, arrays: Mapping[str, Arrays]) -> None:
    """Has batches opened with the class counts of these training labels."""
    counts_C = np.bincount(arrays["train"]["labels"], minlength=len(manifest.schema.classes))
    schema = dataclasses.replace(manifest.schema, counts=tuple(counts_C.tolist()))
    changed = dataclasses.replace(manifest, schema=schema)
    # The benchmark's own variant of a name that the module imports.
    batches.read_manifest = lambda uri: changed  # type: ignore[attr-defined]


def auroc(
    shards: str,
    manifest: Manifest,
    arrays: Mapping[str, Arrays],
    result: RunResult,
    settings: Mapping[str, object],
    wrong_N: NDArray[np.bool_],
) -> tuple[float, float | None]:
    """Returns the AUROC of the doubts over all training rows, and over few-shot labels."""
    network = result.network
    spec = RunSpec(shards=shards, settings=settings)
    source = in_storage_order(open_split(spec, "train", Exchange(), arrays), 256)
    doubts = []
    with torch.inference_mode():
        for batch, outputs in Evaluator(torch.device("cpu")).forward(network, source):
            posterior_BC = held_out_log_posterior(outputs, batch.ranks_B, network.counts_C)
            doubts.append(label_doubts(posterior_BC, batch.labels_B).doubt_B)
    doubt_N = torch.cat(doubts).numpy()
    groups_C = shot_groups(network.counts_C.cpu()).numpy()
    few_N = groups_C[arrays["train"]["labels"]] == FEW
    of_few = None
    if 0 < wrong_N[few_N].sum() < few_N.sum():
        of_few = float(roc_auc_score(wrong_N[few_N], doubt_N[few_N]))
    return float(roc_auc_score(wrong_N, doubt_N)), of_few


if __name__ == "__main__":
    main()
