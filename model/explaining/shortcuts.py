"""Which column or patch position gives a rare class away, and whether the network goes by it.

A shortcut is a part that alone finds the rows of a class, while no other part comes near: a ruler
in one corner of the pictures, the code of one clinic. What a class really looks like shows in
several patches, and what it is like in several columns. So a part counts by how much better it
tells the class (giveaways.py) than the other parts of its kind do. Whether the network goes by it
is measured by exchanging the part between rows of the class and rows of others.

Legend: N sampled rows, D donors (rows of the class), R recipients (rows of others), C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.batch import Batch
from model.classifier import Classifier
from model.explaining.giveaways import giveaways
from model.explaining.occlusion import Posterior, patch_slices

GRID = 5  # patches of an image a side
MIN_ROWS = 10  # of a class; with fewer, some part gives it away by chance
ALARM = 0.5  # a part that is shown to stand out so much is reported as a shortcut
ERROR = 0.05  # probability that one of the audited classes is reported by the chance of its rows
# A marker may lie across the corner of four patches, a column stands alone: what a part must beat.
BETTER_THAN_PATCH, BETTER_THAN_COLUMN = 4, 2
DONORS, RECIPIENTS = 16, 32  # rows that exchange parts


@dataclass(frozen=True)
class Part:
    """A column of a table, or a patch of an image, numbered row by row."""

    modality: str
    column: str = ""
    patch: int = -1

    def title(self, grid: int) -> str:
        """Returns the part in words."""
        if self.patch < 0:
            return f"column {self.column}"
        row, column = divmod(self.patch, grid)
        return f"{self.modality}: patch {row + 1} down, {column + 1} across, of {grid} x {grid}"


@dataclass(frozen=True)
class Finding:
    """The part that gives a class away most surely.

    precision: average precision with which the part alone finds the class's rows. stands_out: how
    much better that is than the other parts of its kind. surely: how much better it is at least,
    by a one-sided interval over the class's rows; see ERROR.
    lost: mean fall of the class's probability in its own rows, with the part of other rows.
    gained: mean rise of it in other rows, with the part of its rows. Both are None where they were
    not measured.
    """

    label: int
    part: Part
    precision: float
    stands_out: float
    surely: float
    lost: float | None = None
    gained: float | None = None

    @property
    def is_shortcut(self) -> bool:
        """Whether the part gives the class away as nothing of the class itself does."""
        return self.surely >= ALARM


def audited_classes(counts: Sequence[int], most: int) -> list[int]:
    """Returns the rarest classes that have rows enough, at most so many, the rarest first."""
    enough = [c for c in range(len(counts)) if counts[c] >= MIN_ROWS]
    return sorted(enough, key=lambda c: counts[c])[:most]


@torch.inference_mode()
def audit_shortcuts(
    network: Classifier,
    batch: Batch,
    posterior: Posterior,
    labels: Sequence[int],
    *,
    grid: int = GRID,
    seed: int = 0,
    seconds: float = math.inf,
) -> list[Finding]:
    """Returns the finding of each class that is audited, the one that stands out most surely first.

    batch: sampled training rows of these classes and of the others, with pixels.
    seconds: of the processor; after them only what is a shortcut is exchanged.
    """
    network.eval()
    on_cpu = batch.to("cpu")
    enough = [label for label in labels if int((on_cpu.labels_B == label).sum()) >= MIN_ROWS]
    findings = [most_telling(network, on_cpu, label, grid, len(enough)) for label in enough]
    findings.sort(key=lambda finding: -finding.surely)
    end = time.process_time() + seconds
    measured = []
    for finding in findings:
        if finding.is_shortcut or time.process_time() < end:
            exchange = Exchange(network, batch, posterior, finding.label, grid, seed)
            lost, gained = exchange.effects(finding.part)
            finding = replace(finding, lost=lost, gained=gained)
        measured.append(finding)
    return measured


def most_telling(
    network: Classifier, batch: Batch, label: int, grid: int, classes: int = 1
) -> Finding:
    """Returns the part that most surely stands out; what its exchange does is not known.

    classes: how many are audited, by which ERROR is divided.
    """
    of_rows = giveaways(network.schema, batch, label, grid)
    precisions = {part: float(values.mean()) for part, values in of_rows.items()}
    best: Finding | None = None
    for (modality, column, patch), precision in precisions.items():
        others = sorted(
            (
                value
                for (other, name, place), value in precisions.items()
                if (place < 0) == (patch < 0)
                and (other, name, place) != (modality, column, patch)
                and (patch < 0 or other == modality)
            ),
            reverse=True,
        )
        rank = (BETTER_THAN_COLUMN if patch < 0 else BETTER_THAN_PATCH) - 2
        rival = others[min(rank, len(others) - 1)] if others else 0.0
        surely = lower_end(of_rows[modality, column, patch], ERROR / classes) - rival
        if best is None or surely > best.surely:
            part = Part(modality, column, patch)
            best = Finding(label, part, precision, precision - rival, surely)
    assert best is not None, "a network has a modality, and a modality a part"
    return best


def lower_end(values_N: Tensor, error: float) -> float:
    """Returns what the mean exceeds but for this probability of an error, by Student's t."""
    if len(values_N) < 2:
        return 0.0
    # It takes half a second to import, which training and predicting need not wait for.
    from scipy.stats import t as student

    width = float(student.ppf(1 - error, len(values_N) - 1))
    return float(values_N.mean() - width * values_N.std() / math.sqrt(len(values_N)))


