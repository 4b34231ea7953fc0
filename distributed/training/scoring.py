"""A network over a whole split: what every record got, and the metrics of it. Legend: N rows, M modalities, E experts, C classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from model.batch import Batch
from model.fusion.cross_modal import MAX_CLASSES, CrossModalModel, CrossModalStats
from model.fusion.novelty import weighted_moments
from model.learning import losses
from model.metrics import metrics
from model.metrics.names import CONFIDENCE_FACTS
from model.network import Network
from model.outputs import Outputs
from model.precision import at_least_float32

if TYPE_CHECKING:
    from distributed.training.exchange import Exchange


EXPECTATION_ROWS = 20_000  # that suffice to learn what modalities lead to expect of each other


class Batches(Protocol):
    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


@dataclass
class Scores:
    """Everything on the CPU, one row a record."""

    logits_NEC: Tensor
    labels_N: Tensor
    weights_NM: Tensor  # fusion weights
    confidence_NM: Tensor  # predicted true-class probability of each modality
    true_NM: Tensor  # the real one, where the label is known
    present_NM: Tensor
    unfamiliar_NM: Tensor  # of these, the ones unlike anything in training
    shrunk_NM: Tensor  # the confidence that the fusion goes by: drawn towards the mean of its class
    agreement: CrossModalStats | None = (
        None  # of the modalities with each other, those unlike training left out; where it is asked for
    )

    @property
    def probabilities_NC(self) -> Tensor:
        """Uncalibrated, all experts alike."""
        return self.logits_NEC.mean(1).softmax(-1)


def forward_batches(
    network: Network, source: Batches, device: torch.device, precision: torch.dtype
) -> Iterator[tuple[Batch, Outputs]]:
    """Every batch, on the device, and what the network in evaluation mode makes of it."""
    network.eval()
    for batch in source.batches(0):
        batch = batch.to(device)
        with torch.autocast(device.type, precision, enabled=precision is not torch.float32):
            outputs = network(batch)
        yield batch, outputs


@torch.inference_mode()
def score_split(
    network: Network,
    source: Batches,
    device: torch.device,
    exchange: Exchange,
    precision: torch.dtype = torch.float32,
    known: CrossModalModel | None = None,
) -> Scores:
    """One pass in evaluation mode; every worker ends with the rows of all, and with the agreement of its own beside what is known."""
    parts: list[list[Tensor]] = []
    agreement = None
    for batch, outputs in forward_batches(network, source, device, precision):
        true_BM = losses.true_class_probability(outputs, batch, cross_fitted=False)
        rows = [
            outputs.logits_BEC,
            batch.labels_B,
            outputs.weights_BM,
            outputs.confidence_BM,
            true_BM,
        ]
        rows += [outputs.present_BM, outputs.unfamiliar_BM, outputs.shrunk_BM]
        parts.append([t.float() if t.is_floating_point() else t for t in rows])
        more = known.compare(*modality_posteriors(outputs)) if known else None
        agreement = agreement + more if agreement and more else more
    if not parts:
        raise ValueError("a split must have at least one row to be evaluated; got none")
    return Scores(
        *(exchange.gather(torch.cat(column)).cpu() for column in zip(*parts, strict=True)),
        agreement=agreement,
    )


def modality_posteriors(outputs: Outputs) -> tuple[Tensor, Tensor]:
    """On the CPU: [B, M, C] what each modality says by itself, and [B, M] which are there and like training."""
    return at_least_float32(losses.mean_over_folds(outputs.auxiliary_BMFC)).softmax(-1).cpu(), (
        outputs.present_BM & ~outputs.unfamiliar_BM
    ).cpu()


@torch.inference_mode()
def learn_cross_modal_model(
    network: Network,
    val: Batches,
    device: torch.device,
    exchange: Exchange,
    precision: torch.dtype = torch.float32,
) -> CrossModalModel | None:
    """What the modalities lead to expect of each other, from validation rows: the first of each worker's. None where too few."""
    if len(network.schema.modalities) < 2 or len(network.schema.classes) > MAX_CLASSES:
        return None
    told, rows = [], 0
    for _, outputs in forward_batches(network, val, device, precision):
        told.append(modality_posteriors(outputs))
        rows += len(told[-1][0])
        if rows > EXPECTATION_ROWS // exchange.world:
            break
    posterior_VMC, present_VM = (
        exchange.gather(torch.cat(parts).to(device)).cpu() for parts in zip(*told, strict=True)
    )
    return CrossModalModel.fit(posterior_VMC, present_VM)


