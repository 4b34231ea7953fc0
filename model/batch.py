"""A batch of records: images, tables, which modalities each record has, labels.

Legend: B batch, M modalities, C channels, N numeric, K categorical columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """Keys of the dicts are modality names; a modality that a record lacks holds any content there and False in present_BM."""

    images: dict[str, Tensor]  # uint8 (or float in 0..1) [B, C, H, W]
    numbers: dict[str, Tensor]  # float32 [B, N], NaN where missing
    categories: dict[str, Tensor]  # int64 [B, K], -1 missing, len(vocabulary) unseen
    present_BM: Tensor  # bool, columns in the schema's modality order
    labels_B: Tensor  # int64, -1 where unknown
    ranks_B: Tensor  # int64: rank of the record within its class by a stable hash of its id; rank % F is its cross-fitting fold
    dropped_BM: Tensor | None = (
        None  # bool: present modalities hidden from the fusion by modality dropout; encoders and auxiliary heads still see them
    )
    partners_B: Tensor | None = None  # int64: label of the record blended in by mixup or Remix
    shares_B: Tensor | None = None  # float32: share of labels_B against partners_B
    start: int = (
        0  # position of the first record in the global batch of which this is one worker's share
    )
    total: int = 0  # records of that global batch; 0: this batch is the whole of it
    complete_M: tuple[
        bool, ...
    ] = ()  # modalities that every record has, where that is known without asking the device

    def __len__(self) -> int:
        return int(self.labels_B.shape[0])

    def apply(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor passed through `change`."""
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
            start=self.start,
            total=self.total,
            complete_M=self.complete_M,
        )

    def to(self, device: torch.device | str) -> Batch:
        complete_M = (
            tuple(self.present_BM.all(0).tolist())
            if self.present_BM.device.type == "cpu"
            else self.complete_M
        )
        return self.apply(lambda t: t.to(device, non_blocking=True)).replace(complete_M=complete_M)

    def select(self, index: Tensor | slice) -> Batch:
        """The records at `index` (a slice, a bool mask or row numbers)."""
        return self.apply(lambda t: t[index])

    def replace(self, **changes: object) -> Batch:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
