"""How surely rows that belong to other pictures are told without labels, and how often healthy ones are by mistake. Prints one JSON line.

Files of test rows are drawn many times over: of several lengths, in which a share of the rows has the first table of another row of the
file; healthy ones also with other class distributions (SADE's protocol) and of single classes. A number is the percentage of the files for
which predict.py would say that the two no longer belong together; below 50 rows it never does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

LENGTHS = (50, 100, 200, 400, 800)
SHARES = (0.0, 0.25, 0.5, 1.0)
SHIFTS = ("uniform", "forward-10", "forward-50", "backward-10", "backward-50")


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run with an image and a table")
    parser.add_argument("--data", required=True, help="its shards")
    parser.add_argument("--files", type=int, default=200, help="draws of each kind")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import numpy as np
    import torch

    from distributed.inference import shifts
    from distributed.shards.batches import open_batches
    from distributed.training.checkpoint import load_checkpoint
    from distributed.training.scoring import forward_batches, modality_posteriors

    checkpoint = load_checkpoint(args.checkpoint)
    network, known = checkpoint.network, checkpoint.cross_modal
    assert known is not None, "a run of one modality"
    place = network.schema.modalities.index(network.schema.tables[0].name)
    seen, labels = [], []
    with torch.inference_mode():
        source = open_batches(args.data, "test", checkpoint.config, train=False)
        for batch, outputs in forward_batches(network, source, torch.device("cpu"), torch.float32):
            seen.append(modality_posteriors(outputs))
            labels.append(batch.labels_B)
    posterior_NMC, present_NM = (torch.cat(parts) for parts in zip(*seen, strict=True))
    labels_N, lot = torch.cat(labels).numpy(), np.random.default_rng(0)

    def told(rows_R: Any, share: float = 0.0) -> bool:
        rows_R = torch.from_numpy(rows_R)
        found_RMC, there_RM = posterior_NMC[rows_R].clone(), present_NM[rows_R].clone()
        wrong = int(share * len(rows_R))
        for part in (found_RMC, there_RM):
            part[:wrong, place] = part[:wrong, place].roll(1, 0)
        return bool(known.compare(found_RMC, there_RM).broken_pairs(known))

    def percent(draw: Any, share: float = 0.0) -> float:
        return round(100 * sum(told(draw(k), share) for k in range(args.files)) / args.files, 1)

    lengths = [n for n in LENGTHS if n <= len(labels_N)]
    joined = {
        f"{share:.0%} wrong": [
            percent(lambda k, n=n: lot.permutation(len(labels_N))[:n], share) for n in lengths
        ]
        for share in SHARES
    }
    counts_C = np.asarray(network.schema.counts)
    cuts = {
        kind: percent(lambda k, kind=kind: shifts.shifted_rows(labels_N, counts_C, kind, k))
        for kind in SHIFTS
    }
    classes = [c for c, n in enumerate(np.bincount(labels_N)) if n >= LENGTHS[0]]
    alone = [told(np.flatnonzero(labels_N == c)) for c in classes]
    return {
        "benchmark": "joins",
        "rows": len(labels_N),
        "lengths": lengths,
        **joined,
        "healthy, another distribution": cuts,
        "healthy, of a single class": f"{sum(alone)} of {len(alone)} classes",
    }


if __name__ == "__main__":
    main()
