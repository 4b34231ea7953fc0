"""Permutation importance: how much balanced accuracy falls where one part is that of other records.

A part is a modality or a column of a table. Its content is exchanged among the records at random,
which keeps how it is distributed and removes what it says of the record. Where two parts say the
same, each alone may seem unimportant.

Legend: N records, M modalities, D embedding, R bootstrap replicates, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.batch import Batch
from model.classifier import Classifier
from model.metrics.metrics import bootstrap_weights
from model.outputs import Outputs

REPEATS = 4  # random exchanges of a part
REPLICATES = 200  # of the bootstrap behind the intervals
ROWS_AT_ONCE = 512
SCREENING_ROWS = 64  # of an estimate which columns are the most telling

Decide = Callable[[Outputs], Tensor]  # the decided classes of the network's outputs, on the CPU


@dataclass(frozen=True)
class Importance:
    """How much balanced accuracy falls, as a share, with its 95 % interval over the records.

    column: empty for a whole modality.
    """

    modality: str
    column: str
    fall: float
    low: float
    high: float

    @property
    def title(self) -> str:
        """The part in words."""
        return f"{self.modality}: {self.column}" if self.column else self.modality


def row_slices(batch: Batch) -> list[slice]:
    """Returns the records in parts that are computed together."""
    return [slice(k, k + ROWS_AT_ONCE) for k in range(0, len(batch), ROWS_AT_ONCE)]


@torch.inference_mode()
def encode_records(network: Classifier, batch: Batch) -> Tensor:
    """Returns the embeddings of all records, [N, M, D]."""
    network.eval()
    return torch.cat([network.encode(batch.select(part)) for part in row_slices(batch)])


@torch.inference_mode()
def permutation_importance(
    network: Classifier,
    batch: Batch,
    decide: Decide,
    *,
    embeddings_NMD: Tensor | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    most_columns: int | None = None,
) -> list[Importance]:
    """Returns the importance of every modality, then that of the columns, in their order.

    batch: labelled records. embeddings_NMD: theirs, where they have been encoded already.
    most_columns: that are measured; where there are more, those are chosen of which one exchange
        in a few records changes the network's probabilities most. None: all.
    """
    network.eval()
    labels_N = batch.labels_B.cpu()
    if not len(labels_N) or bool((labels_N < 0).any()):
        raise ValueError("permutation importance needs records with labels; some have none")
    if embeddings_NMD is None:
        embeddings_NMD = encode_records(network, batch)
    permuted = _Permuted(network, batch, decide, embeddings_NMD)
    chosen = set(range(len(network.schema.modalities) + network.schema.column_count))
    if most_columns is not None and most_columns < network.schema.column_count:
        few = torch.linspace(0, len(batch) - 1, min(SCREENING_ROWS, len(batch))).long()
        few = few.to(batch.labels_B.device)
        screened = _Permuted(network, batch.select(few), decide, embeddings_NMD[few])
        chosen = telling_parts(screened, len(network.schema.modalities), most_columns, seed)
    right_N = (
        permuted.decisions(permuted.embeddings_NMD, permuted.visible_NM) == labels_N
    ).double()
    found = []
    for place, (modality, column, variant) in enumerate(permuted.parts()):
        if place not in chosen:
            continue
        generator = torch.Generator().manual_seed(seed)
        wrong_N = torch.zeros(len(labels_N), dtype=torch.float64)
        for _ in range(repeats):
            order_N = torch.randperm(len(labels_N), generator=generator).to(batch.labels_B.device)
            wrong_N += (permuted.decisions(*variant(order_N)) != labels_N).double() / repeats
        falls_N = right_N - (1 - wrong_N)
        found.append(Importance(modality, column, *_balanced_mean(falls_N, labels_N, seed)))
    return found


def telling_parts(permuted: _Permuted, modalities: int, columns: int, seed: int) -> set[int]:
    """Returns the places of all modalities and of the columns that change the answers most."""
    posterior_NC = permuted.probabilities(permuted.embeddings_NMD, permuted.visible_NM)
    order_N = torch.randperm(len(posterior_NC), generator=torch.Generator().manual_seed(seed))
    order_N = order_N.to(posterior_NC.device)
    changes = torch.stack(
        [
            (permuted.probabilities(*variant(order_N)) - posterior_NC).abs().sum()
            for _, column, variant in permuted.parts()
            if column
        ]
    )
    most = changes.topk(columns).indices + modalities
    return {*range(modalities), *most.tolist()}


def _balanced_mean(values_N: Tensor, labels_N: Tensor, seed: int) -> tuple[float, float, float]:
    """Returns the mean of the class means and its interval from a bootstrap within classes."""
    _, class_N, size_C = torch.unique(labels_N, return_inverse=True, return_counts=True)
    share_N = values_N / size_C[class_N] / len(size_C)
    means = [
        (weights_RN.double() * share_N).sum(1)
        for weights_RN in bootstrap_weights(labels_N, REPLICATES, seed, chunk=50)
    ]
    edges = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means), edges).tolist()
    return float(share_N.sum()), low, high


Variant = Callable[
    [Tensor], tuple[Tensor, Tensor]
]  # of an order, embeddings and visible modalities


class _Permuted:
    """The answers of a network with parts exchanged; images are encoded once."""

    def __init__(
        self, network: Classifier, batch: Batch, decide: Decide, embeddings_NMD: Tensor
    ) -> None:
        self.network, self.batch, self.decide = network, batch, decide
        self.rows = row_slices(batch)
        self.embeddings_NMD = embeddings_NMD
        self.visible_NM, _ = network.choose_modalities(self.embeddings_NMD, batch)

    def probabilities(self, embeddings_NMD: Tensor, visible_NM: Tensor) -> Tensor:
        """Returns those of the network, before calibration, [N, C]."""
        outputs = self.network.fuse(embeddings_NMD, self.batch, visible_NM)
        return outputs.logits_BEC.float().mean(1).softmax(-1)

    def decisions(self, embeddings_NMD: Tensor, visible_NM: Tensor) -> Tensor:
        decided = [
            self.decide(
                self.network.fuse(embeddings_NMD[part], self.batch.select(part), visible_NM[part])
            )
            for part in self.rows
        ]
        return torch.cat(decided)

    def parts(self) -> Iterator[tuple[str, str, Variant]]:
        """Yields modality, column, and what makes the variants of each part."""
        schema = self.network.schema
        for m, modality in enumerate(schema.modalities):
            yield modality, "", partial(self._with_modality, m)
        for m, table in enumerate(schema.tables, len(schema.images)):
            for j, column in enumerate(table.columns):
                yield table.name, column.name, partial(self._with_column, m, j)

    def _with_modality(self, m: int, order_N: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the records with modality m, or its absence, of others."""
        embeddings_NMD, visible_NM = self.embeddings_NMD.clone(), self.visible_NM.clone()
        embeddings_NMD[:, m] = self.embeddings_NMD[order_N, m]
        visible_NM[:, m] = self.visible_NM[order_N, m]
        return embeddings_NMD, visible_NM

    def _with_column(self, m: int, j: int, order_N: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the records with one cell of modality m of others."""
        table = self.network.schema.tables[m - len(self.network.schema.images)]
        numbers_NN = self.batch.numbers[table.name].clone()
        categories_NK = self.batch.categories[table.name].clone()
        changed = numbers_NN if j < len(table.numeric) else categories_NK
        place = j if j < len(table.numeric) else j - len(table.numeric)
        changed[:, place] = changed[order_N, place]
        embeddings_NMD = self.embeddings_NMD.clone()
        embedding_ND = self.network.encode_modality(
            m, (numbers_NN, categories_NK), self.batch.present_BM[:, m]
        )
        embeddings_NMD[:, m] = embedding_ND.to(embeddings_NMD.dtype)
        return embeddings_NMD, self.visible_NM
