"""Evaluates a network on a whole split: what it gives every row, and the metrics of that.

Legend: N rows, B rows of a batch, V validation rows, M modalities, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from distributed.training.exchange import Exchange
from distributed.training.optimisation.transfer import on_device
from model.batch import Batch
from model.classifier import Classifier
from model.fusion.cross_modal import MAX_EXPECTED_CLASSES, CrossModalModel, CrossModalStats
from model.learning import losses
from model.metrics import metrics
from model.metrics.confidences import confidence_report
from model.metrics.names import CONFIDENCE_FACTS
from model.network import Network
from model.outputs import Outputs
from model.precision import at_least_float32

CROSS_MODAL_ROWS = 20_000  # validation rows that suffice to learn a cross-modal model


class Batches(Protocol):
    """Anything with the batches of a split."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


@dataclass
class Scores:
    """What a network gives the rows of a split, on the CPU.

    logits_NEC: raw logits of every expert.
    weights_NM: fusion weights.
    confidence_NM: predicted true-class probability of each modality.
    true_NM: the real true-class probability, where the label is known.
    present_NM: which modalities the row has.
    unfamiliar_NM: of these, the ones unlike anything in training.
    shrunk_NM: the confidence that the fusion uses: drawn towards the mean of its class.
    distance_NM: from the training rows, as a share of the distance from which on the modality
        counts as unlike training; NaN where that is not known.
    places_N: the place of the row among those of the source, in its order.
    agreement: how well the modalities agree, those unlike training left out; None unless the
        scoring was given a cross-modal model.
    """

    logits_NEC: Tensor
    labels_N: Tensor
    weights_NM: Tensor
    confidence_NM: Tensor
    true_NM: Tensor
    present_NM: Tensor
    unfamiliar_NM: Tensor
    shrunk_NM: Tensor
    distance_NM: Tensor
    places_N: Tensor
    agreement: CrossModalStats | None = None

    @property
    def probabilities_NC(self) -> Tensor:
        """Uncalibrated probabilities of the experts' mean."""
        return self.logits_NEC.mean(1).softmax(-1)


