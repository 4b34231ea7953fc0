"""Which column or patch position a rare class hangs on: a shortcut, where it gives the class away.

For each audited class, rows of the class and rows of others exchange one part at a time. A part is
necessary where the class's rows lose their class without it, and sufficient where rows of other
classes become that class with it. A class that hangs on one column or one place of the picture has
a part that is both, to a degree that shape, colour or several columns together do not reach.

Legend: B records, D donors (rows of the class), R recipients (rows of others), C classes, G patches
a side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model.batch import Batch
from model.explaining.occlusion import Posterior, patch_slices
from model.network import Network

GRID = 5  # patches of an image a side
SCREENED = 4  # parts of a class whose sufficiency is measured: the most necessary ones
TINY = 1e-6  # smaller probabilities count as this in log odds


@dataclass(frozen=True)
class Part:
    """A column of a table, or a patch position of an image (row and column of the patch)."""

    modality: str
    column: str = ""
    patch: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """The part in words."""
        if self.patch is None:
            return f"column {self.column}"
        row, column = self.patch
        return f"{self.modality}: patch {row + 1} down, {column + 1} across"


@dataclass(frozen=True)
class Finding:
    """What a class depends on in one part.

    lost: mean fall of the class's probability in its own rows, with the part of other rows.
    gained: mean rise of the class's probability in other rows, with the part of its rows.
    turned: share of the other rows that become the class.
    """

    label: int
    part: Part
    lost: float
    gained: float
    turned: float

    @property
    def score(self) -> float:
        """How much the class hangs on the part, 0 to 1."""
        return math.sqrt(max(0.0, self.lost) * max(0.0, self.gained))


def all_parts(network: Network, grid: int) -> Iterator[Part]:
    """Yields every column and, with a grid, every patch position."""
    for table in network.schema.tables:
        for column in table.columns:
            yield Part(table.name, column=column.name)
    for image in network.schema.images:
        for k in range(grid * grid):
            yield Part(image.name, patch=divmod(k, grid))


@torch.inference_mode()
def audit_class(
    network: Network,
    donors: Batch,
    recipients: Batch,
    posterior: Posterior,
    label: int,
    *,
    grid: int = GRID,
    seed: int = 0,
) -> list[Finding]:
    """Returns the most necessary parts of a class, the one that it hangs on most first.

    donors: rows of the class. recipients: rows of other classes. grid: 0 leaves out the patches.
    """
    network.eval()
    exchange = _Exchange(network, donors, recipients, posterior, label, seed, grid)
    own_D, others_R = exchange.probability(donors), exchange.probability(recipients)
    necessary: list[tuple[float, Part, float]] = []
    for part in all_parts(network, grid):
        without_D = exchange.probability(exchange.without(part))
        fall_D = _log_odds(own_D) - _log_odds(without_D)
        necessary.append((float(fall_D.mean()), part, float((own_D - without_D).mean())))
    necessary.sort(key=lambda entry: -entry[0])
    findings = []
    for _, part, lost in necessary[:SCREENED]:
        with_BC = exchange.probabilities(exchange.with_part(part))
        gained = float((with_BC[:, label] - others_R).mean())
        turned = float((with_BC.argmax(1) == label).float().mean())
        findings.append(Finding(label, part, lost, gained, turned))
    return sorted(findings, key=lambda finding: -finding.score)


def _log_odds(probability: Tensor) -> Tensor:
    return probability.double().clamp(TINY, 1 - TINY).logit()


@dataclass
class _Exchange:
    """Exchanges parts between rows of a class and rows of others."""

    network: Network
    donors: Batch
    recipients: Batch
    posterior: Posterior
    label: int
    seed: int
    grid: int

    def probabilities(self, batch: Batch) -> Tensor:
        """Returns the probabilities with every modality that the records have, [B, C].

        A patch from another picture must not make the picture unfamiliar.
        """
        embeddings_BMD = self.network.encode(batch)
        return self.posterior(self.network.fuse(embeddings_BMD, batch, batch.present_BM))

    def probability(self, batch: Batch) -> Tensor:
        """Returns the probability of the audited class, [B]."""
        return self.probabilities(batch)[:, self.label]

    def without(self, part: Part) -> Batch:
        """Returns the donors with the part of random recipients."""
        return self._exchanged(self.donors, self.recipients, part)

    def with_part(self, part: Part) -> Batch:
        """Returns the recipients with the part of random donors."""
        return self._exchanged(self.recipients, self.donors, part)

    def _exchanged(self, batch: Batch, source: Batch, part: Part) -> Batch:
        m = self.network.schema.modalities.index(part.modality)
        available = source.present_BM[:, m].nonzero()[:, 0].cpu()
        if not len(available):
            return batch
        generator = torch.Generator().manual_seed(self.seed)
        picked_B = torch.randint(len(available), (len(batch),), generator=generator)
        from_B = available[picked_B].to(batch.present_BM.device)
        if part.patch is not None:
            return self._with_patch(batch, source, part, from_B)
        table = next(t for t in self.network.schema.tables if t.name == part.modality)
        names = [column.name for column in table.columns]
        j, numbers = names.index(part.column), len(table.numeric)
        if j < numbers:
            changed_BN = batch.numbers[table.name].clone()
            changed_BN[:, j] = source.numbers[table.name][from_B, j]
            return batch.replace(numbers={**batch.numbers, table.name: changed_BN})
        changed_BK = batch.categories[table.name].clone()
        changed_BK[:, j - numbers] = source.categories[table.name][from_B, j - numbers]
        return batch.replace(categories={**batch.categories, table.name: changed_BK})

    def _with_patch(self, batch: Batch, source: Batch, part: Part, from_B: Tensor) -> Batch:
        assert part.patch is not None
        image = next(i for i in self.network.schema.images if i.name == part.modality)
        row, column = part.patch
        rows, columns = list(patch_slices(image, self.grid))[row * self.grid + column]
        changed_BCHW = batch.images[image.name].clone()
        changed_BCHW[:, :, rows, columns] = source.images[image.name][from_B][:, :, rows, columns]
        return batch.replace(images={**batch.images, image.name: changed_BCHW})
