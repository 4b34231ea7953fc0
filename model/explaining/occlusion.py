"""What each part of a record contributes to the probability of a class, by occlusion.

A part is a modality, a column of a table or a patch of an image. Its contribution is the
probability of the class minus the probability without the part. What stands in its place: for a
modality the network's own vector of an absent one, for a column values of the training rows, for a
patch the mean colour of the training images. The modalities that the fusion does not use, absent
and unfamiliar ones, have no contributions. Where two parts say the same, each alone may contribute
little, because the other one is left.

Legend: B records, M modalities, D embedding, C classes, R reference values, G patches a side, J
columns of a table, numbers first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.batch import Batch
from model.classifier import Classifier
from model.outputs import Outputs
from model.schema import Categorical, Image, Numeric, Table

GRID = 5  # patches of an image a side
REFERENCES = 4  # training values that stand in the place of a cell
ROWS_AT_ONCE = 512  # that are encoded together

# Probabilities [B, C] of the network's outputs: calibrated, with weighted experts.
Posterior = Callable[[Outputs], Tensor]


@dataclass
class Contributions:
    """What the parts of some records contribute to the probability of one class each.

    NaN stands where the record has no such part, or where the fusion does not use it.
    """

    classes_B: Tensor  # the class that is explained
    probability_B: Tensor  # its probability with everything in place
    modalities_BM: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)  # by table, [B, J]
    patches: dict[str, Tensor] = field(default_factory=dict)  # by image, [B, G, G]


@torch.inference_mode()
def explain(
    network: Classifier,
    batch: Batch,
    posterior: Posterior,
    classes_B: Tensor | None = None,
    *,
    grid: int = GRID,
) -> Contributions:
    """Returns the contributions of all parts of the records.

    classes_B: the class to explain, the most probable one unless given. grid: 0 leaves out the
        patches. The batch is on the network's device and holds pixels.
    """
    network.eval()
    embeddings_BMD = network.encode(batch)
    visible_BM, _ = network.choose_modalities(embeddings_BMD, batch)
    whole_BC = posterior(network.fuse(embeddings_BMD, batch, visible_BM))
    if classes_B is None:
        classes_B = whole_BC.argmax(1)
    occlusion = _Occlusion(network, batch, posterior, embeddings_BMD, visible_BM, classes_B)
    probability_B = occlusion.of_class(whole_BC)
    result = Contributions(
        classes_B, probability_B, probability_B[:, None] - occlusion.modalities()
    )
    result.modalities_BM[~visible_BM.to(result.modalities_BM.device)] = torch.nan
    for m, image in enumerate(network.schema.images):
        if grid:
            without_BGG = occlusion.patches(m, image, grid)
            result.patches[image.name] = probability_B[:, None, None] - without_BGG
    for m, table in enumerate(network.schema.tables, len(network.schema.images)):
        result.columns[table.name] = probability_B[:, None] - occlusion.columns(m, table)
    return result


@dataclass
class _Occlusion:
    """The probability of each record's class with something in it replaced.

    Several variants of all records are computed together, V of them.
    """

    network: Classifier
    batch: Batch
    posterior: Posterior
    embeddings_BMD: Tensor
    visible_BM: Tensor
    classes_B: Tensor

    def of_class(self, probabilities_RC: Tensor) -> Tensor:
        """Returns the probability of each record's class, [V * B]."""
        variants = len(probabilities_RC) // len(self.batch)
        classes_R1 = self.classes_B.to(probabilities_RC.device).repeat(variants)[:, None]
        return probabilities_RC.gather(1, classes_R1)[:, 0]

    def probability(self, embeddings_RMD: Tensor, visible_RM: Tensor) -> Tensor:
        """Returns the probability with other embeddings, and other modalities in use, [V, B]."""
        variants = len(embeddings_RMD) // len(self.batch)
        records = Batch(
            images={},
            numbers={k: v.repeat(variants, 1) for k, v in self.batch.numbers.items()},
            categories={k: v.repeat(variants, 1) for k, v in self.batch.categories.items()},
            present_BM=self.batch.present_BM.repeat(variants, 1),
            labels_B=self.batch.labels_B.repeat(variants),
            ranks_B=self.batch.ranks_B.repeat(variants),
        )
        outputs = self.network.fuse(embeddings_RMD, records, visible_RM)
        return self.of_class(self.posterior(outputs)).view(variants, len(self.batch))

    def modalities(self) -> Tensor:
        """Returns the probability without each modality, [B, M]."""
        modalities = self.visible_BM.shape[1]
        visible_MBM = self.visible_BM.repeat(modalities, 1, 1)
        visible_MBM.diagonal(dim1=0, dim2=2).fill_(False)
        embeddings_RMD = self.embeddings_BMD.repeat(modalities, 1, 1)
        return self.probability(embeddings_RMD, visible_MBM.flatten(0, 1)).T

    def of_encoder(self, m: int, variants: Iterator[tuple[Tensor, ...]]) -> Tensor:
        """Returns the probability with each variant of the content of modality m, [B, V].

        variants: what the encoder takes, without whether it is present.
        """
        used_B = self.visible_BM[:, m]
        present_B = self.batch.present_BM[:, m]
        at_once = max(1, ROWS_AT_ONCE // len(self.batch))
        found: list[Tensor] = []
        while content := list(itertools.islice(variants, at_once)):
            joined = [torch.cat(parts) for parts in zip(*content, strict=True)]
            embedding_RD = self.network.encode_modality(m, joined, present_B.repeat(len(content)))
            embeddings_RMD = self.embeddings_BMD.repeat(len(content), 1, 1)
            embeddings_RMD[:, m] = embedding_RD.to(embeddings_RMD.dtype)
            found.append(self.probability(embeddings_RMD, self.visible_BM.repeat(len(content), 1)))
        probability_VB = torch.cat(found)
        return probability_VB.where(used_B.to(probability_VB.device), torch.nan).T

    def columns(self, m: int, table: Table) -> Tensor:
        """Returns the mean probability with other values in each column of a table, [B, J]."""
        references = [reference_values(column) for column in table.columns]
        numbers_BN = self.batch.numbers[table.name]
        categories_BK = self.batch.categories[table.name]

        def variants() -> Iterator[tuple[Tensor, Tensor]]:
            for j, of_column in enumerate(references):
                for value, _ in of_column:
                    changed_BN, changed_BK = numbers_BN.clone(), categories_BK.clone()
                    if j < len(table.numeric):
                        changed_BN[:, j] = value
                    else:
                        changed_BK[:, j - len(table.numeric)] = int(value)
                    yield changed_BN, changed_BK

        probability_BV = self.of_encoder(m, variants())
        weights_V = torch.tensor([weight for column in references for _, weight in column])
        weighted_BV = probability_BV * weights_V.to(probability_BV)
        parts = torch.split(weighted_BV, [len(column) for column in references], 1)
        return torch.stack([part.sum(1) for part in parts], 1)

    def patches(self, m: int, image: Image, grid: int) -> Tensor:
        """Returns the probability without each patch of an image modality, [B, G, G]."""
        x_BCHW = self.batch.images[image.name]
        fill_C11 = mean_colour(image, x_BCHW)

        def variants() -> Iterator[tuple[Tensor]]:
            for rows, columns in patch_slices(image, grid):
                changed_BCHW = x_BCHW.clone()
                changed_BCHW[:, :, rows, columns] = fill_C11
                yield (changed_BCHW,)

        return self.of_encoder(m, variants()).reshape(-1, grid, grid)


def reference_values(column: Numeric | Categorical) -> list[tuple[float, float]]:
    """Returns training values of a column and their weights, which sum to 1.

    Of a numeric column quantiles, of a categorical one the most frequent values; a missing cell
    (NaN or -1) has the weight that it has in training.
    """
    values: list[float]
    if isinstance(column, Numeric):
        values = list(column.quantiles) or [column.mean]
        step = max(1.0, len(values) / REFERENCES)
        values = [values[int((k + 0.5) * step)] for k in range(min(REFERENCES, len(values)))]
        empty = torch.nan
    else:
        values = [float(k) for k in range(min(REFERENCES, len(column.vocabulary)))]
        empty = -1.0
    if not values:
        return [(empty, 1.0)]
    weighted = [(value, (1 - column.missing) / len(values)) for value in values]
    return [*weighted, (empty, column.missing)] if column.missing else weighted


def mean_colour(image: Image, x_BCHW: Tensor) -> Tensor:
    """Returns the mean colour of the training images in the units of the pixels, [C, 1, 1]."""
    mean_C = torch.tensor(image.mean or (0.5,) * image.channels, device=x_BCHW.device)
    if x_BCHW.dtype == torch.uint8:
        mean_C = (255 * mean_C).round()
    return mean_C.to(x_BCHW.dtype)[:, None, None]


def patch_slices(image: Image, grid: int) -> Iterator[tuple[slice, slice]]:
    """Yields the patches of an image, row by row, as slices of its height and width."""
    rows = [round(k * image.height / grid) for k in range(grid + 1)]
    columns = [round(k * image.width / grid) for k in range(grid + 1)]
    for top, bottom in zip(rows, rows[1:]):
        for left, right in zip(columns, columns[1:]):
            yield slice(top, bottom), slice(left, right)
