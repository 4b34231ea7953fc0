"""How a checkpoint's experts are weighted on new rows, and the class prior that they are moved to.

Legend: N rows, V validation rows, M modalities, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.runtime.errors import OptionError
from distributed.training.checkpoint import Checkpoint
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.priors import mean_class_prior
from distributed.training.scoring import Batches, Evaluator, Scores
from model.batch import Batch
from model.decisions import aggregation
from model.decisions.aggregation import Aggregation
from model.decisions.guard import ValidationRows
from model.learning.augment import augment, drop_modalities, resample_cells
from model.learning.posthoc import move_prior

Facts = dict[str, str | float]  # about an aggregation, as flat entries
GIVEN = "given"  # the aggregation method in use where the class prior is known
# How a perturbed view differs from the rows, besides its images, which are changed as in the
# run's own training: the share of table cells drawn anew and of modalities dropped.
RESAMPLED_CELLS = 0.2
DROPPED_MODALITIES = 0.1


@dataclass
class PerturbedView:
    """A source of batches under random changes: one of the two views that `stability` compares."""

    source: Batches
    checkpoint: Checkpoint
    view: int  # 0 or 1: the two views draw different random changes
    seed: int = 0

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields the source's batches with changed images and cells and dropped modalities."""
        config, schema = self.checkpoint.config, self.checkpoint.network.schema
        seed = 2 * self.seed + self.view
        dropped = max(DROPPED_MODALITIES, config.fusion.modality_dropout)
        for step, batch in enumerate(self.source.batches(epoch, start), start):
            batch = augment(batch, schema.images, config.data, seed, step)
            batch = resample_cells(batch, schema.tables, RESAMPLED_CELLS, seed, step)
            yield drop_modalities(batch, dropped, seed, step)


def compute_outputs(checkpoint: Checkpoint, source: Batches, device: torch.device) -> Scores:
    """Returns the network's outputs for every row of a source, on the CPU."""
    checkpoint.network.to(device)
    evaluator = Evaluator(device, compute_dtype(checkpoint.config, device))
    return evaluator.score(checkpoint.network, source, checkpoint.cross_modal)


def expert_count(checkpoint: Checkpoint) -> int:
    """Returns the number of experts; the members of an ensemble count as its experts."""
    return checkpoint.network.expert_count


def aggregate_experts(
    checkpoint: Checkpoint,
    method: str,
    logits_NEC: Tensor,
    source: Batches,
    device: torch.device,
    prior_C: Tensor | None = None,
    seed: int = 0,
) -> Aggregation:
    """Applies an aggregation method to raw expert logits.

    source: the rows of the logits; `stability` reads them twice more, under random changes.
    prior_C: the known class prior, for the method `given`.
    """
    scale = checkpoint.calibration.scale
    views = None
    if method == "stability":
        first, second = (
            compute_outputs(
                checkpoint, PerturbedView(source, checkpoint, view, seed), device
            ).logits_NEC
            for view in range(2)
        )
        views = scale(first), scale(second)
    stored = checkpoint.validation
    return aggregation.aggregate(
        method,
        scale(logits_NEC),
        views=views,
        prior_C=prior_C,
        trained_C=mean_class_prior(checkpoint),
        validation=None
        if stored is None
        else ValidationRows(scale(stored.logits_VEC), stored.labels_V),
    )


@dataclass(frozen=True)
class FixedAggregation:
    """An aggregation as plain numbers: all that a worker needs to apply it to further rows."""

    expert_weights: tuple[float, ...]
    prior: tuple[float, ...] = ()  # the class prior of the rows; empty: probabilities stay

    @classmethod
    def uniform(cls, checkpoint: Checkpoint, prior: tuple[float, ...] = ()) -> FixedAggregation:
        """Returns equal weights for all experts of a checkpoint."""
        experts = expert_count(checkpoint)
        return cls((1 / experts,) * experts, prior)

    @classmethod
    def from_estimate(cls, estimate: Aggregation) -> FixedAggregation:
        """Returns the weights and the prior that were estimated on some rows."""
        prior = () if estimate.prior_C is None else tuple(estimate.prior_C.tolist())
        return cls(tuple(estimate.weights_E.tolist()), prior)

    def probabilities(
        self, checkpoint: Checkpoint, logits_NEC: Tensor, trained_C: Tensor
    ) -> Tensor:
        """Returns calibrated probabilities [N, C] of raw expert logits.

        trained_C: the class prior that the mean of the experts stands for.
        """
        return self.of_scaled(checkpoint.calibration.scale(logits_NEC), trained_C)

    def of_scaled(self, logits_NEC: Tensor, trained_C: Tensor) -> Tensor:
        """Returns probabilities [N, C] of expert logits, scaled by a calibration or raw."""
        logits_NC = aggregation.mix_experts(logits_NEC, torch.tensor(self.expert_weights))
        if self.prior:
            logits_NC = move_prior(
                logits_NC, trained_C.to(logits_NC), torch.tensor(self.prior).to(logits_NC)
            )
        return logits_NC.softmax(1)


def aggregation_method(
    requested: str | None, prior: str | Mapping[str, float] | None, default: str
) -> str:
    """Returns the aggregation method in use: a known prior needs no estimate.

    default: the run's own method, where none is requested.
    """
    if prior and requested == "stability":
        raise OptionError(
            "prior moves the probabilities to a known prior; "
            "it goes with aggregation uniform or prior, not stability",
            "prior",
            "aggregation",
        )
    return GIVEN if prior else requested or default


def pick_device(gpus: float) -> torch.device:
    """Returns the GPU if one is requested (gpus above 0), else the CPU."""
    if gpus and not torch.cuda.is_available():
        raise ValueError(f"a GPU is asked for ({gpus:g}) and this machine has none: use 0")
    return torch.device("cuda" if gpus else "cpu")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs PyTorch with this many threads and restores the number afterwards; 0 changes nothing."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def aggregation_facts(estimate: Aggregation, requested: str) -> Facts:
    """Returns an aggregation as flat entries for summary.json and `evaluate --json`."""
    facts: Facts = {
        "aggregation": estimate.method,
        "aggregation/asked": requested,
        "aggregation/fell_back": float(estimate.fell_back),
        "aggregation/reason": estimate.reason,
    }
    for e, weight in enumerate(estimate.weights_E, start=1):
        facts[f"expert_weight/{e}"] = float(weight)
    return facts
