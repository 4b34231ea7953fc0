"""Several trained networks that answer as one.

The calibrated answer of each member stands as that of an expert, so that calibration, aggregation,
decisions, prediction sets and explanations work as for a single network. A member may see some of
the modalities only: it then counts in a record as far as the members that see all of them trust
these modalities there. What the frozen part of an image encoder gives is computed once for all
members that share it.

Legend: B batch, M modalities, D embedding of all members, K members, C classes, R records.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.classifier import Classifier
from model.encoders.image import ImageEncoder
from model.learning.losses import mean_over_folds
from model.member import Member, by_trust, log_posterior
from model.outputs import Outputs
from model.schema import Schema


class Ensemble(Classifier):
    """Networks of one data set whose calibrated answers are averaged.

    The answers are log probabilities at one class prior; their mean, with equal weights, is the
    ensemble's. A member that is chosen several times counts several times.

    schema: of the data, with all its modalities.
    picks: the members that count, by their places, each as often as it counts.
    prior_C: the class prior that all answers are moved to.
    """

    counts_C: Tensor
    prior_C: Tensor

    def __init__(
        self, schema: Schema, members: Sequence[Member], picks: Sequence[int], prior_C: Tensor
    ) -> None:
        super().__init__()
        if not picks or not set(picks) <= set(range(len(members))):
            raise ValueError(
                f"an ensemble needs at least one of its {len(members)} members; got {list(picks)}"
            )
        self.schema, self.members, self.picks = schema, tuple(members), tuple(picks)
        self.networks = nn.ModuleList(member.network for member in members)
        self.register_buffer("counts_C", members[0].network.counts_C.clone())
        self.register_buffer("prior_C", prior_C.clone())
        names = schema.modalities
        self.places = [
            [names.index(name) for name in member.network.schema.modalities] for member in members
        ]
        # The picks that see all modalities.
        self.whole = [k for k in picks if len(self.places[k]) == len(names)]
        self.sizes = [member.network.dim for member in members]
        self.shared = [_sharing_networks(members, image.name) for image in schema.images]

    @property
    def dim(self) -> int:
        return sum(self.sizes)

    @property
    def expert_count(self) -> int:
        return len(self.picks)

    @property
    def made_of(self) -> str:
        return f"an ensemble of {len(self.members)} networks"

    @property
    def learns_confidence(self) -> bool:
        return all(member.network.learns_confidence for member in self.members)

    @property
    def has_novelty_limits(self) -> bool:
        return any(member.network.has_novelty_limits for member in self.members)

    def accept_all_modalities(self) -> None:
        for member in self.members:
            member.network.accept_all_modalities()

    def frozen_encoder(self, image: str) -> ImageEncoder | None:
        """The encoder whose frozen part all members that see the image share."""
        groups = self.shared[[entry.name for entry in self.schema.images].index(image)]
        seeing = [k for k, m in enumerate(self.members) if image in m.network.schema.modalities]
        if len(groups) != 1 or groups[0] != seeing:
            return None
        return self.members[seeing[0]].network.frozen_encoder(image)

    def encode(self, batch: Batch) -> Tensor:
        batches = self._with_frozen_parts(batch)
        parts = []
        for member, places, own in zip(self.members, self.places, batches, strict=True):
            embeddings_BMD = member.network.encode(_of_modalities(own, places))
            parts.append(_in_places(embeddings_BMD, places, len(self.schema.modalities)))
        return torch.cat(parts, 2)

    def encode_modality(self, m: int, content: Sequence[Tensor], present_R: Tensor) -> Tensor:
        parts = []
        for member, places, size in zip(self.members, self.places, self.sizes, strict=True):
            if m in places:
                parts.append(
                    member.network.encode_modality(places.index(m), content, present_R).float()
                )
            else:
                parts.append(torch.zeros(len(present_R), size, device=present_R.device))
        return torch.cat(parts, 1)

    def choose_modalities(self, embeddings_BMD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        visible_BM = batch.present_BM
        if batch.dropped_BM is not None:
            visible_BM = visible_BM & ~batch.dropped_BM
        unfamiliar_KBM = []
        for member, places, part in self._parts(embeddings_BMD):
            own = _of_modalities(batch, places)
            _, unfamiliar_BM = member.network.choose_modalities(part, own)
            unfamiliar_KBM.append(_in_places(unfamiliar_BM, places, visible_BM.shape[1]))
        return visible_BM, _most(unfamiliar_KBM)

    def fuse(
        self, embeddings_BMD: Tensor, batch: Batch, visible_BM: Tensor | None = None
    ) -> Outputs:
        modalities = len(self.schema.modalities)
        answers = []
        for member, places, part in self._parts(embeddings_BMD):
            own = _of_modalities(batch, places)
            visible = None if visible_BM is None else visible_BM[:, places]
            answers.append(member.network.fuse(part, own, visible))
        logits_BKC = torch.stack(
            [log_posterior(m, a.logits_BEC, self.prior_C) for m, a in zip(self.members, answers)],
            1,
        )
        in_use_BM = batch.present_BM if visible_BM is None else visible_BM
        can_answer_BK = torch.stack([in_use_BM[:, places].any(1) for places in self.places], 1)
        logits_BKC = _without_blind_members(logits_BKC, can_answer_BK)
        trust_BM = None
        if self.whole:
            trust_BM = torch.stack([answers[k].weights_BM.float() for k in self.whole]).mean(0)
            logits_BKC = self._by_trust(logits_BKC, trust_BM)

        def mean_of(values: Sequence[Tensor]) -> Tensor:
            """The mean over the picked members that see the modality, [B, M, ...]."""
            placed = [_in_places(v.float(), p, modalities) for v, p in zip(values, self.places)]
            sums = torch.stack([placed[k] for k in self.picks]).sum(0)
            seen_M = [sum(m in self.places[k] for k in self.picks) for m in range(modalities)]
            seen = torch.tensor(seen_M, device=sums.device).clamp_min(1)
            return sums / seen.view(-1, *[1] * (sums.dim() - 2))

        weights_BM = trust_BM
        if weights_BM is None:
            weights_BM = mean_of([a.weights_BM for a in answers])
        alone = [mean_over_folds(a.auxiliary_BMFC).float().log_softmax(-1) for a in answers]
        unfamiliar_KBM = [
            _in_places(a.unfamiliar_BM, places, modalities)
            for a, places in zip(answers, self.places, strict=True)
        ]
        nothing_B0 = weights_BM[:, :0]
        return Outputs(
            logits_BEC=logits_BKC[:, list(self.picks)],
            hidden_BEH=nothing_B0[:, None],
            fused_BZ=nothing_B0,
            weights_BM=weights_BM / weights_BM.sum(1, keepdim=True).clamp_min(1e-12),
            subsets=None,
            embeddings_BMD=embeddings_BMD,
            auxiliary_BMFC=mean_of(alone)[:, :, None],
            confidence_BM=mean_of([a.confidence_BM for a in answers]),
            shrunk_BM=mean_of([a.shrunk_BM for a in answers]),
            present_BM=batch.present_BM,
            unfamiliar_BM=_most(unfamiliar_KBM),
        )

    def relative_distance(self, outputs: Outputs) -> Tensor:
        return torch.full_like(outputs.weights_BM, torch.nan)

    def _by_trust(self, logits_BKC: Tensor, trust_BM: Tensor) -> Tensor:
        """Returns the answers with those of members that see some modalities only drawn to the
        others', as far as these do not trust the modalities in the record.
        """
        mean_BC = logits_BKC[:, self.whole].mean(1)
        columns = []
        for k, places in enumerate(self.places):
            own_BC = logits_BKC[:, k]
            if len(places) < trust_BM.shape[1]:
                own_BC = by_trust(own_BC, mean_BC, trust_BM[:, places].sum(1))
            columns.append(own_BC)
        return torch.stack(columns, 1)

    def _parts(self, embeddings_BMD: Tensor) -> list[tuple[Member, list[int], Tensor]]:
        """Returns each member with the places of its modalities and its own embeddings."""
        parts = torch.split(embeddings_BMD, self.sizes, 2)
        return [
            (member, places, part[:, places])
            for member, places, part in zip(self.members, self.places, parts, strict=True)
        ]

    def _with_frozen_parts(self, batch: Batch) -> list[Batch]:
        """Returns the batch of each member; frozen parts that some share are computed once."""
        batches = [batch] * len(self.members)
        for image, groups in zip(self.schema.images, self.shared, strict=True):
            for group in groups:
                if len(group) < 2 or image.name not in batch.images:
                    continue
                m = self.schema.modalities.index(image.name)
                encoder = self.members[group[0]].network.frozen_encoder(image.name)
                assert encoder is not None
                views_BVK = encoder.encode_frozen_views(
                    batch.images[image.name], batch.present_BM[:, m]
                )
                for k in group:
                    frozen = {**batches[k].frozen, image.name: views_BVK}
                    batches[k] = batches[k].replace(frozen=frozen)
        return batches


def _of_modalities(batch: Batch, places: list[int]) -> Batch:
    """Returns the batch as a member sees it that has only the modalities at these places."""
    if len(places) == batch.present_BM.shape[1]:
        return batch
    dropped_BM = batch.dropped_BM
    return batch.replace(
        present_BM=batch.present_BM[:, places],
        dropped_BM=None if dropped_BM is None else dropped_BM[:, places],
        complete_M=tuple(batch.complete_M[m] for m in places) if batch.complete_M else (),
        rows_M=tuple(batch.rows_M[m] for m in places) if batch.rows_M else (),
    )


def _in_places(values: Tensor, places: list[int], modalities: int) -> Tensor:
    """Returns values of a member's modalities [B, ...] with zeros for the others, [B, M, ...]."""
    if len(places) == modalities:
        return values
    nothing = torch.zeros_like(values[:, 0])
    seen = dict(zip(places, values.unbind(1), strict=True))
    return torch.stack([seen.get(m, nothing) for m in range(modalities)], 1)


