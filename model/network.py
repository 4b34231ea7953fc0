"""The whole network: encoders, confidences, fusion, experts.

Legend: B batch, M modalities, D embedding, F folds, E experts, C classes, Z = M * D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.config import WITHOUT_EXPERTS, ModelConfig, check
from model.encoders.image import ImageEncoder
from model.encoders.table import TableEncoder
from model.fusion import weights as fusion
from model.fusion.confidence import (
    AuxiliaryHeads,
    ConfidenceHeads,
    RunningConfidence,
    held_out_logits,
)
from model.fusion.novelty import NoveltyGate
from model.learning import losses
from model.learning.experts import Experts
from model.outputs import Outputs
from model.schema import Schema

Reduce = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The sum over one worker."""
    return tensor


class Network(nn.Module):
    """Built from a schema; deterministic given a batch (all random augmentation is done to the batch before it comes here)."""

    counts_C: Tensor

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        super().__init__()
        check(config)
        if len(schema.classes) < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes; got {', '.join(schema.classes) or 'none'}"
            )
        if not schema.modalities:
            raise ValueError("a data set needs at least one image or table modality; got none")
        self.schema, self.config = schema, config
        self.sum_over_workers: Reduce = (
            alone  # sums a tensor over workers; the worker glue puts its own here
        )
        modalities, classes, dim = len(schema.modalities), len(schema.classes), config.dim
        self.register_buffer(
            "counts_C", torch.tensor(schema.counts or [1] * classes, dtype=torch.float32)
        )
        images = [ImageEncoder(m, config.image, dim) for m in schema.images]
        tables = [TableEncoder(m, config.table, dim) for m in schema.tables]
        self.encoders = nn.ModuleList([*images, *tables])
        self.auxiliary = AuxiliaryHeads(modalities, config.fusion.folds, dim, classes)
        self.confidence = ConfidenceHeads(modalities, dim)
        self.running = RunningConfidence(modalities, classes, config.fusion)
        has_gate = config.fusion.kind == "confidence" and config.fusion.reject_unfamiliar
        self.novelty_gate: NoveltyGate | None = (
            NoveltyGate(modalities, dim) if has_gate and modalities > 1 else None
        )
        if config.fusion.kind == "gate":
            self.gate = fusion.Gate(modalities, dim)
        self.concatenate = fusion.Concatenate(modalities, dim, config.fusion)
        self.experts = Experts(modalities * dim, classes, config.experts, config.loss)
        if (
            config.fusion.kind in WITHOUT_EXPERTS
        ):  # these combine the auxiliary heads; the fused vector and the experts stay idle
            self.concatenate.requires_grad_(False)
            self.experts.requires_grad_(False)

    @property
    def has_novelty_limits(self) -> bool:
        """Whether a modality that is unlike training would be noticed."""
        return self.novelty_gate is not None and bool((self.novelty_gate.limit_M > 0).any())

    def accept_all_modalities(self) -> None:
        """Goes by every modality, however unlike training it is."""
        if self.novelty_gate is not None:
            self.novelty_gate.limit_M.zero_()

    def encode(self, batch: Batch) -> Tensor:
        """[B, M, D]."""
        embeddings = []
        for m, encoder in enumerate(self.encoders):
            name, present_B = self.schema.modalities[m], batch.present_BM[:, m]
            if name in batch.images:
                embeddings.append(
                    encoder(
                        batch.images[name],
                        present_B,
                        whole=bool(batch.complete_M) and batch.complete_M[m],
                    )
                )
            else:
                embeddings.append(encoder(batch.numbers[name], batch.categories[name], present_B))
        return torch.stack(embeddings, 1)

    def look(self, embeddings_BMD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, M] the modalities to go by, and those unlike anything in training; where no other is left, the record goes by these too."""
        visible_BM = (
            batch.present_BM if batch.dropped_BM is None else batch.present_BM & ~batch.dropped_BM
        )
        if self.training or self.novelty_gate is None:
            return visible_BM, torch.zeros_like(visible_BM)
        unfamiliar_BM = self.novelty_gate(embeddings_BMD, visible_BM)
        familiar_BM = visible_BM & ~unfamiliar_BM
        return torch.where(familiar_BM.any(1, keepdim=True), familiar_BM, visible_BM), unfamiliar_BM

    def forward(self, batch: Batch) -> Outputs:
        embeddings_BMD = self.encode(batch)
        visible_BM, unfamiliar_BM = self.look(embeddings_BMD, batch)
        auxiliary_BMFC = self.auxiliary(embeddings_BMD)
        confidence_BM = self.confidence(embeddings_BMD.detach()).float()
        alone_BMC = (
            held_out_logits(auxiliary_BMFC, batch.ranks_B)
            if self.training
            else auxiliary_BMFC.mean(2)
        )
        posterior_BMC = alone_BMC.detach().float().softmax(-1)
        told_BM = (
            visible_BM if batch.dropped_BM is None else batch.present_BM
        )  # auxiliary heads see what is dropped
        shrunk_BM = self.running.shrink(
            confidence_BM.detach(), posterior_BMC, told_BM, self.counts_C
        )
        weights_BM = self.weigh(embeddings_BMD, shrunk_BM, visible_BM)
        fused_BZ = self.concatenate(embeddings_BMD, weights_BM, visible_BM)
        hidden_BEH, logits_BEC = self.experts(fused_BZ)
        if self.config.fusion.kind == "late":
            logits_BEC = fusion.late_logits(alone_BMC, weights_BM)[:, None]
        if self.config.fusion.kind == "evidential":
            combined_BC, weights_BM = fusion.evidential_logits(auxiliary_BMFC.mean(2), visible_BM)
            logits_BEC = combined_BC[:, None]
        return Outputs(
            logits_BEC,
            hidden_BEH,
            fused_BZ,
            embeddings_BMD,
            auxiliary_BMFC,
            confidence_BM,
            shrunk_BM,
            weights_BM,
            present_BM=batch.present_BM,
            unfamiliar_BM=unfamiliar_BM,
        )

    def weigh(self, embeddings_BMD: Tensor, shrunk_BM: Tensor, visible_BM: Tensor) -> Tensor:
        """[B, M] fusion weights by fusion.kind."""
        if self.config.fusion.kind == "gate":
            return self.gate(embeddings_BMD, visible_BM)  # type: ignore[no-any-return]
        if self.config.fusion.kind == "uniform":
            return fusion.confidence_weights(torch.zeros_like(shrunk_BM), visible_BM, 1.0)
        scores_BM = fusion.fusion_scores(
            shrunk_BM, visible_BM, self.config.fusion, len(self.schema.classes)
        )
        return fusion.confidence_weights(scores_BM, visible_BM, self.config.fusion.temperature)

    @torch.no_grad()
    def update_running_confidence(self, outputs: Outputs, batch: Batch) -> None:
        """Updates the running confidence means after a training step."""
        true_BM = losses.true_class_probability(outputs, batch)
        self.running.update(true_BM, outputs.present_BM, batch.labels_B, self.sum_over_workers)
