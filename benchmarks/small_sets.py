"""Writes six small or wide sets of pictures and tables, and trains the method on them.

The defaults must be safe where rows are few: not below plain concatenation, a gate, or one
modality alone. The sets are made of scikit-learn's digits and cancer data and of its generators, so
that anything can be drawn anew: another --draw is other data of the same kinds.

    python benchmarks/small_sets.py --out FOLDER --seeds 3
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn import datasets

from benchmarks.command import parser, run
from distributed import IngestOptions, StudyOptions, ingest, study

SIDE = 32  # pixels of a picture
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STUDY = """
title = "Small and wide sets"
question = "Are the defaults safe where rows are few?"
reference = "full method"
metric = "balanced_accuracy"
set = { scaling.threads = 1 }
[[variants]]
name = "full method"
[[variants]]
name = "full method, batches of 64"
set = { data.least_batches = 0 }
[[variants]]
name = "concatenation"
[variants.set]
experts.count = 1
data.spoil = 0.0
fusion = { kind = "uniform", modality_dropout = 0.0 }
[[variants]]
name = "gate"
set = { fusion.kind = "gate", data.spoil = 0.0 }
[[variants]]
name = "image alone"
set = { data.modalities = "image" }
[[variants]]
name = "table alone"
set = { data.modalities = "table" }
[[variants]]
name = "boosting"
model = "boosting"
"""


@dataclass(frozen=True)
class Records:
    """Pictures [R, H, W] or [R, H, W, 3], a table, labels, and how many rows are for what."""

    pictures: Floats
    table: pd.DataFrame
    labels: Ints
    train: int
    val: int


def digits(rng: np.random.Generator) -> Records:
    """Upper halves of digits as pictures, noisy projections of the lower halves as a table."""
    data = datasets.load_digits()
    kept = cut_to_tail(data.target, 12, 1300, rng)
    images, labels = data.images[kept], data.target[kept]
    upper = np.pad(images[:, :5], ((0, 0), (0, 3), (0, 0))) * 15
    projections = images[:, 4:].reshape(len(images), -1) @ rng.normal(size=(32, 12))
    table = named(projections + 8 * rng.normal(size=projections.shape))
    return Records(np.kron(upper, np.ones((1, 4, 4))), table, labels, 350, 150)


def rules(rng: np.random.Generator) -> Records:
    """Classes by thresholds of three numbers and a category; the picture's colour tells some."""
    numbers, category = rng.uniform(size=(2400, 3)), rng.integers(0, 5, 2400)
    ruled = (numbers[:, 0] > 0.4) * 2 + (numbers[:, 1] > 0.7)
    ruled = ruled + ((numbers[:, 2] > 0.3) ^ (category > 2)) * 2 + (category == 1)
    wrong = rng.uniform(size=2400) < 0.12
    labels = np.where(wrong, rng.integers(0, 7, 2400), ruled % 7)
    kept = cut_to_tail(labels, 15, 1400, rng)
    labels, table = labels[kept], named(np.exp(2 * numbers[kept]))
    table["kind"] = [f"k{value}" for value in category[kept]]
    hues = rng.normal(size=(7, 1, 1, 3))[labels]
    noise = rng.normal(size=(len(labels), SIDE, SIDE, 3))
    return Records(120 + 10 * hues + 50 * noise, table, labels, 320, 140)


def wide(rng: np.random.Generator) -> Records:
    """Two classes, 205 training rows, 600 columns; a bright square tells one class."""
    values, labels = generated(rng, 1100, 600, 2, informative=25, weights=[0.75])
    pictures = 120 + 40 * rng.normal(size=(len(labels), SIDE, SIDE))
    for picture, label in zip(pictures, labels):
        place = rng.integers(6, 20)
        picture[place : place + 8, place : place + 8] += 35 * label * rng.uniform(0.3, 1.7)
    return Records(pictures, named(values), labels, 205, 120)


def sparse(rng: np.random.Generator) -> Records:
    """Seven classes, 40 columns of which most cells are missing, and noisy patterns."""
    values, labels = generated(rng, 1600, 40, 7, informative=14)
    kept = cut_to_tail(labels, 10, 1500, rng)
    values, labels = values[kept], labels[kept]
    values[rng.uniform(size=values.shape) < 0.7] = np.nan
    patterns = 50 * rng.normal(size=(7, 8, 8))
    pictures = np.stack([np.roll(patterns[c], rng.integers(0, 3, 2), (0, 1)) for c in labels])
    pictures = np.kron(pictures, np.ones((1, 4, 4)))
    return Records(
        120 + pictures + 75 * rng.normal(size=pictures.shape), named(values), labels, 400, 180
    )