def _most(flags_KBM: Sequence[Tensor]) -> Tensor:
    """Returns what more than half of the members say, [B, M]."""
    return torch.stack(list(flags_KBM)).float().mean(0) > 0.5


def _without_blind_members(logits_BKC: Tensor, can_answer_BK: Tensor) -> Tensor:
    """Replaces the answer of a member that sees nothing of a record by the mean of the others'.

    A record without any modality keeps the answers that the members give without a look.
    """
    can_answer_BK = can_answer_BK | ~can_answer_BK.any(1, keepdim=True)
    weights_BK = can_answer_BK.float()
    weights_BK = weights_BK / weights_BK.sum(1, keepdim=True)
    mean_BC = torch.einsum("bkc,bk->bc", logits_BKC, weights_BK)
    return torch.where(can_answer_BK[:, :, None], logits_BKC, mean_BC[:, None])


def _sharing_networks(members: Sequence[Member], image: str) -> list[list[int]]:
    """Returns the groups of members, by place, that share the frozen part of an image encoder."""
    groups: list[tuple[ImageEncoder, list[int]]] = []
    for k, member in enumerate(members):
        sees_image = image in member.network.schema.modalities
        encoder = member.network.frozen_encoder(image) if sees_image else None
        if encoder is None:
            continue
        for first, places in groups:
            if first.shares_frozen_part(encoder):
                places.append(k)
                break
        else:
            groups.append((encoder, [k]))
    return [places for _, places in groups]
