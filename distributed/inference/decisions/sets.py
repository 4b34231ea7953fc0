"""Prediction sets of a checkpoint: their thresholds from the validation rows that it stores.

Temperatures are fitted on the same validation rows. A threshold from rows that also chose the
temperature is a little too high, since those rows fit the network better than new ones. So the
probabilities behind the thresholds are held out: each fifth of the rows is scaled with temperatures
that the other four give.

Validation also picked the epoch and corrected the confidences, which cannot be undone here; what
that costs in coverage is measured in docs/results/decisions.md.

Legend: V validation rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.inference.weighing import FixedAggregation
from distributed.runtime.errors import OptionError
from distributed.training.checkpoint import Checkpoint
from distributed.training.priors import expert_class_priors, mean_class_prior
from model.decisions.calibration import Calibration, fit_calibration
from model.decisions.conformal import Pool, class_thresholds, fit_pools
from model.schema import join_names

FOLDS = 5


@dataclass(frozen=True)
class SetThresholds:
    """The thresholds of prediction sets, and which classes share one.

    coverage: the wanted share of rows of each class whose set holds their class.
    """

    coverage: float
    classes: tuple[str, ...]
    pools: tuple[Pool, ...]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The threshold of each class."""
        return class_thresholds(self.pools)

    def notes(self) -> list[str]:
        """Sentences on the classes that have no threshold of their own."""
        notes = []
        for pool in self.pools:
            if not pool.is_shared:
                continue
            names = join_names([self.classes[c] for c in pool.classes])
            lent = join_names([self.classes[c] for c in pool.lenders])
            borrowed = f" with rows of {lent}" if lent else ""
            notes.append(
                f"prediction sets: {names} {'share' if len(pool.classes) > 1 else 'has'} one "
                f"threshold by {pool.rows} validation rows{borrowed}, too few for each alone: "
                f"the coverage of {self.coverage:g} holds for all of them together, not for each"
            )
        return notes


def set_thresholds(
    checkpoint: Checkpoint, aggregation: FixedAggregation, coverage: float
) -> SetThresholds:
    """Returns the thresholds for probabilities that are aggregated in this way."""
    stored = checkpoint.validation
    if stored is None or not len(stored.labels_V):
        raise OptionError(
            f"coverage needs a checkpoint with validation rows; got {coverage:g} and a checkpoint "
            "without any: train again on shards with labelled validation rows",
            "coverage",
        )
    counts = [float(count) for count in checkpoint.network.counts_C.tolist()]
    try:
        pools = fit_pools(
            held_out_probabilities(checkpoint, aggregation), stored.labels_V, counts, coverage
        )
    except ValueError as error:
        rows = len(stored.labels_V)
        raise OptionError(
            f"{error} in the checkpoint: at most {rows / (rows + 1):.4g}", "coverage"
        ) from None
    return SetThresholds(coverage, checkpoint.network.schema.classes, tuple(pools))


def held_out_probabilities(checkpoint: Checkpoint, aggregation: FixedAggregation) -> Tensor:
    """Returns probabilities [V, C] of the stored validation rows, scaled by temperatures of others.

    Without calibration no temperature was fitted, and there is nothing to hold out.
    """
    stored = checkpoint.validation
    assert stored is not None
    trained_C = mean_class_prior(checkpoint)
    if not checkpoint.config.inference.calibrate:
        scaled_VEC = checkpoint.calibration.scale(stored.logits_VEC)
        return aggregation.of_scaled(scaled_VEC, trained_C)
    priors_EC = expert_class_priors(checkpoint.network, checkpoint.config)
    scaled_VEC = torch.empty_like(stored.logits_VEC)
    for is_held_out_V in folds(stored.labels_V):
        fitted: Calibration = fit_calibration(
            stored.logits_VEC[~is_held_out_V], stored.labels_V[~is_held_out_V], priors_EC
        )
        scaled_VEC[is_held_out_V] = fitted.scale(stored.logits_VEC[is_held_out_V])
    return aggregation.of_scaled(scaled_VEC, trained_C)


def folds(labels_V: Tensor, count: int = FOLDS) -> Sequence[Tensor]:
    """Returns which rows each fold holds out; the rows of a class are spread over all folds."""
    fold_V = torch.empty_like(labels_V)
    fold_V[torch.argsort(labels_V, stable=True)] = torch.arange(len(labels_V)) % count
    return [fold_V == fold for fold in range(count)]
