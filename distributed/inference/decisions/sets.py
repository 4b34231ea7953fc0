"""Prediction sets of a checkpoint: their thresholds from the validation rows that it stores.

The temperatures are fitted on the same validation rows, and probabilities that are scaled with them
fit these rows a little better than new ones. So the sets go by the probabilities before any
temperature (the experts' mean, moved to the prior in use): for them validation rows and new rows
are alike. Measured, this makes the sets no larger; probabilities that are scaled by temperatures of
the other folds, the usual way out, make them up to 7 % larger.

Validation also picked the epoch and corrected the confidences, which cannot be undone here; what
that costs in coverage is measured in docs/results/decisions.md.

Legend: V validation rows, E experts, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from distributed.inference.weighing import FixedAggregation
from distributed.runtime.errors import OptionError
from distributed.training.checkpoint import Checkpoint
from distributed.training.priors import mean_class_prior
from model.decisions.conformal import Pool, class_thresholds, fit_pools
from model.schema import join_names


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
            aggregation.of_scaled(stored.logits_VEC, mean_class_prior(checkpoint)),
            stored.labels_V,
            counts,
            coverage,
        )
    except ValueError as error:
        rows = len(stored.labels_V)
        raise OptionError(
            f"{error} in the checkpoint: at most {rows / (rows + 1):.4g}", "coverage"
        ) from None
    return SetThresholds(coverage, checkpoint.network.schema.classes, tuple(pools))
