"""Balanced accuracy where one modality of every record is broken: absent, of another record, noise.

Legend: N records, M modalities, D embedding, C channels, J columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.batch import Batch
from model.classifier import Classifier
from model.explaining.importance import Decide, encode_records, row_slices
from model.schema import Table

INTACT, ABSENT, EXCHANGED, NOISE = "intact", "absent", "of another record", "noise"


@dataclass(frozen=True)
class Condition:
    """One way in which a modality is broken, and the balanced accuracy under it."""

    modality: str
    condition: str
    balanced_accuracy: float


@torch.inference_mode()
def robustness(
    network: Classifier,
    batch: Batch,
    decide: Decide,
    *,
    embeddings_NMD: Tensor | None = None,
    seed: int = 0,
) -> list[Condition]:
    """Returns the balanced accuracy with everything intact and with each modality broken.

    A network that notices modalities unlike training counts them as absent here too. batch:
    labelled records; where an image is given by what a frozen encoder gives, there is no noise.
    embeddings_NMD: theirs, where they have been encoded already.
    """
    network.eval()
    rows = row_slices(batch)
    if embeddings_NMD is None:
        embeddings_NMD = encode_records(network, batch)
    generator = torch.Generator().manual_seed(seed)
    order_N = torch.randperm(len(batch), generator=generator).to(batch.labels_B.device)

    def accuracy(changed_NMD: Tensor, present_NM: Tensor) -> float:
        changed = batch.replace(present_BM=present_NM)
        decided_N = torch.cat(
            [decide(network.fuse(changed_NMD[part], changed.select(part))) for part in rows]
        )
        return balanced_accuracy(decided_N, batch.labels_B.cpu())

    found = [Condition("", INTACT, accuracy(embeddings_NMD, batch.present_BM))]
    for m, modality in enumerate(network.schema.modalities):
        present_NM = batch.present_BM.clone()
        present_NM[:, m] = False
        if len(network.schema.modalities) > 1:
            found.append(Condition(modality, ABSENT, accuracy(embeddings_NMD, present_NM)))
        changed_NMD, present_NM = embeddings_NMD.clone(), batch.present_BM.clone()
        changed_NMD[:, m] = embeddings_NMD[order_N, m]
        present_NM[:, m] = batch.present_BM[order_N, m]
        found.append(Condition(modality, EXCHANGED, accuracy(changed_NMD, present_NM)))
        if modality not in batch.frozen:
            noisy = with_noise(network, batch, m, generator)
            changed_NMD = embeddings_NMD.clone()
            changed_NMD[:, m] = torch.cat(
                [network.encode(noisy.select(part))[:, m] for part in rows]
            )
            found.append(Condition(modality, NOISE, accuracy(changed_NMD, batch.present_BM)))
    return found


def balanced_accuracy(decided_N: Tensor, labels_N: Tensor) -> float:
    """Returns the mean recall of the classes that have rows."""
    _, class_N, size_C = torch.unique(labels_N, return_inverse=True, return_counts=True)
    right_N = (decided_N == labels_N).double()
    return float((right_N / size_C[class_N]).sum() / len(size_C))


def with_noise(network: Classifier, batch: Batch, m: int, generator: torch.Generator) -> Batch:
    """Returns the records with noise in modality m: uniform pixels, cells at random."""
    schema, device = network.schema, batch.labels_B.device
    name = schema.modalities[m]
    if name in batch.images:
        pixels = torch.randint(0, 256, batch.images[name].shape, generator=generator)
        return batch.replace(images={**batch.images, name: pixels.to(torch.uint8).to(device)})
    table: Table = schema.tables[m - len(schema.images)]
    shape_NJ = batch.numbers[name].shape
    mean_J = torch.tensor([column.mean for column in table.numeric])
    std_J = torch.tensor([column.std for column in table.numeric])
    numbers_NJ = mean_J + std_J * torch.randn(shape_NJ, generator=generator)
    sizes_J = torch.tensor([len(column.vocabulary) for column in table.categorical])
    drawn_NJ = torch.rand(batch.categories[name].shape, generator=generator)
    categories_NJ = torch.where(sizes_J > 0, (drawn_NJ * sizes_J).long(), -1)
    return batch.replace(
        numbers={**batch.numbers, name: numbers_NJ.to(device)},
        categories={**batch.categories, name: categories_NJ.to(device)},
    )
