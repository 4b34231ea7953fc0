"""The network with all that is applied after it, as one module on plain tensors, and its inputs.

Legend: B rows, M modalities, E experts, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distributed.training.checkpoint import Checkpoint
from distributed.training.priors import mean_class_prior
from model.batch import Batch
from model.learning.posthoc import move_prior
from model.schema import Schema


class ExportedModel(nn.Module):
    """The network with all that is applied after it, on plain tensors in a fixed order."""

    temperatures_E: Tensor
    shift_C: Tensor

    def __init__(self, checkpoint: Checkpoint, prior_C: Tensor | None) -> None:
        super().__init__()
        self.network = checkpoint.network.eval()
        calibration = checkpoint.calibration
        self.register_buffer("temperatures_E", calibration.temperatures_E * calibration.temperature)
        trained_C = mean_class_prior(checkpoint)
        shift_C = torch.zeros_like(trained_C)
        if prior_C is not None:
            zero_1C = torch.zeros(1, len(trained_C))
            shift_C = move_prior(zero_1C, trained_C, prior_C)[0]
        self.register_buffer("shift_C", shift_C)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns probabilities [B, C], fusion weights [B, M] and unfamiliar modalities [B, M].

        tensors: those of `input_tensors`, in its order.
        """
        outputs = self.network(batch_of(self.network.schema, tensors))
        logits_BC = (outputs.logits_BEC / self.temperatures_E[:, None]).mean(1) + self.shift_C
        return logits_BC.softmax(1), outputs.weights_BM, outputs.unfamiliar_BM


def input_names(schema: Schema) -> list[str]:
    """Returns the names of the inputs, in their order."""
    return [
        *(f"image_{image.name}" for image in schema.images),
        *(f"numbers_{table.name}" for table in schema.tables),
        *(f"categories_{table.name}" for table in schema.tables),
        "present",
    ]


def input_tensors(schema: Schema, rows: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Returns random inputs; some rows lack cells, some a whole modality."""
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.randint(
            0, 256, (rows, i.channels, i.height, i.width), dtype=torch.uint8, generator=generator
        )
        for i in schema.images
    ]
    numbers, categories = [], []
    for table in schema.tables:
        scale = torch.tensor([c.divisor for c in table.numeric])
        mean = torch.tensor([c.mean for c in table.numeric])
        cells = torch.randn(rows, len(table.numeric), generator=generator) * scale + mean
        cells[torch.rand(cells.shape, generator=generator) < 0.2] = torch.nan
        numbers.append(cells)
        ids = torch.rand(rows, len(table.categorical), generator=generator)
        sizes = torch.tensor([len(c.vocabulary) + 2 for c in table.categorical])
        categories.append((ids * sizes).long() - 1)  # -1 is missing, the last one unseen
    present = torch.ones(rows, len(schema.modalities), dtype=torch.bool)
    for m in range(len(schema.modalities)):
        present[m % rows, m] = len(schema.modalities) == 1
    return (*images, *numbers, *categories, present)


def batch_of(schema: Schema, tensors: tuple[Tensor, ...]) -> Batch:
    """Returns the inputs, in the order of `input_names`, as a batch without labels."""
    present_BM = tensors[-1]
    given = iter(tensors)
    unlabelled_B = torch.full_like(present_BM[:, 0], -1, dtype=torch.long)
    return Batch(
        images={image.name: next(given) for image in schema.images},
        numbers={table.name: next(given) for table in schema.tables},
        categories={table.name: next(given) for table in schema.tables},
        present_BM=present_BM,
        labels_B=unlabelled_B,
        ranks_B=unlabelled_B + 1,
    )
