"""Which epoch to keep: rules that pick by one part of the validation rows, judged by the others. Prints one JSON line.

The test split is not read. One training a seed, every epoch's predictions for the validation rows kept. Then, many times over, a share of
each class's rows is drawn to pick by, and the picked epoch's balanced accuracy is that of the rest. Numbers are in points above the
best of all epochs (`optim.best_epoch_after=0`), with their standard errors over the seeds; "best there is" picks by the rows that judge.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

PLAIN, LIMIT = "best of all", "best there is"
SHARES = (0.25, 0.5, 0.75)  # of the validation rows, to pick by
STARTS = (0.33, 0.5, 0.75)  # of the epochs: what comes before does not count
Array = np.ndarray[Any, Any]


def main() -> None:
    from benchmarks import command

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


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    from distributed import config

    settings = config.parse_assignments(args.set)
    runs = [train(args.data, {**settings, "optim.seed": seed}) for seed in range(args.seeds)]
    told: dict[str, Any] = {"benchmark": "picks", "seeds": args.seeds, "epochs": len(runs[0][0])}
    late = [
        100 * recalls(hits_EN, labels_N).mean(1)[len(hits_EN) // 2 :].mean()
        for hits_EN, _, labels_N in runs
    ]
    told["balanced_accuracy_of_the_second_half"] = [round(float(value), 2) for value in late]
    for share in SHARES:
        lot = np.random.default_rng(0)
        gains: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            means = judge(*run, share, args.draws, lot)
            for name, value in means.items():
                gains[name].append(100 * (value - means[PLAIN]))
        told[f"picked by {share:.0%}"] = {
            n: [round(float(np.mean(g)), 2), round(error(g), 2)]
            for n, g in gains.items()
            if n != PLAIN
        }
    return told


def error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def train(shards: str, settings: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Of every epoch and validation row whether it was right, and the log-probability of its class; and the classes."""
    from distributed.training import exchange, loop
    from distributed.training.run import RunSpec, open_run

    job = RunSpec(shards=shards, settings=settings)
    opened = open_run(job, exchange.Exchange(), None)
    hits, sure, labels = [], [], []

    def report(told: dict[str, float], state: dict[str, Any], scores: Any) -> None:
        probabilities_NC, labels_N = scores.probabilities_NC.numpy(), scores.labels_N.numpy()
        hits.append(probabilities_NC.argmax(1) == labels_N)
        sure.append(np.log(probabilities_NC[np.arange(len(labels_N)), labels_N].clip(1e-6)))
        labels.append(labels_N)

    loop.train_network(opened.network, opened.train, opened.val, job.config, report)
    return np.array(hits, dtype=float), np.array(sure), labels[0]


def judge(
    hits_EN: Array,
    sure_EN: Array,
    labels_N: Array,
    share: float,
    draws: int,
    lot: np.random.Generator,
) -> dict[str, float]:
    """The mean balanced accuracy, on the rest of the rows, of what each rule picks."""
    reached: dict[str, list[float]] = defaultdict(list)
    for _ in range(draws):
        chosen_N = drawn(labels_N, share, lot)
        true_E = recalls(hits_EN[:, ~chosen_N], labels_N[~chosen_N]).mean(1)
        picks = rules(hits_EN[:, chosen_N], sure_EN[:, chosen_N], labels_N[chosen_N])
        for name, epoch in {**picks, LIMIT: int(true_E.argmax())}.items():
            reached[name].append(float(true_E[epoch]))
    return {name: float(np.mean(values)) for name, values in reached.items()}


def drawn(labels_N: Array, share: float, lot: np.random.Generator) -> Array:
    """A share of every class's rows, at least one and never all; a class of one row is left to the rest."""
    chosen_N = np.zeros(len(labels_N), dtype=bool)
    for c in np.unique(labels_N):
        rows = lot.permutation(np.flatnonzero(labels_N == c))
        count = int(len(rows) * share + lot.random())
        chosen_N[rows[: min(max(count, 1), len(rows) - 1)]] = True
    return chosen_N


def rules(hits_EN: Array, sure_EN: Array, labels_N: Array) -> dict[str, int]:
    """The epoch, counted from 0, that each rule picks; of equals the later one."""
    recalls_EC = recalls(hits_EN, labels_N)
    score_E, epochs = recalls_EC.mean(1), len(hits_EN)
    best = latest(score_E)
    around_E = np.convolve(np.pad(score_E, 2, mode="edge"), np.ones(5) / 5, "valid")
    near_E = score_E[best] - score_E <= standard_error(hits_EN - hits_EN[best], labels_N) + 1e-12
    return {
        PLAIN: best,
        **{f"best after {share:.0%}": best_after(score_E, share) for share in STARTS},
        "last within a standard error": int(np.flatnonzero(near_E)[-1]),
        "best mean of five": latest(around_E),
        "least log-loss, classes alike": latest(recalls(sure_EN, labels_N).mean(1)),
        "last": epochs - 1,
    }


def best_after(score_E: Array, share: float) -> int:
    first = int(share * len(score_E))
    return first + latest(score_E[first:])


def latest(values_E: Array) -> int:
    """Where the maximum is, the last one of several."""
    return len(values_E) - 1 - int(np.argmax(values_E[::-1]))


def recalls(values_EN: Array, labels_N: Array) -> Array:
    """[epochs, classes]: the mean over each class's rows."""
    return np.stack([values_EN[:, labels_N == c].mean(1) for c in np.unique(labels_N)], 1)


def standard_error(values_EN: Array, labels_N: Array) -> Array:
    """[epochs]: of the mean over classes of the mean over their rows."""
    classes = [values_EN[:, labels_N == c] for c in np.unique(labels_N)]
    return np.sqrt(sum(rows.var(1) / max(rows.shape[1] - 1, 1) for rows in classes)) / len(classes)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
