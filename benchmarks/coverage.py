"""Coverage and size of prediction sets over random splits of a run's validation and test rows.

The labelled rows of both splits are shuffled together and divided anew, as many for calibration as
validation has, so that calibration and test rows are exchangeable. Each time temperatures and
thresholds are fitted as a run and predict.py fit them. Methods:

  class-conditional: as predict.py --coverage does it, by probabilities before any temperature
  at a row: the same, with thresholds at the nearest validation row below instead of between two
  by lot: the same, at one of these two rows, drawn so that exactly this share is left out
  in-sample: by probabilities with temperatures fitted on the very rows of the thresholds
  cross-fitted: by probabilities with temperatures fitted on the other four fifths of the rows
  at the training prior: the same, with probabilities moved to the class shares of training
  unpooled: a class with too few rows is in every set
  oracle: each class has the threshold that exactly this share of all its rows reaches
  plain: one threshold for all classes (split conformal prediction)
  plain, raised: the plain one at the smallest level whose coverage reaches the floor in every group

Coverage of a group of classes is the mean over its classes, and "rows" that over its rows. `as run`
has the coverage on test rows by the validation rows that also chose the epoch. One JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.inference.weighing import FixedAggregation, compute_outputs
from distributed.shards.batches import open_batches
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.operating_points import prior_shares
from distributed.training.priors import expert_class_priors, mean_class_prior
from model.decisions.calibration import fit_calibration
from model.decisions.conformal import (
    Pool,
    class_thresholds,
    fit_pools,
    prediction_sets,
    rows_for_rank,
    threshold_rank,
)
from model.decisions.guard import ValidationRows
from model.metrics.scoring import SHOTS, shot_groups

METHODS = (
    "class-conditional",
    "at a row",
    "by lot",
    "in-sample",
    "cross-fitted",
    "at the training prior",
    "unpooled",
    "oracle",
)
FOLDS = 5
LEVELS = [0.9 + 0.005 * step for step in range(20)]  # of the raised plain threshold


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run")
    parser.add_argument("--data", required=True, help="its shards")
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--floor", type=float, default=0.88, help="wanted in every group")
    parser.add_argument("--splits", type=int, default=200)
    command.run(parser, measure)


class Tally:
    """Hits and set sizes of every class, added up over the splits."""

    def __init__(self, classes: int) -> None:
        self.rows_C, self.hits_C, self.size_C = torch.zeros(3, classes, dtype=torch.float64)

    def add(self, sets_NC: Tensor, labels_N: Tensor) -> None:
        hit_N = sets_NC.gather(1, labels_N[:, None])[:, 0].double()
        self.rows_C.index_add_(0, labels_N, torch.ones_like(hit_N))
        self.hits_C.index_add_(0, labels_N, hit_N)
        self.size_C.index_add_(0, labels_N, sets_NC.sum(1).double())

    def coverage(self, is_in_C: Tensor) -> float:
        chosen_C = is_in_C & (self.rows_C > 0)
        return float((self.hits_C[chosen_C] / self.rows_C[chosen_C]).mean())

    def summary(self, counts_C: Tensor) -> dict[str, object]:
        groups_C = shot_groups(counts_C)
        numbers: dict[str, object] = {}
        chosen = {"all": torch.ones_like(groups_C, dtype=torch.bool)}
        chosen |= {shot: groups_C == number for number, shot in enumerate(SHOTS)}
        for name, is_in_C in chosen.items():
            rows = self.rows_C[is_in_C].sum()
            numbers[name] = {
                "coverage": round(self.coverage(is_in_C), 4),
                "rows": round(float(self.hits_C[is_in_C].sum() / rows), 4),
                "size": round(float(self.size_C[is_in_C].sum() / rows), 3),
            }
        return numbers


def measure(args: argparse.Namespace, folder: str) -> Mapping[str, object]:
    checkpoint = load_checkpoint(args.checkpoint)
    scores = {
        split: compute_outputs(
            checkpoint,
            open_batches(args.data, split, checkpoint.config, train=False),
            torch.device("cpu"),
        )
        for split in ("val", "test")
    }
    logits_NEC = torch.cat([scores[split].logits_NEC for split in scores])
    labels_N = torch.cat([scores[split].labels_N for split in scores])
    calibration_rows = len(scores["val"].labels_N)
    classes = len(checkpoint.network.schema.classes)
    names = [*METHODS, *(f"plain {q:.3f}" for q in LEVELS)]
    tallies = {name: Tally(classes) for name in names}
    generator = torch.Generator().manual_seed(0)
    for _ in range(args.splits):
        order_N = torch.randperm(len(labels_N), generator=generator)
        chosen_V, rest_N = order_N[:calibration_rows], order_N[calibration_rows:]
        score_split(
            checkpoint,
            (logits_NEC[chosen_V], labels_N[chosen_V]),
            (logits_NEC[rest_N], labels_N[rest_N]),
            args.coverage,
            tallies,
        )
    once = {name: Tally(classes) for name in names}
    of_split = [(scores[s].logits_NEC, scores[s].labels_N) for s in ("val", "test")]
    score_split(checkpoint, of_split[0], of_split[1], args.coverage, once)
    counts_C = checkpoint.network.counts_C.cpu()
    groups_C = shot_groups(counts_C)
    raised = next(
        (
            name
            for name in names[len(METHODS) :]
            if min(tallies[name].coverage(groups_C == g) for g in range(3)) >= args.floor
        ),
        names[-1],
    )
    return {
        "benchmark": "coverage",
        "checkpoint": args.checkpoint,
        "splits": args.splits,
        "calibration rows": calibration_rows,
        "classes with too few rows": int(
            (
                torch.bincount(of_split[0][1], minlength=classes) < rows_for_rank(2, args.coverage)
            ).sum()
        ),
        **{name: tallies[name].summary(counts_C) for name in METHODS},
        "plain": tallies[f"plain {args.coverage:.3f}"].summary(counts_C),
        "plain, raised": {"level": raised, **tallies[raised].summary(counts_C)},
        "as run": once["class-conditional"].summary(counts_C),
    }


def score_split(
    checkpoint: Checkpoint,
    calibration: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    coverage: float,
    tallies: Mapping[str, Tally],
) -> None:
    """Fits everything on the calibration rows and counts the sets of the test rows."""
    counts = checkpoint.network.counts_C.tolist()
    stored = ValidationRows.select(*calibration)
    fitted = fit_calibration(
        stored.logits_VEC,
        stored.labels_V,
        expert_class_priors(checkpoint.network, checkpoint.config),
    )
    run = dataclasses.replace(checkpoint, validation=stored, calibration=fitted)
    plain = FixedAggregation.uniform(run)
    trained_C = mean_class_prior(run)
    raw_VC = plain.of_scaled(stored.logits_VEC, trained_C)
    in_sample_VC = plain.of_scaled(fitted.scale(stored.logits_VEC), trained_C)
    new_NC = plain.of_scaled(test[0], trained_C)
    scaled_NC = plain.of_scaled(fitted.scale(test[0]), trained_C)
    all_NEC, all_N = (torch.cat(parts) for parts in zip(calibration, test, strict=True))
    pools = fit_pools(raw_VC, stored.labels_V, counts, coverage)
    alone = [0.0] * len(counts)  # a threshold of 0: in every set
    for pool in pools:
        if not pool.is_shared:
            alone[pool.classes[0]] = pool.threshold
    true_V = raw_VC.double().gather(1, stored.labels_V[:, None])[:, 0]
    thresholds: dict[str, tuple[float, ...]] = {
        "class-conditional": class_thresholds(pools),
        "at a row": class_thresholds(
            [at_a_row(pool, true_V, stored.labels_V, coverage) for pool in pools]
        ),
        "by lot": class_thresholds(
            [at_a_row(pool, true_V, stored.labels_V, coverage, by_lot=True) for pool in pools]
        ),
        "unpooled": tuple(alone),
        "oracle": oracle_thresholds(plain.of_scaled(all_NEC, trained_C), all_N, coverage),
    }
    one_threshold = plain_threshold(raw_VC, stored.labels_V)
    thresholds |= {f"plain {q:.3f}": (one_threshold(q),) * len(counts) for q in LEVELS}
    for name, limits in thresholds.items():
        tallies[name].add(prediction_sets(new_NC, limits), test[1])
    shares = tuple(prior_shares(run.network)["training"].tolist())
    moved = FixedAggregation.uniform(run, shares)
    for name, probabilities_VC, probabilities_NC in (
        ("in-sample", in_sample_VC, scaled_NC),
        ("cross-fitted", cross_fitted(run, plain), scaled_NC),
        (
            "at the training prior",
            moved.of_scaled(stored.logits_VEC, trained_C),
            moved.of_scaled(test[0], trained_C),
        ),
    ):
        limits = class_thresholds(fit_pools(probabilities_VC, stored.labels_V, counts, coverage))
        tallies[name].add(prediction_sets(probabilities_NC, limits), test[1])


def at_a_row(
    pool: Pool, true_V: Tensor, labels_V: Tensor, coverage: float, by_lot: bool = False
) -> Pool:
    """Returns the pool with the probability of a validation row as its threshold.

    true_V: probabilities of the true class. by_lot: of the row above, with the probability that
        makes the share of new rows below the threshold exactly the wanted one.
    """
    rows_V = torch.isin(labels_V, torch.tensor([*pool.classes, *pool.lenders]))
    sorted_V = true_V[rows_V].sort().values
    rank = threshold_rank(len(sorted_V), coverage)
    share = (len(sorted_V) + 1) * (1 - coverage) - rank
    if by_lot and rank < len(sorted_V) and float(torch.rand(())) < share:
        rank += 1
    return dataclasses.replace(pool, threshold=float(sorted_V[rank - 1]))


def cross_fitted(run: Checkpoint, plain: FixedAggregation) -> Tensor:
    """Returns the validation rows' probabilities with temperatures of the other folds."""
    stored = run.validation
    assert stored is not None
    fold_V = torch.empty_like(stored.labels_V)
    fold_V[torch.argsort(stored.labels_V, stable=True)] = torch.arange(len(fold_V)) % FOLDS
    scaled_VEC = torch.empty_like(stored.logits_VEC)
    priors_EC = expert_class_priors(run.network, run.config)
    for fold in range(FOLDS):
        kept_V = fold_V != fold
        fitted = fit_calibration(stored.logits_VEC[kept_V], stored.labels_V[kept_V], priors_EC)
        scaled_VEC[~kept_V] = fitted.scale(stored.logits_VEC[~kept_V])
    return plain.of_scaled(scaled_VEC, mean_class_prior(run))


def oracle_thresholds(
    probabilities_NC: Tensor, labels_N: Tensor, coverage: float
) -> tuple[float, ...]:
    """Returns for each class the probability that exactly this share of its rows reaches."""
    limits = []
    for c in range(probabilities_NC.shape[1]):
        true_N = probabilities_NC[labels_N == c, c].double()
        limits.append(float(torch.quantile(true_N, 1 - coverage)) if len(true_N) else math.inf)
    return tuple(limits)


def plain_threshold(probabilities_VC: Tensor, labels_V: Tensor) -> Callable[[float], float]:
    """Returns the threshold of split conformal prediction by the wanted coverage."""
    sorted_V = probabilities_VC.double().gather(1, labels_V[:, None])[:, 0].sort().values

    def of_coverage(coverage: float) -> float:
        rank = threshold_rank(len(sorted_V), coverage)
        return float(sorted_V[rank - 1]) if rank else -math.inf

    return of_coverage


if __name__ == "__main__":
    main()
