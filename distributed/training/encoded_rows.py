"""Rows that are encoded once for several passes of one network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.shards.batches import BatchSource
from distributed.training.scoring import Batches, Evaluator
from model.batch import Batch
from model.classifier import Classifier

MOST_ROWS = 20_000  # of a worker, that are kept in memory


@dataclass(frozen=True)
class EncodedRows:
    """A worker's batches of a split, with what the encoders of one network give them."""

    parts: Sequence[Batch]
    rows: int  # of all workers

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return iter(self.parts[start:])


@torch.inference_mode()
def encode_once(evaluator: Evaluator, network: Classifier, source: BatchSource) -> Batches:
    """Encodes a split, so that passes of this network over it cost the fusion only.

    The encoders must not change in between. More rows than memory should hold are left as they are.
    """
    if source.rows > MOST_ROWS * evaluator.exchange.world:
        return source
    parts = []
    for batch, outputs in evaluator.forward(network, source):
        encoded = batch.replace(images={}, frozen={}, embeddings_BMD=outputs.embeddings_BMD)
        parts.append(encoded.apply(Tensor.cpu))
    return EncodedRows(parts, source.rows)
