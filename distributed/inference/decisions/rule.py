"""What is decided from the probabilities of a row: a class, none, and the set of possible classes.

Legend: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.decisions.calibration import Calibration, decide
from model.decisions.conformal import prediction_sets


@dataclass(frozen=True)
class DecidedRows:
    """The decisions of some rows.

    in_set_NC: which classes are in the prediction set; None where no sets are asked for.
    expected_cost_N: of the decided class; None without a cost matrix.
    """

    decided_N: Tensor
    abstained_N: Tensor
    in_set_NC: Tensor | None = None
    expected_cost_N: Tensor | None = None


@dataclass(frozen=True)
class DecisionRule:
    """How classes are decided, as plain numbers that any process can be given.

    abstain: rows whose best probability is lower get no class.
    cost: costs [true class][decided class]; empty: the most probable class is decided.
    thresholds: of each class, the probability before calibration from which it is in the set;
        empty: no sets.
    """

    abstain: float = 0.0
    cost: tuple[tuple[float, ...], ...] = ()
    thresholds: tuple[float, ...] = ()

    @property
    def cost_CC(self) -> Tensor | None:
        """The cost matrix."""
        return torch.tensor(self.cost, dtype=torch.float64) if self.cost else None

    def decide(
        self, calibration: Calibration, probabilities_NC: Tensor, uncalibrated_NC: Tensor
    ) -> DecidedRows:
        """Returns the decisions for calibrated probabilities.

        uncalibrated_NC: the probabilities without temperatures, which the sets go by.

        Costs are weighed with the probabilities as they are. The offsets of the calibration serve
        a metric that knows no costs, and would distort the expected cost.
        """
        in_set_NC = expected_cost_N = None
        if self.cost_CC is None:
            decided_N = calibration.decide(probabilities_NC)
        else:
            decided_N = decide(probabilities_NC, self.cost_CC)
            expected_NC = probabilities_NC.double() @ self.cost_CC
            expected_cost_N = expected_NC.gather(1, decided_N[:, None])[:, 0]
        if self.thresholds:
            top_N = probabilities_NC.argmax(1)
            in_set_NC = prediction_sets(uncalibrated_NC, self.thresholds, top_N)
        abstained_N = probabilities_NC.amax(1) < self.abstain
        return DecidedRows(decided_N, abstained_N, in_set_NC, expected_cost_N)
