"""From what a user asks of the decisions to a rule: costs, prediction sets, abstention."""

from __future__ import annotations

from dataclasses import dataclass, field

from distributed.inference.decisions.costs import CostMatrix
from distributed.inference.decisions.rule import DecisionRule
from distributed.inference.decisions.sets import SetThresholds, set_thresholds
from distributed.inference.weighing import FixedAggregation
from distributed.training.checkpoint import Checkpoint

COST_PRIOR_NOTE = (
    "costs are weighed with classes as frequent as among the training rows; "
    "prior says what else they are"
)


@dataclass(frozen=True)
class DecisionPlan:
    """A rule of decisions, and what its user should know of it."""

    rule: DecisionRule
    sets: SetThresholds | None = None
    notes: list[str] = field(default_factory=list)


def plan_decisions(
    checkpoint: Checkpoint,
    aggregation: FixedAggregation,
    *,
    abstain: float = 0.0,
    cost: CostMatrix = (),
    coverage: float | None = None,
) -> DecisionPlan:
    """Returns the rule for probabilities that are aggregated in this way."""
    sets = None if coverage is None else set_thresholds(checkpoint, aggregation, coverage)
    rule = DecisionRule(abstain, cost, sets.thresholds if sets else ())
    return DecisionPlan(rule, sets, sets.notes() if sets else [])


def implied_prior(prior: str, has_costs: bool, aggregation: str | None) -> str:
    """Returns the prior in use where none is named.

    An expected cost is one over the rows as they come, so with costs it is that of the training
    rows, unless the prior is estimated from the rows themselves.
    """
    return "training" if has_costs and not prior and aggregation is None else prior