def cancer(rng: np.random.Generator) -> Records:
    """scikit-learn's breast cancer table beside pictures of noise."""
    data = datasets.load_breast_cancer()
    pictures = 120 + 60 * rng.normal(size=(len(data.target), SIDE, SIDE))
    return Records(pictures, named(data.data), data.target, 200, 120)


def stripes(rng: np.random.Generator) -> Records:
    """The angle of stripes tells the class; the table is noise."""
    labels = rng.integers(0, 5, 1300)
    labels = labels[cut_to_tail(labels, 12, 1100, rng)]
    rows, columns = np.indices((SIDE, SIDE))
    angles = 0.6 * labels[:, None, None]
    phases = rng.uniform(0, 6, size=(len(labels), 1, 1))
    waves = np.sin(0.9 * (rows * np.cos(angles) + columns * np.sin(angles)) + phases)
    pictures = 120 + 40 * waves + 45 * rng.normal(size=waves.shape)
    return Records(pictures, named(rng.normal(size=(len(labels), 10))), labels, 300, 140)


SETS: dict[str, Callable[[np.random.Generator], Records]] = {
    "digits": digits,
    "rules": rules,
    "wide": wide,
    "sparse": sparse,
    "cancer": cancer,
    "stripes": stripes,
}


def generated(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    classes: int,
    *,
    informative: int,
    weights: Sequence[float] | None = None,
) -> tuple[Floats, Ints]:
    """Returns a table and labels of scikit-learn's generator of classification problems."""
    values, labels = datasets.make_classification(
        rows,
        columns,
        n_informative=informative,
        n_redundant=informative // 2,
        n_classes=classes,
        n_clusters_per_class=1 if classes > 2 else 2,
        weights=weights,
        class_sep=1.1 if classes == 2 else 1.6,
        random_state=int(rng.integers(2**31)),
    )
    return values, labels


def named(values: Floats) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"v{i}" for i in range(values.shape[1])])


def cut_to_tail(labels: Ints, ratio: float, rows: int, rng: np.random.Generator) -> Ints:
    """Returns the places of about `rows` records whose classes form a long tail of this ratio."""
    classes = np.unique(labels)
    shares = ratio ** (-np.arange(len(classes)) / (len(classes) - 1))
    counts = np.maximum(np.round(shares / shares.sum() * rows), 8).astype(int)
    kept = [
        rng.permutation(np.flatnonzero(labels == each))[:count]
        for each, count in zip(classes, counts)
    ]
    return rng.permutation(np.concatenate(kept))


def write_table(records: Records, path: Path, rng: np.random.Generator) -> None:
    """Writes the records as one Parquet table; every class is in every split."""
    total = len(records.labels)
    split = np.full(total, "test", object)
    for label in np.unique(records.labels):
        rows = rng.permutation(np.flatnonzero(records.labels == label))
        train = max(3, round(len(rows) * records.train / total))
        val = max(2, round(len(rows) * records.val / total))
        split[rows[:train]], split[rows[train : train + val]] = "train", "val"
    frame = records.table.assign(
        image=[encode(picture) for picture in records.pictures],
        label=[f"c{label}" for label in records.labels],
        split=split,
    )
    frame.to_parquet(path)


def encode(picture: Floats) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    """Returns the mean balanced accuracy of every variant on test rows, by set."""
    out = Path(args.out or folder)
    out.mkdir(parents=True, exist_ok=True)
    shards = []
    for place, (name, make) in enumerate(SETS.items()):
        rng = np.random.default_rng([args.draw, place])
        write_table(make(rng), out / f"{name}.parquet", rng)
        ingest(
            IngestOptions(
                table=str(out / f"{name}.parquet"),
                label="label",
                image=("image",),
                split_column="split",
                image_size=str(SIDE),
                out=str(out / name),
            )
        )
        shards.append(str(out / name))
    (out / "study.toml").write_text(STUDY)
    study(
        StudyOptions(
            study=str(out / "study.toml"),
            data=tuple(shards),
            seeds=args.seeds,
            out=str(out / "study"),
        )
    )
    frame = pd.read_csv(out / "study" / "results.csv")
    means = frame.groupby(["data", "variant"])["test/balanced_accuracy"].mean().unstack(0)
    return {"benchmark": "small sets", "seeds": args.seeds, **means.round(4).to_dict()}


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--out", help="folder to keep tables, shards and study in")
    options.add_argument("--seeds", type=int, default=3, help="of the trainings")
    options.add_argument("--draw", type=int, default=0, help="seed of the data")
    run(options, measure)
