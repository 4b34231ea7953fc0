"""Applies a checkpoint to the rows of an evaluation, and decides their classes.

Legend: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distributed.inference.decisions.costs import read_costs
from distributed.inference.decisions.decided_split import DecidedSplit
from distributed.inference.decisions.plan import (
    COST_PRIOR_NOTE,
    DecisionPlan,
    implied_prior,
    plan_decisions,
)
from distributed.inference.known_prior import class_prior
from distributed.inference.options import EvaluateOptions
from distributed.inference.rows.split_rows import SplitRows, open_evaluated_rows
from distributed.inference.weighing import (
    FixedAggregation,
    aggregate_experts,
    aggregation_method,
    compute_outputs,
    pick_device,
)
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.training.checkpoint import Checkpoint
from distributed.training.priors import mean_class_prior
from distributed.training.scoring import Scores
from model.decisions.aggregation import Aggregation


@dataclass(frozen=True, kw_only=True)
class ScoredSplit:
    """The rows of an evaluation with everything that a checkpoint makes of them.

    method: the aggregation that was asked for. prior_C: the prior in use, where one is known.
    """

    split: SplitRows
    scores: Scores
    method: str
    prior_C: Tensor | None
    aggregation: Aggregation
    plan: DecisionPlan
    rows: DecidedSplit
    notes: list[str]


def score_split(checkpoint: Checkpoint, options: EvaluateOptions) -> ScoredSplit:
    """Returns what a checkpoint makes of the rows, under the conditions of the options."""
    network, classes = checkpoint.network, checkpoint.network.schema.classes
    prior = implied_prior(options.prior, bool(options.cost), options.aggregation)
    method = aggregation_method(options.aggregation, prior, checkpoint.config.inference.aggregation)
    prior_C = class_prior(prior, network) if prior else None
    cost = read_costs(options.cost, classes) if options.cost else ()
    device = pick_device(options.gpus)
    split = open_evaluated_rows(checkpoint, options)
    keep_freed_memory()
    scores = compute_outputs(checkpoint, split.source, device)
    aggregation = aggregate_experts(
        checkpoint, method, scores.logits_NEC, split.source, device, prior_C, options.seed
    )
    fixed = FixedAggregation.from_estimate(aggregation)
    plan = plan_decisions(checkpoint, fixed, cost=cost, coverage=options.coverage)
    decided = plan.rule.decide(
        checkpoint.calibration,
        aggregation.probabilities_NC,
        fixed.of_scaled(scores.logits_NEC, mean_class_prior(checkpoint)),
    )
    return ScoredSplit(
        split=split,
        scores=scores,
        method=method,
        prior_C=prior_C,
        aggregation=aggregation,
        plan=plan,
        rows=DecidedSplit(
            probabilities_NC=aggregation.probabilities_NC,
            labels_N=scores.labels_N,
            counts_C=network.counts_C.cpu(),
            classes=classes,
            decided=decided,
        ),
        notes=[COST_PRIOR_NOTE] if prior != options.prior else [],
    )
