"""The experts on the fused vector, all computed together.

Legend: B batch, Z fused features, E experts, I inputs, O outputs, H hidden units, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import ExpertsConfig, LossConfig, classifier_kind


class ExpertLinear(nn.Module):
    """E independent linear maps in one batched product."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight_EIO = nn.Parameter(
            torch.empty(experts, inputs, outputs).uniform_(-bound, bound)
        )
        self.bias_EO = nn.Parameter(torch.zeros(experts, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs [B, E, O] of inputs [B, I], common to all experts, or [B, E, I]."""
        product = torch.einsum("bi,eio->beo" if x.ndim == 2 else "bei,eio->beo", x, self.weight_EIO)
        return product + self.bias_EO


class ExpertNorm(nn.Module):
    """Layer normalisation in which each expert has a scale and a shift of its own."""

    def __init__(self, experts: int, size: int) -> None:
        super().__init__()
        self.scale_EH = nn.Parameter(torch.ones(experts, size))
        self.shift_EH = nn.Parameter(torch.zeros(experts, size))

    def forward(self, x_BEH: Tensor) -> Tensor:
        return nn.functional.layer_norm(x_BEH, x_BEH.shape[-1:]) * self.scale_EH + self.shift_EH


def simplex(size: int, classes: int) -> Tensor:
    """Returns unit directions of the classes, as far apart as possible, [H, C].

    They are a simplex equiangular tight frame where size >= classes, else random directions.
    """
    generator = torch.Generator().manual_seed(0)
    random_HC = torch.randn(size, classes, generator=generator)
    if size >= classes:
        basis_HC = torch.linalg.qr(random_HC).Q
        random_HC = basis_HC @ (torch.eye(classes) - 1 / classes)
    return nn.functional.normalize(random_HC, dim=0)


class Classifier(nn.Module):
    """One classifier for each expert.

    linear: weights and bias. cosine: scale times the cosine. etf: the cosine with fixed directions.
    """

    weight_EHC: Tensor
    bias_EC: Tensor

    def __init__(self, experts: int, hidden: int, classes: int, kind: str, scale: float) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        if kind == "etf":
            self.register_buffer(
                "weight_EHC", simplex(hidden, classes).expand(experts, -1, -1).clone()
            )
        else:
            self.weight_EHC = nn.Parameter(
                torch.empty(experts, hidden, classes).uniform_(-(hidden**-0.5), hidden**-0.5)
            )
        if kind == "linear":
            self.bias_EC = nn.Parameter(torch.zeros(experts, classes))

    def forward(self, hidden_BEH: Tensor) -> Tensor:
        """Returns the logits, [B, E, C]."""
        if self.kind == "linear":
            return torch.einsum("beh,ehc->bec", hidden_BEH, self.weight_EHC) + self.bias_EC
        weight_EHC = nn.functional.normalize(self.weight_EHC, dim=1)
        return self.scale * torch.einsum(
            "beh,ehc->bec",
            nn.functional.normalize(hidden_BEH, dim=-1),
            weight_EHC.to(hidden_BEH.dtype),
        )


class Experts(nn.Module):
    """Experts that each have a projection of z, a residual block and a classifier of their own."""

    def __init__(self, inputs: int, classes: int, config: ExpertsConfig, loss: LossConfig) -> None:
        super().__init__()
        count, hidden = config.count, config.hidden
        self.project = ExpertLinear(count, inputs, hidden)
        self.norm = ExpertNorm(count, hidden)
        self.widen = ExpertLinear(count, hidden, hidden)
        self.narrow = ExpertLinear(count, hidden, hidden)
        # The residual block starts as the identity: an expert starts as a linear classifier.
        nn.init.zeros_(self.narrow.weight_EIO)
        self.classifier = Classifier(
            count, hidden, classes, classifier_kind(config, loss), loss.scale
        )

    def forward(self, fused_BZ: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the inputs of the classifiers, [B, E, H], and the logits, [B, E, C]."""
        x_BEH = self.project(fused_BZ)
        x_BEH = x_BEH + self.narrow(torch.relu(self.widen(self.norm(x_BEH))))
        return x_BEH, self.classifier(x_BEH)
