"""Whether the shortcut audit of a run's page finds what was planted, and nothing where it was not.

In each run one rare class gets a marker in its pictures, or a value of a column that no other class
has; a clean run gets nothing. A run has a random part of the training rows, which are audited as
for its page. A plant is found where it ranks first of all classes and parts. The ranks do not
depend on the network; --train trains it, which says whether it goes by the plant. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.config import parse_assignments
from distributed.shards import batches
from distributed.shards.decode import Arrays, take_rows
from distributed.shards.manifest import read_manifest
from distributed.shards.memory import load_arrays
from distributed.training.exchange import Exchange
from distributed.training.pages.reliance import find_shortcuts
from distributed.training.pages.run_page import calibrated
from distributed.training.run import open_split, run_training
from distributed.training.spec import RunSpec
from distributed.wafers.default import resolve_shards
from model.decisions.calibration import Calibration
from model.explaining.shortcuts import GRID, MIN_ROWS, Finding, Part
from model.network import Network
from model.schema import Schema

RAREST = 3  # classes that take turns
PART = 0.8  # of the training rows
SECONDS = 1.0  # for exchanging parts
KINDS = ("patch", "number", "category")


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--data", default="", metavar="SHARDS", help="empty: the built-in wafers")
    parser.add_argument("--planted", type=int, default=20, help="runs with a plant")
    parser.add_argument("--train", action="store_true", help="train a network in each run")
    parser.add_argument("--clean", type=int, default=20, help="runs without one")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the runs"
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    shards, settings = resolve_shards(args.data), parse_assignments(args.set)
    schema = read_manifest(shards).schema
    arrays = {split: load_arrays(shards, split, schema) for split in ("train", "val")}
    first, alarms, by_model, missed = 0, 0, 0, []
    for seed in range(args.planted):
        planted, label, part = plant(random_part(arrays, seed), schema, seed)
        findings = audited(shards, settings, planted, seed, args.train)
        top = findings[0]
        if (top.label, top.part) == (label, part):
            first += 1
            alarms += top.is_shortcut
            by_model += max(top.lost or 0.0, top.gained or 0.0) >= 0.05
        else:
            missed.append(f"{schema.classes[label]}: {part.title(GRID)}")
    false_alarms = []
    for seed in range(args.clean):
        rows = random_part(arrays, 1000 + seed)
        top = audited(shards, settings, rows, 1000 + seed, args.train)[0]
        if top.is_shortcut:
            false_alarms.append(f"{schema.classes[top.label]}: {top.part.title(GRID)}")
    return {
        "benchmark": "planted",
        "data": args.data or "wafers",
        "planted": args.planted,
        "ranked first": first,
        "with an alarm": alarms,
        "the model goes by it": by_model if args.train else None,
        "missed": missed,
        "clean": args.clean,
        "false alarms": len(false_alarms),
        "of": false_alarms,
    }


def random_part(arrays: Mapping[str, Arrays], seed: int) -> dict[str, Arrays]:
    """Returns the splits with PART of the training rows of every class, ranked anew."""
    rng = np.random.default_rng([seed, 1])
    labels_N = arrays["train"]["labels"]
    kept = []
    for c in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == c))
        kept.append(rows[: max(1, round(PART * len(rows)))])
    chosen = np.sort(np.concatenate(kept))
    train = take_rows(arrays["train"], chosen)
    for c in np.unique(train["labels"]):
        of_class = np.flatnonzero(train["labels"] == c)
        train["ranks"][of_class] = np.arange(len(of_class))
    return {**arrays, "train": train}


def audited(
    shards: str,
    settings: Mapping[str, object],
    arrays: Mapping[str, Arrays],
    seed: int,
    train: bool,
) -> list[Finding]:
    """Returns the findings of the audit of these arrays, with a trained network or a fresh one."""
    spec = RunSpec(shards=shards, settings={**settings, "optim.seed": seed}, test=False)
    manifest = read_manifest(shards)
    counts = np.bincount(arrays["train"]["labels"], minlength=len(manifest.schema.classes))
    schema = dataclasses.replace(manifest.schema, counts=tuple(counts.tolist()))
    changed = dataclasses.replace(manifest, schema=schema)
    # The benchmark's own variant of a name that the module imports.
    batches.read_manifest = lambda uri: changed  # type: ignore[attr-defined]
    if train:
        result = run_training(spec, arrays=arrays)
        network, decider = result.network, calibrated(result.calibration)
    else:
        network = Network(schema, spec.config.model)
        experts, classes = spec.config.experts.count, len(schema.classes)
        decider = calibrated(Calibration.identity(experts, classes))
    return find_shortcuts(
        network, decider, open_split(spec, "train", Exchange(), arrays), SECONDS if train else 0.0
    )


def plant(
    arrays: Mapping[str, Arrays], schema: Schema, seed: int
) -> tuple[dict[str, Arrays], int, Part]:
    """Returns changed splits, the class that got the plant, and the part that holds it."""
    rng = np.random.default_rng(seed)
    counts_C = np.bincount(arrays["train"]["labels"], minlength=len(schema.classes))
    enough = [c for c in np.argsort(counts_C, kind="stable") if counts_C[c] >= MIN_ROWS]
    label = int(enough[seed % RAREST])
    kinds = [kind for kind in KINDS if _is_possible(kind, schema)]
    kind = kinds[seed // RAREST % len(kinds)]
    change = {"patch": _mark, "number": _number, "category": _category}[kind]
    draws = int(rng.integers(2**31))
    changed = {}
    for split, of_split in arrays.items():
        copy = {name: values.copy() for name, values in of_split.items()}
        part = change(copy, schema, copy["labels"] == label, np.random.default_rng(draws))
        changed[split] = copy
    return changed, label, part


def _is_possible(kind: str, schema: Schema) -> bool:
    if kind == "patch":
        return bool(schema.images)
    columns = [c for t in schema.tables for c in (t.numeric if kind == "number" else t.categorical)]
    return bool(columns)


def _mark(arrays: Arrays, schema: Schema, is_class: np.ndarray, rng: np.random.Generator) -> Part:
    """Puts a small checkerboard into one place of the class's pictures."""
    image = schema.images[int(rng.integers(len(schema.images)))]
    row, column = (int(k) for k in rng.integers(GRID, size=2))
    size = max(3, image.height // 10)
    top = round((row + 0.5) * image.height / GRID - size / 2)
    left = round((column + 0.5) * image.width / GRID - size / 2)
    board = np.where(np.indices((size, size)).sum(0) % 2, 255, 0).astype(np.uint8)
    arrays[f"images/{image.name}"][is_class, :, top : top + size, left : left + size] = board
    return Part(image.name, patch=row * GRID + column)


def _number(arrays: Arrays, schema: Schema, is_class: np.ndarray, rng: np.random.Generator) -> Part:
    """Draws a column at random, for the class alone from its highest values."""
    table = next(t for t in schema.tables if t.numeric)
    j = int(rng.integers(len(table.numeric)))
    edges = np.asarray(table.numeric[j].quantiles)
    values = arrays[f"numbers/{table.name}"]
    values[:, j] = np.minimum(rng.choice(edges, len(values)), edges[-3])
    values[is_class, j] = rng.uniform(edges[-2], edges[-1], int(is_class.sum()))
    return Part(table.name, table.numeric[j].name)


def _category(
    arrays: Arrays, schema: Schema, is_class: np.ndarray, rng: np.random.Generator
) -> Part:
    """Draws a column at random, for the class alone its last value."""
    table = next(t for t in schema.tables if t.categorical)
    k = int(rng.integers(len(table.categorical)))
    column = table.categorical[k]
    values = arrays[f"categories/{table.name}"]
    values[:, k] = rng.integers(0, len(column.vocabulary) - 1, len(values))
    values[is_class, k] = len(column.vocabulary) - 1
    return Part(table.name, column.name)


if __name__ == "__main__":
    main()
