"""A checkpoint at work: expert logits of rows, how the experts are weighed, and the prior that their mean is moved to.

Legend: N rows, V validation rows, M modalities, E experts, C classes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.training import loop
from distributed.training.checkpoint import Checkpoint
from distributed.training.exchange import Exchange
from distributed.training.priors import mean_class_prior
from distributed.training.scoring import Batches, Scores, score_split
from model.batch import Batch
from model.config import WITHOUT_EXPERTS
from model.decisions import aggregation
from model.decisions.aggregation import Aggregation
from model.decisions.guard import ValidationRows
from model.learning.augment import augment, drop_modalities, resample_cells
from model.learning.posthoc import move_prior
from model.schema import join_names

# Of a perturbed view. The images are changed as in the run's own training, which may leave the rest alone.
RESAMPLED_CELLS = 0.2
DROPPED = 0.1


@dataclass
class PerturbedView:
    """A source whose batches are seen under random changes: one of the two views of the stability objective."""

    source: Batches
    checkpoint: Checkpoint
    device: torch.device
    view: int
    seed: int = 0

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        config, schema = self.checkpoint.config, self.checkpoint.network.schema
        seed = 2 * self.seed + self.view
        for step, batch in enumerate(self.source.batches(epoch, start), start):
            batch = augment(batch.to(self.device), config.data, seed, step)
            batch = resample_cells(batch, schema.tables, RESAMPLED_CELLS, seed, step)
            yield drop_modalities(batch, max(DROPPED, config.fusion.modality_dropout), seed, step)


def score_rows(checkpoint: Checkpoint, source: Batches, device: torch.device) -> Scores:
    """What the network gives every row, on the CPU."""
    checkpoint.network.to(device)
    precision = loop.compute_dtype(checkpoint.config, device)
    return score_split(
        checkpoint.network, source, device, Exchange(), precision, checkpoint.cross_modal
    )


def expert_count(checkpoint: Checkpoint) -> int:
    """How many rows of logits the network gives."""
    return (
        1 if checkpoint.config.fusion.kind in WITHOUT_EXPERTS else checkpoint.config.experts.count
    )


def aggregate_experts(
    checkpoint: Checkpoint,
    method: str,
    logits_NEC: Tensor,
    source: Batches,
    device: torch.device,
    prior_C: Tensor | None = None,
    seed: int = 0,
) -> Aggregation:
    """The named aggregation of raw expert logits; `source` is passed over twice more for `stability`."""
    scale = checkpoint.calibration.scale
    views = None
    if method == "stability":
        first, second = (
            score_rows(
                checkpoint, PerturbedView(source, checkpoint, device, view, seed), device
            ).logits_NEC
            for view in range(2)
        )
        views = scale(first), scale(second)
    held = checkpoint.validation
    return aggregation.aggregate(
        method,
        scale(logits_NEC),
        views=views,
        prior_C=prior_C,
        trained_C=mean_class_prior(checkpoint),
        validation=None if held is None else ValidationRows(scale(held.logits_VEC), held.labels_V),
    )


@dataclass(frozen=True)
class FixedAggregation:
    """An aggregation as plain numbers: all that a worker needs to apply it to further rows."""

    experts: tuple[float, ...]
    prior: tuple[
        float, ...
    ] = ()  # the prior that the probabilities are moved to; empty: they stay as the experts give them

    @classmethod
    def of(cls, found: Aggregation) -> FixedAggregation:
        return cls(
            tuple(found.weights_E.tolist()),
            () if found.prior_C is None else tuple(found.prior_C.tolist()),
        )

    def apply(self, checkpoint: Checkpoint, logits_NEC: Tensor, trained_C: Tensor) -> Tensor:
        """Calibrated probabilities [N, C] of raw expert logits."""
        logits_NC = aggregation.mix_experts(
            checkpoint.calibration.scale(logits_NEC), torch.tensor(self.experts)
        )
        if self.prior:
            logits_NC = move_prior(
                logits_NC, trained_C.to(logits_NC), torch.tensor(self.prior).to(logits_NC)
            )
        return logits_NC.softmax(1)


def aggregation_method(asked: str, prior: str, default: str) -> str:
    """The aggregation in use: a known prior needs no estimate, and excludes stability."""
    if prior and asked == "stability":
        raise ValueError(
            "--prior moves the probabilities to a known prior; it goes with --aggregation uniform or prior, not stability"
        )
    return "given" if prior else asked or default


def read_prior(path: str, classes: Sequence[str]) -> Tensor:
    """A known class prior from a JSON object {class: weight}; classes left out have weight 0."""
    from distributed.runtime.storage import read_file

    try:
        plain = json.loads(read_file(path), parse_int=float)
    except OSError:
        raise ValueError(
            f"--prior must name a JSON file that exists and can be read; got {path!r}"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"--prior must be a JSON object {{class: weight}}; {path}: {error}"
        ) from None
    if not isinstance(plain, dict) or not plain:
        raise ValueError(
            f"--prior must be a JSON object {{class: weight}}; {path} holds {type(plain).__name__}"
        )
    unknown = [name for name in plain if name not in classes]
    if unknown:
        raise ValueError(
            f"--prior must name classes of the checkpoint; got {join_names(unknown)}; valid: {join_names(classes)}"
        )
    for name, weight in plain.items():
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not math.isfinite(weight)
            or weight < 0
        ):
            raise ValueError(
                f"--prior must give each class a finite weight of at least 0; {name} has {weight!r}"
            )
    weights_C = torch.tensor([float(plain.get(name, 0.0)) for name in classes], dtype=torch.float64)
    if float(weights_C.max()) <= 0:
        raise ValueError(f"--prior must give some class a weight above 0; {path} gives none")
    weights_C = weights_C / weights_C.max()  # 1e39 is infinite as float32
    return (weights_C / weights_C.sum()).float()


def pick_device(gpus: float) -> torch.device:
    """The GPU where one is asked for."""
    if gpus and not torch.cuda.is_available():
        raise ValueError(f"a GPU is asked for ({gpus:g}) and this machine has none: use 0")
    return torch.device("cuda" if gpus else "cpu")


def aggregation_facts(found: Aggregation, asked: str) -> dict[str, str | float]:
    """The facts of an aggregation by flat name."""
    facts: dict[str, str | float] = {
        "aggregation": found.method,
        "aggregation/asked": asked,
        "aggregation/fell_back": float(found.fell_back),
    }
    facts["aggregation/reason"] = found.reason
    return facts | {f"expert_weight/{e + 1}": float(w) for e, w in enumerate(found.weights_E)}
