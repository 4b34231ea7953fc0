"""Small batches and network outputs for the tests of the losses, and cross-entropy in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from model.batch import Batch
from model.config import LossConfig, ModelConfig
from model.fusion.mixture import subsets
from model.learning import losses
from model.outputs import Outputs, SubsetAnswers

COUNTS = torch.tensor([100.0, 10.0, 1.0])
PRIOR = np.array([100, 10, 1]) / 111
LOGITS = np.array([[1.0, 0.5, -1.0], [0.2, -0.3, 2.0], [0.0, 1.5, 0.7], [-0.5, 0.1, 0.4]])
LABELS = [0, 2, 1, 2]


def make_batch(
    labels: list[int], modalities: int = 1, present: Tensor | None = None, **more: object
) -> Batch:
    rows = len(labels)
    present_BM = torch.ones(rows, modalities, dtype=torch.bool) if present is None else present
    return Batch(
        images={},
        numbers={},
        categories={},
        present_BM=present_BM,
        labels_B=torch.tensor(labels, dtype=torch.int64),
        ranks_B=torch.arange(rows),
    ).replace(**more)


def make_outputs(
    logits_BEC: Tensor,
    present_BM: Tensor,
    hidden_BEH: Tensor | None = None,
    auxiliary_BMFC: Tensor | None = None,
    confidence_BM: Tensor | None = None,
) -> Outputs:
    rows, experts, classes = logits_BEC.shape
    modalities = present_BM.shape[1]
    nothing = torch.zeros(rows, modalities)
    return Outputs(
        logits_BEC=logits_BEC,
        hidden_BEH=torch.ones(rows, experts, 4) if hidden_BEH is None else hidden_BEH,
        fused_BZ=torch.zeros(rows, 2),
        embeddings_BMD=torch.zeros(rows, modalities, 2),
        auxiliary_BMFC=torch.zeros(rows, modalities, 2, classes)
        if auxiliary_BMFC is None
        else auxiliary_BMFC,
        confidence_BM=nothing if confidence_BM is None else confidence_BM,
        shrunk_BM=nothing,
        weights_BM=nothing,
        subsets=None,
        present_BM=present_BM,
        unfamiliar_BM=torch.zeros_like(present_BM),
    )


def random_case(
    seed: int, rows: int = 12, experts: int = 3, folds: int = 3, classes: int = 3
) -> tuple[Outputs, Batch]:
    g = torch.Generator().manual_seed(seed)
    batch = make_batch(
        torch.randint(0, classes, (rows,), generator=g).tolist(),
        present=torch.rand(rows, 2, generator=g) > 0.3,
    )
    batch.ranks_B = torch.randint(0, 50, (rows,), generator=g)
    leaf = {"generator": g, "requires_grad": True}
    outputs = make_outputs(
        torch.randn(rows, experts, classes, **leaf),
        batch.present_BM,
        torch.randn(rows, experts, 4, generator=g),
        torch.randn(rows, 2, folds, classes, **leaf),
        torch.rand(rows, 2, **leaf),
    )
    outputs.subsets = SubsetAnswers(
        torch.randn(rows, 3, experts, classes, **leaf),
        torch.randn(rows, 3, experts, 4, generator=g),
        torch.randn(rows, 2, **leaf),
        torch.randn(rows, 2, generator=g),
        subsets(2).expand(rows, -1, -1),
        torch.randn(rows, 1, **leaf),
        torch.randn(rows, 1, **leaf),
    )
    return outputs, batch


def change_outputs(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    """The outputs with `change` applied to every tensor; the first axis is that of the records."""
    assert outputs.subsets is not None
    plain = {name: change(v) for name, v in vars(outputs).items() if name != "subsets"}
    answers = {name: change(v) for name, v in vars(outputs.subsets).items() if v is not None}
    return Outputs(**plain, subsets=SubsetAnswers(**answers))


def classification(
    config: LossConfig,
    logits: np.ndarray = LOGITS,
    labels: list[int] = LABELS,
    progress: float = 0.0,
    **more: object,
) -> float:
    batch = make_batch(labels, **more)
    outputs = make_outputs(torch.tensor(logits, dtype=torch.float64)[:, None], batch.present_BM)
    return float(
        losses.loss_terms(outputs, batch, COUNTS, ModelConfig(loss=config), progress)[
            "classification"
        ]
    )


def numpy_ce(logits: np.ndarray, labels: list[int] = LABELS) -> np.ndarray:
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
