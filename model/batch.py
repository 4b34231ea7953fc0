"""A batch of records: images, tables, the modalities that each record has, and labels.

Legend: B batch, M modalities, C channels, N numeric columns, K categorical columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.copying import put


@dataclass
class Batch:
    """Records as tensors; the keys of the dictionaries are names of modalities.

    Where present_BM is False the content of the modality is arbitrary and never used.
    """

    images: dict[str, Tensor]  # uint8, or float in 0..1: [B, C, H, W]
    numbers: dict[str, Tensor]  # float32 [B, N], NaN where missing
    categories: dict[str, Tensor]  # int64 [B, K], -1 where missing, len(vocabulary) where unseen
    present_BM: Tensor  # bool; columns in the schema's order of modalities
    labels_B: Tensor  # int64, -1 where unknown
    # int64: rank of the record within its class by a stable hash of its id. The remainder by F is
    # its fold in the cross-fitting of the auxiliary heads.
    ranks_B: Tensor
    # bool: present modalities that modality dropout hides from the fusion; the encoders and the
    # auxiliary heads still use them.
    dropped_BM: Tensor | None = None
    partners_B: Tensor | None = None  # int64: label of the record blended in by mixup or Remix
    shares_B: Tensor | None = None  # float32: share of labels_B in the loss; partners_B has 1 - it
    trust_B: Tensor | None = None  # float32: how much the row counts by loss.trust_labels; None: 1
    partners_trust_B: Tensor | None = None  # float32: the same of the record blended in
    start: int = 0  # position of the first record in the global batch of all workers
    total: int = 0  # records of that global batch; 0: this batch is the whole of it
    # Float [B, V, K]: what the frozen part of an image encoder gives for V views of the image, in
    # place of it; in training there is one view.
    frozen: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    frozen_spoilt: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # of spoilt images
    frozen_degraded: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # of degraded ones
    # What the encoders of a network give, in place of the images: float [B, M, D]; cells stay, from
    # which the plausibility of a row is judged. For rows that one network sees several times.
    embeddings_BMD: Tensor | None = None
    # bool: modalities that are spoilt on purpose, which the auxiliary heads do not learn from.
    spoilt_BM: Tensor | None = None
    degraded_BM: Tensor | None = None  # bool: images whose class was made harder to see
    # Float [B, C]: a teacher's log probabilities at the class prior of the training rows.
    teacher_BC: Tensor | None = None
    # Table cells that were drawn independently of each other: what the plausibility of a row is
    # learned against, in training.
    unrelated_numbers: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    unrelated_categories: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    # Whether every record has the modality, for each modality; empty: unknown. To read it from a
    # tensor on the device would wait for all work there.
    complete_M: tuple[bool, ...] = ()
    # Int64: the positions of the records that have the modality, for each modality that not every
    # record has; empty: unknown.
    rows_M: tuple[Tensor | None, ...] = ()

    def __len__(self) -> int:
        return int(self.labels_B.shape[0])

    def apply(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Returns the batch with every tensor replaced by `change` of it, without rows_M."""
        return Batch(
            images={k: change(v) for k, v in self.images.items()},
            numbers={k: change(v) for k, v in self.numbers.items()},
            categories={k: change(v) for k, v in self.categories.items()},
            present_BM=change(self.present_BM),
            labels_B=change(self.labels_B),
            ranks_B=change(self.ranks_B),
            dropped_BM=None if self.dropped_BM is None else change(self.dropped_BM),
            partners_B=None if self.partners_B is None else change(self.partners_B),
            shares_B=None if self.shares_B is None else change(self.shares_B),
            trust_B=None if self.trust_B is None else change(self.trust_B),
            partners_trust_B=(
                None if self.partners_trust_B is None else change(self.partners_trust_B)
            ),
            start=self.start,
            total=self.total,
            frozen={k: change(v) for k, v in self.frozen.items()},
            frozen_spoilt={k: change(v) for k, v in self.frozen_spoilt.items()},
            frozen_degraded={k: change(v) for k, v in self.frozen_degraded.items()},
            embeddings_BMD=None if self.embeddings_BMD is None else change(self.embeddings_BMD),
            spoilt_BM=None if self.spoilt_BM is None else change(self.spoilt_BM),
            degraded_BM=None if self.degraded_BM is None else change(self.degraded_BM),
            teacher_BC=None if self.teacher_BC is None else change(self.teacher_BC),
            unrelated_numbers={k: change(v) for k, v in self.unrelated_numbers.items()},
            unrelated_categories={k: change(v) for k, v in self.unrelated_categories.items()},
            complete_M=self.complete_M,
        )

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on the device; on its way it finds complete_M and rows_M."""
        complete_M, rows_M = self.complete_M, self.rows_M
        if self.present_BM.device.type == "cpu":
            complete_M = tuple(self.present_BM.all(0).tolist())
            rows_M = tuple(
                None if complete else present_B.nonzero()[:, 0]
                for complete, present_B in zip(complete_M, self.present_BM.unbind(1))
            )
        target = torch.device(device)
        rows_M = tuple(None if rows_R is None else put(rows_R, target) for rows_R in rows_M)
        moved = self.apply(lambda t: t.to(device, non_blocking=True))
        return moved.replace(complete_M=complete_M, rows_M=rows_M)

    @property
    def intact_BM(self) -> Tensor:
        """Which modalities a record has that are not spoilt on purpose."""
        return self.present_BM if self.spoilt_BM is None else self.present_BM & ~self.spoilt_BM

    def select(self, index: Tensor | slice) -> Batch:
        """Returns the records at `index`: a slice, a bool mask or row numbers."""
        return self.apply(lambda t: t[index])

    def replace(self, **changes: object) -> Batch:
        """Returns a copy with other values of the named fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # checked at run time


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Returns the records of several batches of one source as one batch, for evaluation."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def joined(kind: str) -> dict[str, Tensor]:
        parts = [getattr(batch, kind) for batch in batches]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    return Batch(
        images=joined("images"),
        numbers=joined("numbers"),
        categories=joined("categories"),
        present_BM=torch.cat([batch.present_BM for batch in batches]),
        labels_B=torch.cat([batch.labels_B for batch in batches]),
        ranks_B=torch.cat([batch.ranks_B for batch in batches]),
        frozen=joined("frozen"),
    )
