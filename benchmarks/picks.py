"""Which epoch to keep: rules that pick by one part of the validation rows, judged by the others.

The test split is not read. One training for each seed, with every epoch's predictions for the
validation rows kept. Then, many times over, a share of each class's rows is drawn to pick by, and
the picked epoch's balanced accuracy is that of the rest. Numbers are in points above the best of
all epochs (`optim.best_epoch_after=0`), with their standard errors over the seeds; "best there is"
picks by the rows that judge. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.config import parse_assignments
from distributed.shards.batches import in_storage_order
from distributed.training import loop
from distributed.training.exchange import Exchange
from distributed.training.run import open_run
from distributed.training.scoring import Scores
from distributed.training.spec import RunSpec

BEST_OF_ALL, UPPER_LIMIT = "best of all", "best there is"
SHARES = (0.25, 0.5, 0.75)  # of the validation rows, to pick by
STARTS = (0.33, 0.5, 0.75)  # of the epochs: what comes before does not count

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--data", required=True, metavar="SHARDS", help="folder made by ingest.py")
    parser.add_argument("--seeds", type=int, default=5, help="trainings")
    parser.add_argument(
        "--draws",
        type=int,
        default=100,
        help="draws of the rows to pick by, for each training and share",
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the runs"
    )
    command.run(parser, measure)


@dataclass
class Predictions:
    """The validation rows of one training, after every epoch."""

    correct_EN: Floats  # 1 where the prediction is right, else 0
    log_probability_EN: Floats  # of the row's own class
    labels_N: Labels


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    settings = parse_assignments(args.set)
    runs = [train(args.data, {**settings, "optim.seed": seed}) for seed in range(args.seeds)]
    second_half = []
    for run in runs:
        score_E = class_means(run.correct_EN, run.labels_N).mean(1)
        second_half.append(100 * score_E[len(score_E) // 2 :].mean())
    result: dict[str, object] = {
        "benchmark": "picks",
        "seeds": args.seeds,
        "epochs": len(runs[0].correct_EN),
        "balanced_accuracy_of_the_second_half": [round(float(v), 2) for v in second_half],
    }
    for share in SHARES:
        rng = np.random.default_rng(0)
        gains: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            means = judge(run, share, args.draws, rng)
            for rule, value in means.items():
                gains[rule].append(100 * (value - means[BEST_OF_ALL]))
        result[f"picked by {share:.0%}"] = {
            rule: [round(float(np.mean(gain)), 2), round(standard_error_of_mean(gain), 2)]
            for rule, gain in gains.items()
            if rule != BEST_OF_ALL
        }
    return result


def standard_error_of_mean(values: list[float]) -> float:
    """Returns the standard error of the mean, 0 for a single value."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def train(shards: str, settings: Mapping[str, object]) -> Predictions:
    """Trains once and returns every epoch's predictions for the validation rows."""
    job = RunSpec(shards=shards, settings=dict(settings))
    opened = open_run(job, Exchange(), None)
    correct, log_probabilities, labels = [], [], []

    def report(metrics: dict[str, float], state: object, scores: Scores) -> None:
        probabilities_NC, labels_N = scores.probabilities_NC.numpy(), scores.labels_N.numpy()
        own_class_N = probabilities_NC[np.arange(len(labels_N)), labels_N]
        correct.append(probabilities_NC.argmax(1) == labels_N)
        log_probabilities.append(np.log(own_class_N.clip(1e-6)))
        labels.append(labels_N)

    loop.train_network(
        opened.network,
        opened.train,
        opened.val,
        job.config,
        report,
        train_rows=in_storage_order(opened.train, job.config.inference.batch_size),
    )
    return Predictions(np.array(correct, dtype=float), np.array(log_probabilities), labels[0])


def judge(run: Predictions, share: float, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Returns, for each rule, the mean balanced accuracy of what it picks.

    share: of the rows, to pick by; the rest judge.
    """
    correct_EN, labels_N = run.correct_EN, run.labels_N
    reached: dict[str, list[float]] = defaultdict(list)
    for _ in range(draws):
        picking_N = draw_rows(labels_N, share, rng)
        judged_E = class_means(correct_EN[:, ~picking_N], labels_N[~picking_N]).mean(1)
        log_probability_EN = run.log_probability_EN[:, picking_N]
        picks = picked_epochs(correct_EN[:, picking_N], log_probability_EN, labels_N[picking_N])
        picks[UPPER_LIMIT] = int(judged_E.argmax())
        for rule, epoch in picks.items():
            reached[rule].append(float(judged_E[epoch]))
    return {rule: float(np.mean(values)) for rule, values in reached.items()}


def draw_rows(labels_N: Labels, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Returns a mask with a share of every class's rows, at least one and never all.

    The row of a class that has only one is not drawn.
    """
    drawn_N = np.zeros(len(labels_N), dtype=bool)
    for c in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == c))
        count = int(len(rows) * share + rng.random())
        drawn_N[rows[: min(max(count, 1), len(rows) - 1)]] = True
    return drawn_N


def picked_epochs(
    correct_EN: Floats, log_probability_EN: Floats, labels_N: Labels
) -> dict[str, int]:
    """Returns the epoch, counted from 0, that each rule picks; of equals the later one."""
    score_E = class_means(correct_EN, labels_N).mean(1)
    best = last_maximum(score_E)
    mean_of_five_E = np.convolve(np.pad(score_E, 2, mode="edge"), np.ones(5) / 5, "valid")
    error_E = standard_error(correct_EN - correct_EN[best], labels_N)
    near_best_E = score_E[best] - score_E <= error_E + 1e-12
    return {
        BEST_OF_ALL: best,
        **{f"best after {share:.0%}": best_after(score_E, share) for share in STARTS},
        "last within a standard error": int(np.flatnonzero(near_best_E)[-1]),
        "best mean of five": last_maximum(mean_of_five_E),
        "least log-loss, classes alike": last_maximum(
            class_means(log_probability_EN, labels_N).mean(1)
        ),
        "last": len(correct_EN) - 1,
    }


def best_after(score_E: Floats, share: float) -> int:
    """Returns the best epoch of those after a share of all."""
    first = int(share * len(score_E))
    return first + last_maximum(score_E[first:])


def last_maximum(values_E: Floats) -> int:
    """Returns the index of the maximum, the last one of several."""
    return len(values_E) - 1 - int(np.argmax(values_E[::-1]))


def class_means(values_EN: Floats, labels_N: Labels) -> Floats:
    """Returns the mean over each class's rows, as [epochs, classes]."""
    return np.stack([values_EN[:, labels_N == c].mean(1) for c in np.unique(labels_N)], 1)


def standard_error(values_EN: Floats, labels_N: Labels) -> Floats:
    """Returns, for each epoch, the standard error of the mean over classes of their rows' means."""
    classes = [values_EN[:, labels_N == c] for c in np.unique(labels_N)]
    variances = [rows.var(1) / max(rows.shape[1] - 1, 1) for rows in classes]
    error_E: Floats = np.sqrt(sum(variances)) / len(classes)
    return error_E


if __name__ == "__main__":
    main()
