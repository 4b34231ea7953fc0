"""What a trained fusion learns from whole splits: what is unlike training, and what to doubt.

Legend: N rows, B rows of a batch, M modalities, S subsets of the modalities, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.config import Config, split_list
from distributed.shards.batches import BatchSource
from distributed.training.scoring import Batches, Evaluator
from model.batch import Batch
from model.fusion.doubt import fit_doubts, true_class_answers
from model.fusion.mixture import SubsetMixture
from model.fusion.novelty import weighted_moments
from model.learning.degrade import degrade_images
from model.network import Network

DOUBT_ROWS = 20_000  # validation rows that doubts are learned from


@dataclass
class DegradedRows:
    """The rows of a source, each with its images degraded as in training, before they are moved."""

    source: BatchSource
    network: Network
    config: Config

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        data, seed = self.config.data, self.config.optim.seed
        left_out = split_list(data.spoil_without)
        for step, batch in enumerate(self.source.batches(epoch, start), start):
            yield degrade_images(
                batch,
                self.network.schema,
                self.network.pretrained_images,
                1.0,
                data.flip,
                left_out,
                seed,
                step,
            )


@torch.no_grad()
def learn_novelty_gate(
    evaluator: Evaluator,
    network: Network,
    train: Batches,
    counts_C: Tensor,
    familiar: Sequence[Batches],
) -> None:
    """Teaches the network's novelty gate the training embeddings and its limits.

    counts_C: rows of each class in `train`; every class then weighs the same.
    familiar: sources of which no row is unfamiliar, or of degraded rows no degraded image; the
        first one is validation.
    """
    gate, exchange = network.novelty_gate, evaluator.exchange
    assert gate is not None
    weights_C = 1 / counts_C.to(evaluator.device).clamp_min(1)
    absent_1M = torch.zeros_like(gate.limit_M, dtype=torch.bool)[None]
    # No row yet: zeros of the right shapes.
    totals = list(weighted_moments(gate.mean_MD[None], absent_1M, weights_C[:1]))
    for batch, outputs in evaluator.forward(network, train):
        weights_B = weights_C[batch.labels_B]
        sums = weighted_moments(outputs.embeddings_BMD, outputs.present_BM, weights_B)
        totals = [total + more for total, more in zip(totals, sums, strict=True)]
    gate.fit_distance(*(exchange.sum(total) for total in totals))
    farthest_M = torch.zeros_like(gate.limit_M)
    rows_M = torch.zeros_like(gate.limit_M)
    for source in familiar:
        for batch, outputs in evaluator.forward(network, source):  # a worker's share may be empty
            distance_BM = gate.distance(outputs.embeddings_BMD)
            counted_BM = outputs.present_BM if batch.degraded_BM is None else batch.degraded_BM
            distance_BM = distance_BM.masked_fill(~counted_BM, 0.0)
            farthest_M = torch.cat([farthest_M[None], distance_BM]).amax(0)
            if source is familiar[0]:
                rows_M += outputs.present_BM.sum(0)
    gate.set_limits(exchange.gather(farthest_M[None]).amax(0), exchange.sum(rows_M))


@torch.no_grad()
def learn_doubts(
    evaluator: Evaluator, network: Network, mixture: SubsetMixture, val: Batches
) -> None:
    """Learns from validation rows which modalities are trusted too much."""
    if len(network.schema.modalities) < 2:
        return
    parts = []
    rows = 0
    for batch, outputs in evaluator.forward(network, val):
        assert outputs.subsets is not None
        visible_BM = outputs.present_BM & ~outputs.unfamiliar_BM
        answers_BS = true_class_answers(outputs.subsets, batch.labels_B)
        parts.append((answers_BS, outputs.subsets.odds_BM, visible_BM, batch.labels_B))
        rows += len(batch)
        if rows > DOUBT_ROWS // evaluator.exchange.world:
            break
    answers_NS, odds_NM, visible_NM, labels_N = (
        evaluator.exchange.gather(torch.cat(column)).cpu() for column in zip(*parts)
    )
    members_SM, temperature = mixture.members_SM.cpu(), mixture.temperature
    mixture.doubt_M.copy_(
        fit_doubts(answers_NS, odds_NM, visible_NM, labels_N, members_SM, temperature)
    )