def correct_confidences(network: Network, scores: Scores) -> None:
    """Corrects the network's confidences by these validation rows."""
    held_out = (scores.confidence_NM, scores.true_NM, scores.present_NM, scores.labels_N)
    network.running.correct_on_validation(*(t.to(network.counts_C.device) for t in held_out))


@torch.no_grad()
def learn_novelty_gate(
    network: Network,
    train: Batches,
    counts_C: Tensor,
    val: Batches,
    device: torch.device,
    exchange: Exchange,
    precision: torch.dtype = torch.float32,
) -> None:
    """Where these training rows are, counts_C of each class and every class alike, and how far from there validation goes."""
    gate = network.novelty_gate
    weights_C = 1 / counts_C.to(device).clamp_min(1)
    nobody_1M = torch.zeros_like(gate.limit_M, dtype=torch.bool)[None]
    sums = weighted_moments(gate.mean_MD[None], nobody_1M, weights_C[:1])
    for batch, outputs in forward_batches(network, train, device, precision):
        more = weighted_moments(
            outputs.embeddings_BMD, outputs.present_BM, weights_C[batch.labels_B]
        )
        sums = tuple(a + b for a, b in zip(sums, more, strict=True))
    gate.fit_distance(*(exchange.sum(s) for s in sums))
    farthest_M, rows_M = (
        torch.zeros_like(gate.limit_M),
        torch.zeros_like(gate.limit_M),
    )
    for _, outputs in forward_batches(
        network, val, device, precision
    ):  # a worker's share of a batch may be empty
        distance_BM = gate.distance(outputs.embeddings_BMD).masked_fill(~outputs.present_BM, 0.0)
        farthest_M = torch.cat([farthest_M[None], distance_BM]).amax(0)
        rows_M += outputs.present_BM.sum(0)
    gate.set_limits(exchange.gather(farthest_M[None]).amax(0), exchange.sum(rows_M))


def compute_metrics(
    scores: Scores,
    network: Network,
    probabilities_NC: Tensor | None = None,
    decisions_N: Tensor | None = None,
) -> dict[str, float]:
    """Every metric of model/scoring.py and, for every modality, its mean fusion weight and, where it is present, its
    mean confidence and the share of rows in which it is unlike anything in training."""
    probabilities_NC = scores.probabilities_NC if probabilities_NC is None else probabilities_NC
    found = metrics.compute_metrics(
        probabilities_NC,
        scores.labels_N,
        network.counts_C.cpu(),
        network.schema.classes,
        decisions_N,
    )
    for m, name in enumerate(network.schema.modalities):
        there_N = scores.present_NM[:, m]
        found[f"weight/{name}"] = float(scores.weights_NM[:, m].mean())
        if there_N.any():
            if network.config.fusion.confidence_weight:  # else nobody taught it
                found[f"confidence/{name}"] = float(scores.confidence_NM[there_N, m].mean())
            if network.has_novelty_limits:
                found[f"unfamiliar/{name}"] = float(scores.unfamiliar_NM[there_N, m].float().mean())
    return found


def confidence_report(scores: Scores, network: Network) -> list[dict[str, Any]]:
    """How near the confidences, as predicted and as the fusion uses them, come to the truth, by modality and shot group."""
    told = (scores.confidence_NM, scores.true_NM, scores.present_NM, scores.labels_N)
    return metrics.confidence_report(
        *told,
        network.counts_C.cpu(),
        network.schema.modalities,
        scores.weights_NM,
        scores.shrunk_NM,
    )


def confidence_metrics(scores: Scores, network: Network) -> dict[str, float]:
    """The report over all classes and over the few-shot ones as metrics; nothing where nobody taught the confidences."""
    taught = bool(network.config.fusion.confidence_weight)
    rows = (
        [row for row in confidence_report(scores, network) if row["group"] in ("all", "few")]
        if taught
        else []
    )
    places = {
        f"confidence/{row['modality']}/{row['group']}/{fact}": row[fact]
        for row in rows
        for fact in CONFIDENCE_FACTS
    }
    return {place: float(value) for place, value in places.items() if value is not None}
