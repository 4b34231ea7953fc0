"""What the end of a run costs with thousands of classes: calibration, and the metrics of a split.

Random logits of three experts for validation rows; processor seconds on one core and the peak of
the memory beyond the logits. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from model.decisions.calibration import fit_calibration
from model.metrics.metrics import compute_metrics

EXPERTS = 3
PART_ROWS = 500  # that are made at a time


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="validation rows")
    parser.add_argument("--classes", type=int, default=5000)
    parser.add_argument("--no-metrics", action="store_true", help="only calibrate")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    logits_NEC, labels_N = random_logits(args.rows, args.classes)
    before, start = peak_mb(), time.process_time()
    fitted = fit_calibration(logits_NEC, labels_N)
    result: dict[str, object] = {
        "benchmark": "many_classes",
        "rows": args.rows,
        "classes": args.classes,
        "logits_mb": round(logits_NEC.numel() * 4 / 1e6),
        "calibration_cpu_seconds": round(time.process_time() - start, 1),
        "calibration_extra_mb": round(peak_mb() - before),
        "temperature": round(float(fitted.temperature), 4),
        "target_cpu_seconds": 60,
        "target_mb": 4000,
    }
    if not args.no_metrics:
        start = time.process_time()
        probabilities_NC = fitted.mix(logits_NEC).softmax(1)
        names = [str(c) for c in range(args.classes)]
        counts_C = torch.full((args.classes,), 10.0)
        compute_metrics(probabilities_NC, labels_N, counts_C, names, probabilities_NC.argmax(1))
        result["metrics_cpu_seconds"] = round(time.process_time() - start, 1)
    return result | {"peak_mb": round(peak_mb())}


def random_logits(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    """Returns logits that know something of the labels, and the labels."""
    draws = torch.Generator().manual_seed(0)
    labels_N = torch.randint(classes, (rows,), generator=draws)
    logits_NEC = torch.empty(rows, EXPERTS, classes)
    for part_nEC, labels_n in zip(
        torch.split(logits_NEC, PART_ROWS), torch.split(labels_N, PART_ROWS)
    ):
        part_nEC.normal_(0, 2, generator=draws)
        place_nE1 = labels_n[:, None, None].expand(-1, EXPERTS, 1)
        part_nEC.scatter_add_(2, place_nE1, torch.full(place_nE1.shape, 6.0))
    return logits_NEC, labels_N


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