class Exchange:
    """Exchanges parts between rows of a class and rows of others.

    The fusion uses every modality that a record has: a patch from another picture must not make
    the picture unfamiliar.
    """

    def __init__(
        self,
        network: Classifier,
        batch: Batch,
        posterior: Posterior,
        label: int,
        grid: int,
        seed: int,
    ) -> None:
        self.network, self.posterior, self.label, self.grid = network, posterior, label, grid
        self.generator = torch.Generator().manual_seed(seed)
        labels_N = batch.labels_B.cpu()
        own = (labels_N == label).nonzero()[:DONORS, 0]
        self.donors = batch.select(own.to(batch.labels_B.device))
        self.recipients = batch.select(self._drawn_evenly(labels_N).to(batch.labels_B.device))

    def _drawn_evenly(self, labels_N: Tensor) -> Tensor:
        """Returns rows of the other classes, which come up alike, [R]."""
        others = [
            (labels_N == c).nonzero()[:, 0]
            for c in torch.unique(labels_N).tolist()
            if c != self.label
        ]
        drawn = []
        for k in range(RECIPIENTS):
            rows = others[k % len(others)]
            drawn.append(rows[torch.randint(len(rows), (1,), generator=self.generator)])
        return torch.cat(drawn)

    def effects(self, part: Part) -> tuple[float, float]:
        """Returns what the donors lose without their part, and what the recipients gain by it."""
        without = self._exchanged(self.donors, self.recipients, part)
        with_part = self._exchanged(self.recipients, self.donors, part)
        lost = self._probability(self.donors) - self._probability(without)
        gained = self._probability(with_part) - self._probability(self.recipients)
        return lost, gained

    def _probability(self, batch: Batch) -> float:
        """Returns the mean probability of the class."""
        outputs = self.network.fuse(self.network.encode(batch), batch, batch.present_BM)
        return float(self.posterior(outputs)[:, self.label].mean())

    def _exchanged(self, batch: Batch, source: Batch, part: Part) -> Batch:
        """Returns the batch with the part of random rows of the source."""
        m = self.network.schema.modalities.index(part.modality)
        available = source.present_BM[:, m].nonzero()[:, 0].cpu()
        if not len(available):
            return batch
        picked_B = torch.randint(len(available), (len(batch),), generator=self.generator)
        from_B = available[picked_B].to(batch.present_BM.device)
        if part.patch >= 0:
            image = next(i for i in self.network.schema.images if i.name == part.modality)
            rows, columns = list(patch_slices(image, self.grid))[part.patch]
            changed_BCHW = batch.images[image.name].clone()
            other_BCHW = source.images[image.name][from_B]
            changed_BCHW[:, :, rows, columns] = other_BCHW[:, :, rows, columns]
            return batch.replace(images={**batch.images, image.name: changed_BCHW})
        table = next(t for t in self.network.schema.tables if t.name == part.modality)
        j = [column.name for column in table.columns].index(part.column)
        kind, k = (
            ("numbers", j) if j < len(table.numeric) else ("categories", j - len(table.numeric))
        )
        cells: dict[str, Tensor] = getattr(batch, kind)
        changed = cells[table.name].clone()
        changed[:, k] = getattr(source, kind)[table.name][from_B, k]
        return batch.replace(**{kind: {**cells, table.name: changed}})
