"""What decisions by a cost matrix cost on test rows, beside those for the most probable class.

Three matrices, none of which knows the test rows:

  rare: a mistake costs the square root of how much rarer its true class is than the largest one
  critical: every third class is critical; to take it for another one costs 20, other mistakes 1
  random: each pair of classes has a cost of its own (log-normal, fixed seed)

Decisions are those of `predict.py --cost` (at the training prior). Beside them: the most probable
class at the same prior and at the uniform one. `saved` is the share of the cost of the better of
the two that is saved, with its 95 % interval over test rows. One JSON line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.inference.weighing import compute_outputs
from distributed.shards.batches import open_batches
from distributed.training.checkpoint import load_checkpoint
from distributed.training.operating_points import operating_probabilities
from model.decisions.calibration import decide
from model.metrics.metrics import bootstrap_weights

CRITICAL_COST = 20.0
REPLICATES = 2000


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run")
    parser.add_argument("--data", required=True, help="its shards")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> Mapping[str, object]:
    checkpoint = load_checkpoint(args.checkpoint)
    config = checkpoint.config
    source = open_batches(args.data, "test", config, train=False)
    scores = compute_outputs(checkpoint, source, torch.device("cpu"))
    by_prior = dict(
        operating_probabilities(
            scores.logits_NEC, checkpoint.network, config, checkpoint.calibration
        )
    )
    labels_N = scores.labels_N
    weights_RN = torch.cat([*bootstrap_weights(labels_N, REPLICATES)]).double()
    result: dict[str, object] = {"benchmark": "costs", "checkpoint": args.checkpoint}
    for name, cost_CC in cost_matrices(checkpoint.network.counts_C.cpu().double()).items():
        decided_N = decide(by_prior["training"], cost_CC)
        cost_N = cost_CC[labels_N, decided_N]
        plain = {
            prior: cost_CC[labels_N, probabilities_NC.argmax(1)]
            for prior, probabilities_NC in by_prior.items()
        }
        best = min(plain, key=lambda prior: float(plain[prior].mean()))
        saved_R = 1 - (weights_RN @ cost_N) / (weights_RN @ plain[best])
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        low, high = torch.quantile(saved_R, ends).tolist()
        result[name] = {
            "by cost": round(float(cost_N.mean()), 4),
            **{f"most probable, {p}": round(float(c.mean()), 4) for p, c in plain.items()},
            "saved": round(1 - float(cost_N.mean() / plain[best].mean()), 3),
            "interval": [round(low, 3), round(high, 3)],
        }
    return result


def cost_matrices(counts_C: Tensor) -> dict[str, Tensor]:
    """Returns costs [true class, decided class] by the name of the matrix."""
    classes = len(counts_C)
    mistake_CC = 1 - torch.eye(classes, dtype=torch.float64)
    rarity_C = (counts_C.max() / counts_C.clamp(min=1)).sqrt()
    is_critical_C = torch.arange(classes) % 3 == 2
    missed_CC = is_critical_C[:, None] & ~is_critical_C[None]
    generator = torch.Generator().manual_seed(0)
    random_CC = torch.randn(classes, classes, generator=generator, dtype=torch.float64).exp()
    return {
        "rare": mistake_CC * rarity_C[:, None],
        "critical": torch.where(missed_CC, CRITICAL_COST, mistake_CC),
        "random": mistake_CC * random_CC,
    }


if __name__ == "__main__":
    main()