class CollectedRows:
    """Columns of the rows of many batches, each in memory once.

    With thousands of classes the logits of a split take gigabytes, and torch.cat would hold them
    twice. expected: how many rows there will be; more make it copy.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.rows = 0
        self.columns: list[Tensor] = []

    def add(self, columns: Sequence[Tensor]) -> None:
        """Adds the rows of a batch: the same columns each time."""
        last = self.rows + len(columns[0])
        if not self.columns or last > len(self.columns[0]):
            room = max(self.expected, last, 2 * self.rows)
            larger = [column.new_empty(room, *column.shape[1:]) for column in columns]
            for column, before in zip(larger, self.columns):
                column[: self.rows] = before[: self.rows]
            self.columns = larger
        for column, of_batch in zip(self.columns, columns, strict=True):
            column[self.rows : last] = of_batch
        self.rows = last

    def taken(self) -> Iterator[Tensor]:
        """Yields the columns, and gives each of them up."""
        while self.columns:
            yield self.columns.pop(0)[: self.rows]


@dataclass(frozen=True)
class Evaluator:
    """Runs networks in evaluation mode over whole splits.

    device: where the network is and computes.
    dtype: what it computes in; other than float32 by autocast.
    exchange: connects the workers that share the split.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    exchange: Exchange = field(default_factory=Exchange)

    def forward(self, network: Classifier, source: Batches) -> Iterator[tuple[Batch, Outputs]]:
        """Every batch, on the device, with the network's outputs for it."""
        network.eval()
        for batch in on_device(source.batches(0), self.device):
            enabled = self.dtype is not torch.float32
            with torch.autocast(self.device.type, self.dtype, enabled=enabled):
                outputs = network(batch)
            yield batch, outputs

    @torch.inference_mode()
    def score(
        self, network: Classifier, source: Batches, cross_modal: CrossModalModel | None = None
    ) -> Scores:
        """What the network gives every row; each worker ends with the rows of all workers.

        cross_modal: fills `agreement`, from this worker's own rows alone.
        """
        of_all_workers = getattr(source, "rows", 0)  # most sources know it
        collected = CollectedRows(-(-of_all_workers // self.exchange.world))
        agreement = None
        first = 0  # place of the first row of the global batch
        for batch, outputs in self.forward(network, source):
            true_BM = losses.true_class_probability(outputs, batch, cross_fitted=False)
            columns = [  # the fields of Scores in their order
                outputs.logits_BEC,
                batch.labels_B,
                outputs.weights_BM,
                outputs.confidence_BM,
                true_BM,
                outputs.present_BM,
                outputs.unfamiliar_BM,
                outputs.shrunk_BM,
                network.relative_distance(outputs),
                first + batch.start + torch.arange(len(batch), device=self.device),
            ]
            first += batch.total or len(batch)
            collected.add([t.float() if t.is_floating_point() else t for t in columns])
            if cross_modal is not None:
                compared = cross_modal.compare(*modality_posteriors(outputs))
                agreement = compared if agreement is None else agreement + compared
        if not collected.columns:
            raise ValueError("a split must have at least one row to be evaluated; got none")
        gathered = (self.exchange.gather(column).cpu() for column in collected.taken())
        names = [entry.name for entry in fields(Scores)]
        return Scores(**dict(zip(names, gathered)), agreement=agreement)

    @torch.inference_mode()
    def learn_cross_modal_model(self, network: Classifier, val: Batches) -> CrossModalModel | None:
        """Learns to predict each modality from the others, on the first rows of each worker.

        Returns None where there is one modality, too many classes, or too few rows.
        """
        if len(network.schema.modalities) < 2 or len(network.schema.classes) > MAX_EXPECTED_CLASSES:
            return None
        parts: list[tuple[Tensor, Tensor]] = []
        rows = 0
        for _, outputs in self.forward(network, val):
            posterior_BMC, present_BM = modality_posteriors(outputs)
            parts.append((posterior_BMC, present_BM))
            rows += len(posterior_BMC)
            if rows > CROSS_MODAL_ROWS // self.exchange.world:
                break
        posterior_VMC, present_VM = (
            self.exchange.gather(torch.cat(column).to(self.device)).cpu()
            for column in zip(*parts, strict=True)
        )
        return CrossModalModel.fit(posterior_VMC, present_VM)


def modality_posteriors(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """On the CPU: [B, M, C] probabilities by each modality alone, and [B, M] which count.

    A modality counts where the row has it and it is not unlike everything in training.
    """
    posterior_BMC = at_least_float32(losses.mean_over_folds(outputs.auxiliary_BMFC)).softmax(-1)
    return posterior_BMC.cpu(), (outputs.present_BM & ~outputs.unfamiliar_BM).cpu()


def correct_confidences(network: Network, scores: Scores) -> None:
    """Corrects the network's confidences by these scores of validation rows."""
    held_out = (scores.confidence_NM, scores.true_NM, scores.present_NM, scores.labels_N)
    network.running.correct_on_validation(*(t.to(network.counts_C.device) for t in held_out))


def compute_run_metrics(
    scores: Scores,
    network: Classifier,
    probabilities_NC: Tensor | None = None,
    decisions_N: Tensor | None = None,
) -> dict[str, float]:
    """Every metric of model/metrics, and the behaviour of the fusion for each modality.

    That is its mean fusion weight and, over the rows that have it, its mean confidence and the
    share in which it is unlike anything in training.
    """
    if probabilities_NC is None:
        probabilities_NC = scores.probabilities_NC
    values = metrics.compute_metrics(
        probabilities_NC,
        scores.labels_N,
        network.counts_C.cpu(),
        network.schema.classes,
        decisions_N,
    )
    for m, name in enumerate(network.schema.modalities):
        present_N = scores.present_NM[:, m]
        values[f"weight/{name}"] = float(scores.weights_NM[:, m].mean())
        if not present_N.any():
            continue
        if network.learns_confidence:  # else the confidence was never trained
            values[f"confidence/{name}"] = float(scores.confidence_NM[present_N, m].mean())
        if network.has_novelty_limits:
            unfamiliar_P = scores.unfamiliar_NM[present_N, m]
            values[f"unfamiliar/{name}"] = float(unfamiliar_P.float().mean())
    return values


def confidence_rows(scores: Scores, network: Classifier) -> list[dict[str, Any]]:
    """How near the confidences come to the truth, by modality and group of classes.

    Both the predicted ones and those that the fusion uses.
    """
    return confidence_report(
        scores.confidence_NM,
        scores.true_NM,
        scores.present_NM,
        scores.labels_N,
        network.counts_C.cpu(),
        network.schema.modalities,
        scores.weights_NM,
        scores.shrunk_NM,
    )


def confidence_metrics(scores: Scores, network: Classifier) -> dict[str, float]:
    """The confidence report of all classes and of the few-shot ones, as metrics.

    Empty where the confidences were never trained.
    """
    if not network.learns_confidence:
        return {}
    values = {}
    for row in confidence_rows(scores, network):
        if row["group"] not in ("all", "few"):
            continue
        for fact in CONFIDENCE_FACTS:
            if row[fact] is not None:
                name = f"confidence/{row['modality']}/{row['group']}/{fact}"
                values[name] = float(row[fact])
    return values
