"""How reliably mismatched images and tables are noticed without labels, and how often by mistake.

Files of test rows are drawn many times over: of several lengths, in which a share of the rows has
the first table of another row of the file; healthy ones also with other class distributions (SADE's
protocol) and of single classes. A number is the percentage of the files for which predict.py would
report that the two no longer belong together; below 50 rows it never does. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.inference.shifts import shifted_rows
from distributed.shards.batches import open_batches
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.scoring import Evaluator, modality_posteriors

LENGTHS = (50, 100, 200, 400, 800)
SHARES = (0.0, 0.25, 0.5, 1.0)
SHIFTS = ("uniform", "forward-10", "forward-50", "backward-10", "backward-50")

Rows = NDArray[np.int64]


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run with an image and a table")
    parser.add_argument("--data", required=True, help="its shards")
    parser.add_argument("--files", type=int, default=200, help="draws of each kind")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    checkpoint = load_checkpoint(args.checkpoint)
    schema, stats = checkpoint.network.schema, checkpoint.cross_modal
    if stats is None:
        raise ValueError("the run must have two modalities and enough validation rows")
    table = schema.modalities.index(schema.tables[0].name)
    posterior_NMC, present_NM, labels_N = modality_predictions(checkpoint, args.data)
    rng = np.random.default_rng(0)

    def is_reported(rows_R: Rows, wrong_share: float = 0.0) -> bool:
        """Whether a file of these rows, a share of them with another row's table, is reported."""
        posterior_RMC, present_RM = posterior_NMC[rows_R].clone(), present_NM[rows_R].clone()
        wrong = int(wrong_share * len(rows_R))
        for part in (posterior_RMC, present_RM):
            part[:wrong, table] = part[:wrong, table].roll(1, 0)
        return bool(stats.compare(posterior_RMC, present_RM).broken_pairs(stats))

    def percent(draw: Callable[[int], Rows], wrong_share: float = 0.0) -> float:
        """The percentage of the files that are reported; draw(k) returns the rows of file k."""
        reported = sum(is_reported(draw(k), wrong_share) for k in range(args.files))
        return round(float(100 * reported / args.files), 1)

    def percent_of_length(length: int, wrong_share: float) -> float:
        return percent(lambda k: rng.permutation(len(labels_N))[:length], wrong_share)

    def percent_of_shift(shift: str) -> float:
        return percent(lambda k: shifted_rows(labels_N, counts_C, shift, k))

    lengths = [n for n in LENGTHS if n <= len(labels_N)]
    of_share = {
        f"{share:.0%} wrong": [percent_of_length(n, share) for n in lengths] for share in SHARES
    }
    counts_C = np.asarray(schema.counts)
    of_shift = {shift: percent_of_shift(shift) for shift in SHIFTS}
    classes = [c for c, n in enumerate(np.bincount(labels_N)) if n >= LENGTHS[0]]
    of_class = [is_reported(np.flatnonzero(labels_N == c)) for c in classes]
    return {
        "benchmark": "joins",
        "rows": len(labels_N),
        "lengths": lengths,
        **of_share,
        "healthy, another distribution": of_shift,
        "healthy, of a single class": f"{sum(of_class)} of {len(of_class)} classes",
    }


def modality_predictions(checkpoint: Checkpoint, shards: str) -> tuple[Tensor, Tensor, Rows]:
    """Returns each modality's class probabilities and presence in the test rows, and labels."""
    network = checkpoint.network
    posteriors, present, labels = [], [], []
    with torch.inference_mode():
        source = open_batches(shards, "test", checkpoint.config, train=False)
        for batch, outputs in Evaluator(torch.device("cpu")).forward(network, source):
            posterior_BMC, present_BM = modality_posteriors(outputs)
            posteriors.append(posterior_BMC)
            present.append(present_BM)
            labels.append(batch.labels_B)
    return torch.cat(posteriors), torch.cat(present), torch.cat(labels).numpy()


if __name__ == "__main__":
    main()
