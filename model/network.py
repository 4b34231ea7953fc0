"""The whole network: encoders, auxiliary heads, confidences, fusion, experts.

Legend: B batch, M modalities, D embedding, F folds, E experts, H hidden units, C classes,
T tables, Z = M * D fused features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.classifier import Classifier
from model.config import WITH_NOVELTY_GATE, WITHOUT_EXPERTS, ModelConfig
from model.declarations import check
from model.encoders.image import ImageEncoder
from model.encoders.table import TableEncoder
from model.fusion import mixture, weights
from model.fusion.confidence import (
    AuxiliaryHeads,
    ConfidenceHeads,
    RunningConfidence,
    held_out_logits,
)
from model.fusion.novelty import NoveltyGate
from model.fusion.plausibility import Plausibility
from model.learning import losses
from model.learning.experts import Experts
from model.outputs import Fused, Outputs
from model.schema import Schema


def sum_of_one_worker(tensor: Tensor) -> Tensor:
    """Returns the tensor itself: the sum over workers where there is only one."""
    return tensor


class Network(Classifier):
    """A classifier of records that consist of images and tables.

    It is built from the schema of the data. There is no randomness inside: all random augmentation
    changes the batch beforehand. In training mode the network uses batch statistics and held-out
    heads, and does not reject unfamiliar modalities.

    pretrained: load the weights of a pretrained image encoder; false where saved weights of the
        whole network will be loaded.
    """

    counts_C: Tensor

    def __init__(self, schema: Schema, config: ModelConfig, *, pretrained: bool = True) -> None:
        super().__init__()
        check(config)
        if len(schema.classes) < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes; got {', '.join(schema.classes) or 'none'}"
            )
        if not schema.modalities:
            raise ValueError("a data set needs at least one image or table modality; got none")
        self.schema, self.config = schema, config
        # Distributed training replaces it by the sum over all workers.
        self.sum_over_workers: Callable[[Tensor], Tensor] = sum_of_one_worker
        modalities = len(schema.modalities)
        classes = len(schema.classes)
        dim = config.dim
        counts = schema.counts or [1] * classes
        self.register_buffer("counts_C", torch.tensor(counts, dtype=torch.float32))
        images = [
            ImageEncoder(m, config.image, dim, pretrained, config.mirror) for m in schema.images
        ]
        tables = [TableEncoder(m, config.table, dim) for m in schema.tables]
        self.encoders = nn.ModuleList([*images, *tables])
        self.auxiliary = AuxiliaryHeads(modalities, config.fusion.folds, dim, classes)
        self.confidence = ConfidenceHeads(modalities, dim, joint=config.fusion.joint_confidence)
        self.running = RunningConfidence(modalities, classes, config.fusion)
        kind = config.fusion.kind
        has_novelty_gate = kind in WITH_NOVELTY_GATE and config.fusion.reject_unfamiliar
        self.novelty_gate: NoveltyGate | None = (
            NoveltyGate(modalities, dim) if has_novelty_gate and modalities > 1 else None
        )
        self.gate: weights.Gate | None = weights.Gate(modalities, dim) if kind == "gate" else None
        self.mixture: mixture.SubsetMixture | None = (
            mixture.SubsetMixture(modalities, dim, config.fusion) if kind == "mixture" else None
        )
        uses_plausibility = self.mixture is not None and modalities > 1
        # In the order of schema.tables, whose names may hold what names of modules may not.
        self.plausibility = nn.ModuleList(
            Plausibility(table) for table in schema.tables if uses_plausibility
        )
        self.concatenate = weights.Concatenate(modalities, dim, config.fusion)
        self.experts = Experts(modalities * dim, classes, config.experts, config.loss)
        if kind in WITHOUT_EXPERTS:  # their logits come from the auxiliary heads
            self.concatenate.requires_grad_(False)
            self.experts.requires_grad_(False)

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def expert_count(self) -> int:
        """How many experts answer; a fusion without experts gives one row of logits."""
        return 1 if self.config.fusion.kind in WITHOUT_EXPERTS else self.config.experts.count

    @property
    def made_of(self) -> str:
        experts = "1 expert" if self.expert_count == 1 else f"{self.expert_count} experts"
        return f"{self.config.fusion.kind} fusion, {experts}"

    @property
    def learns_confidence(self) -> bool:
        return self.config.fusion.confidence_weight > 0

    @property
    def has_novelty_limits(self) -> bool:
        return self.novelty_gate is not None and bool((self.novelty_gate.limit_M > 0).any())

    def accept_all_modalities(self) -> None:
        if self.novelty_gate is not None:
            self.novelty_gate.limit_M.zero_()

    def fuse(
        self, embeddings_BMD: Tensor, batch: Batch, visible_BM: Tensor | None = None
    ) -> Outputs:
        if visible_BM is None:
            visible_BM, unfamiliar_BM = self.choose_modalities(embeddings_BMD, batch)
        else:
            unfamiliar_BM = torch.zeros_like(visible_BM)
        auxiliary_BMFC = self.auxiliary(embeddings_BMD)
        confidence_BM = self.confidence(embeddings_BMD.detach(), visible_BM).float()
        alone_BMC = (
            held_out_logits(auxiliary_BMFC, batch.ranks_B)
            if self.training
            else auxiliary_BMFC.mean(2)
        )
        shrunk_BM = self.shrink(confidence_BM, alone_BMC, visible_BM, batch)
        if self.mixture is not None:
            cells = self.judge_cells(batch)
            facts_BMI = mixture.modality_facts(
                alone_BMC, confidence_BM, cells.plausible_BT, visible_BM
            )
            scores_BM = weights.fusion_scores(
                shrunk_BM, visible_BM, self.config.fusion, len(self.schema.classes)
            )
            fused = self.mixture(
                embeddings_BMD,
                facts_BMI,
                cells,
                scores_BM,
                visible_BM,
                self.concatenate,
                self.experts,
            )
        else:
            fused = self.classify(embeddings_BMD, shrunk_BM, visible_BM)
        if self.config.fusion.kind == "late":
            fused.logits_BEC = weights.late_logits(alone_BMC, fused.weights_BM)[:, None]
        if self.config.fusion.kind == "evidential":
            combined_BC, fused.weights_BM = weights.evidential_logits(
                auxiliary_BMFC.mean(2), visible_BM
            )
            fused.logits_BEC = combined_BC[:, None]
        return Outputs(
            **vars(fused),
            embeddings_BMD=embeddings_BMD,
            auxiliary_BMFC=auxiliary_BMFC,
            confidence_BM=confidence_BM,
            shrunk_BM=shrunk_BM,
            present_BM=batch.present_BM,
            unfamiliar_BM=unfamiliar_BM,
        )

    def judge_cells(self, batch: Batch) -> mixture.Cells:
        """Returns the log-odds that the cells of each table belong together."""

        def judge(numbers: dict[str, Tensor], categories: dict[str, Tensor]) -> Tensor:
            judged = [
                plausibility(numbers[table.name], categories[table.name])
                for table, plausibility in zip(self.schema.tables, self.plausibility)
            ]
            # Written without the number of rows, which an export must not fix.
            return torch.stack(judged, 1) if judged else batch.present_BM[:, :0].float()

        has_unrelated = bool(batch.unrelated_numbers)
        return mixture.Cells(
            judge(batch.numbers, batch.categories),
            judge(batch.unrelated_numbers, batch.unrelated_categories) if has_unrelated else None,
        )

    def classify(self, embeddings_BMD: Tensor, shrunk_BM: Tensor, visible_BM: Tensor) -> Fused:
        """Returns the experts' answer on the weighted and concatenated embeddings."""
        weights_BM = self.weigh(embeddings_BMD, shrunk_BM, visible_BM)
        fused_BZ = self.concatenate(embeddings_BMD, weights_BM, visible_BM)
        hidden_BEH, logits_BEC = self.experts(fused_BZ)
        return Fused(logits_BEC, hidden_BEH, fused_BZ, weights_BM, subsets=None)

    @property
    def pretrained_images(self) -> list[str]:
        """Returns the names of the image modalities whose encoder is pretrained."""
        pairs = zip(self.schema.images, self.encoders)  # images come before the tables
        return [
            image.name
            for image, encoder in pairs
            if isinstance(encoder, ImageEncoder) and encoder.body.is_pretrained
        ]

    def frozen_encoder(self, image: str) -> ImageEncoder | None:
        encoder = self.encoders[self.schema.modalities.index(image)]
        assert isinstance(encoder, ImageEncoder)
        return encoder if encoder.body.has_frozen_part else None

    def encode(self, batch: Batch) -> Tensor:
        if batch.embeddings_BMD is not None:
            return batch.embeddings_BMD
        embeddings = []
        for m, encoder in enumerate(self.encoders):
            name, present_B = self.schema.modalities[m], batch.present_BM[:, m]
            if name in batch.frozen:
                assert isinstance(encoder, ImageEncoder)
                embeddings.append(encoder.forward_frozen(batch.frozen[name], present_B))
            elif name in batch.images:
                all_present = bool(batch.complete_M) and batch.complete_M[m]
                rows_R = batch.rows_M[m] if batch.rows_M else None
                embeddings.append(encoder(batch.images[name], present_B, all_present, rows_R))
            else:
                embeddings.append(encoder(batch.numbers[name], batch.categories[name], present_B))
        return torch.stack(embeddings, 1)

    def encode_modality(self, m: int, content: Sequence[Tensor], present_R: Tensor) -> Tensor:
        embeddings_RD: Tensor = self.encoders[m](*content, present_R)
        return embeddings_RD

    def choose_modalities(self, embeddings_BMD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns which modalities the fusion uses, and which are unlike the training rows: [B, M].

        An unfamiliar modality is not used, unless the record has no other.
        """
        visible_BM = batch.present_BM
        if batch.dropped_BM is not None:
            visible_BM = visible_BM & ~batch.dropped_BM
        if self.training or self.novelty_gate is None:
            return visible_BM, torch.zeros_like(visible_BM)
        unfamiliar_BM = self.novelty_gate(embeddings_BMD, visible_BM)
        familiar_BM = visible_BM & ~unfamiliar_BM
        # Where nothing is familiar, all of it is used (ONNX has no `where` of truth values).
        nothing_B1 = ~familiar_BM.any(1, keepdim=True)
        return familiar_BM | (visible_BM & nothing_B1), unfamiliar_BM

    def relative_distance(self, outputs: Outputs) -> Tensor:
        if self.novelty_gate is None:
            return torch.full_like(outputs.weights_BM, torch.nan)
        return self.novelty_gate.relative_distance(outputs.embeddings_BMD, outputs.present_BM)

    def shrink(
        self, confidence_BM: Tensor, alone_BMC: Tensor, visible_BM: Tensor, batch: Batch
    ) -> Tensor:
        """Returns the confidences after shrinkage, [B, M]; alone_BMC: each modality's own logits.

        Modality dropout hides a modality from the fusion but not from the auxiliary heads, whose
        posteriors decide how much is shrunk.
        """
        posterior_BMC = alone_BMC.detach().float().softmax(-1)
        used_BM = visible_BM if batch.dropped_BM is None else batch.present_BM
        return self.running.shrink(confidence_BM.detach(), posterior_BMC, used_BM, self.counts_C)

    def weigh(self, embeddings_BMD: Tensor, shrunk_BM: Tensor, visible_BM: Tensor) -> Tensor:
        """Returns the fusion weights by fusion.kind, [B, M]."""
        config = self.config.fusion
        if self.gate is not None:
            weights_BM: Tensor = self.gate(embeddings_BMD, visible_BM)
            return weights_BM
        if config.kind == "uniform":
            return weights.confidence_weights(torch.zeros_like(shrunk_BM), visible_BM, 1.0)
        scores_BM = weights.fusion_scores(shrunk_BM, visible_BM, config, len(self.schema.classes))
        return weights.confidence_weights(scores_BM, visible_BM, config.temperature)

    @torch.no_grad()
    def update_running_confidence(self, outputs: Outputs, batch: Batch) -> None:
        """Updates the running means of the true-class probability, after a training step."""
        true_BM = losses.true_class_probability(outputs, batch)
        self.running.update(true_BM, batch.intact_BM, batch.labels_B, self.sum_over_workers)
