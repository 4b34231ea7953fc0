"""Fuses by a mixture over the subsets of a record's modalities.

The experts classify the record from every subset of its modalities. How much each answer counts
follows from the trust in each modality, a number between 0 and 1 that is estimated from all that
the record shows: a subset counts by the product of the trust in its members and of the distrust in
the others. A modality that is not trusted at all therefore leaves exactly the answer that the
network gives without it, instead of a weaker version of what it says.

Legend: B batch, M modalities, S subsets, D embedding, E experts, C classes, I inputs of the trust,
T tables.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import FusionConfig
from model.fusion.weights import Concatenate
from model.learning.experts import Experts
from model.outputs import Fused, SubsetAnswers
from model.precision import at_least_float32

MAX_MODALITIES = 4  # with more modalities only the subsets named in `subsets` are considered
HIDDEN = 64
MAX_ODDS = 8.0  # of log-odds that the trust reads
FIRST_TRUST = 3.0  # log-odds of the trust before training
FACTS = 5  # numbers that describe a modality and its own answer, beside its embedding


def subsets(modalities: int) -> Tensor:
    """Returns the subsets of the modalities, the whole set first, [S, M].

    All of them where there are few modalities; else the whole set, each single modality, and the
    sets that lack one.
    """
    every = torch.eye(modalities, dtype=torch.bool)
    if modalities > MAX_MODALITIES:
        whole = torch.ones(1, modalities, dtype=torch.bool)
        return torch.cat([whole, every, ~every])
    rows = [row for row in itertools.product((True, False), repeat=modalities) if any(row)]
    return torch.tensor(rows)


@dataclass(frozen=True)
class Cells:
    """Log-odds that the cells of each table belong together, [B, T].

    unrelated_BT: in training, the same of cells that were drawn independently of each other.
    """

    plausible_BT: Tensor
    unrelated_BT: Tensor | None


class SubsetMixture(nn.Module):
    """Mixes what the experts answer from all subsets of a record's modalities."""

    members_SM: Tensor
    doubt_M: Tensor  # by how much validation lowers the log-odds of the trust; see doubt.py

    def __init__(self, modalities: int, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.read = nn.Linear(modalities * (dim + FACTS + 1), HIDDEN)
        self.score = nn.Linear(HIDDEN, modalities)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, FIRST_TRUST)
        self.register_buffer("members_SM", subsets(modalities), persistent=False)
        self.register_buffer("doubt_M", torch.zeros(modalities))

    def forward(
        self,
        embeddings_BMD: Tensor,
        facts_BMI: Tensor,
        cells: Cells,
        scores_BM: Tensor,
        visible_BM: Tensor,
        concatenate: Concatenate,
        experts: Experts,
    ) -> Fused:
        """Returns the mixture of the experts' answers from all subsets.

        facts_BMI: see `modality_facts`. The trust gives no gradient to the encoders.
        scores_BM: logarithms of how informative the modalities are by their held-out confidences
            (`fusion_scores`), at most 0. They are added to the trust, which is learned on training
            rows and would believe noise that the encoders have memorised.
        """
        trust_BM = self.trust(embeddings_BMD.detach(), facts_BMI, visible_BM)
        odds_BM = trust_BM.float() + scores_BM
        log_BS = subset_weights(
            (odds_BM - self.doubt_M) / self.temperature, visible_BM, self.members_SM
        )
        seen_BSM = self.members_SM & visible_BM[:, None]
        subsets = len(self.members_SM)
        fused_NZ = concatenate(
            embeddings_BMD[:, None].expand(-1, subsets, -1, -1).flatten(0, 1),
            seen_BSM.flatten(0, 1) / seen_BSM.flatten(0, 1).sum(1, keepdim=True).clamp_min(1),
            seen_BSM.flatten(0, 1),
        )  # N = B * S
        hidden_NEH, logits_NEC = experts(fused_NZ)
        logits_BSEC = logits_NEC.unflatten(0, (-1, subsets))
        hidden_BSEH = hidden_NEH.unflatten(0, (-1, subsets))
        return Fused(
            logits_BEC=mix(logits_BSEC, log_BS),
            hidden_BEH=hidden_BSEH[:, 0],
            fused_BZ=fused_NZ.unflatten(0, (-1, subsets))[:, 0],
            weights_BM=modality_weights(log_BS, visible_BM, self.members_SM),
            subsets=SubsetAnswers(
                logits_BSEC,
                hidden_BSEH,
                trust_BM,
                odds_BM,
                self.members_SM.expand(trust_BM.shape[0], -1, -1),
                cells.plausible_BT,
                cells.unrelated_BT,
            ),
        )

    def trust(self, embeddings_BMD: Tensor, facts_BMI: Tensor, visible_BM: Tensor) -> Tensor:
        """Returns the log-odds that each modality can be trusted, [B, M].

        They are estimated from the embeddings of all visible modalities and from facts about what
        each of them says alone. What is not visible has no influence.
        """
        inputs_BMI = torch.cat([embeddings_BMD, facts_BMI.to(embeddings_BMD.dtype)], -1)
        inputs_BMI = torch.where(visible_BM[..., None], inputs_BMI, 0.0)
        inputs_BI = torch.cat([inputs_BMI.flatten(1), visible_BM.to(inputs_BMI.dtype)], 1)
        trust_BM: Tensor = self.score(torch.relu(self.read(inputs_BI)))
        return trust_BM


def modality_facts(
    alone_BMC: Tensor, confidence_BM: Tensor, plausible_BT: Tensor, visible_BM: Tensor
) -> Tensor:
    """Returns facts about every modality and what it says alone, [B, M, FACTS], no gradient.

    plausible_BT: see `Cells`; images, which come before the tables, have 0 in its place.
    """
    log_BMC = at_least_float32(alone_BMC.detach()).log_softmax(-1)
    posterior_BMC = log_BMC.exp()
    classes = posterior_BMC.shape[-1]
    entropy_BM = -(posterior_BMC * log_BMC).sum(-1) / math.log(classes)
    highest_BM = posterior_BMC.amax(-1)
    others_BMC = (posterior_BMC * visible_BM[..., None]).sum(1, keepdim=True) - posterior_BMC
    others_B1 = visible_BM.sum(1, keepdim=True) - 1
    others_BMC = others_BMC / others_B1.clamp_min(1)[..., None]
    # How much more often than by chance two draws, one of each posterior, are the same class.
    agreement_BM = ((posterior_BMC * others_BMC).sum(-1) * classes).clamp_min(1e-6).log()
    agreement_BM = torch.where(others_B1 > 0, agreement_BM, 0.0)
    odds_BM = torch.logit(at_least_float32(confidence_BM.detach()), 1e-3)
    plausible_BT = plausible_BT.detach().to(odds_BM.dtype).clamp(-MAX_ODDS, MAX_ODDS)
    images = odds_BM.shape[1] - plausible_BT.shape[1]
    plausible_BM = torch.cat([torch.zeros_like(odds_BM[:, :images]), plausible_BT], 1)
    return torch.stack([entropy_BM, highest_BM, odds_BM, agreement_BM, plausible_BM], -1)


def subset_weights(trust_BM: Tensor, visible_BM: Tensor, members_SM: Tensor) -> Tensor:
    """Returns the log weight of every subset, [B, S]: -inf where it has an invisible member.

    The weights of a record sum to 1; a record without any modality has equal ones.
    """
    trust_BM = at_least_float32(trust_BM)
    trusted_BM = nn.functional.logsigmoid(trust_BM)
    distrusted_BM = torch.where(visible_BM, nn.functional.logsigmoid(-trust_BM), 0.0)
    members = members_SM.to(trust_BM.dtype)
    log_BS = trusted_BM @ members.T + distrusted_BM @ (1 - members).T
    impossible_BS = (~visible_BM).to(members.dtype) @ members.T > 0
    nothing_B1 = ~visible_BM.any(1, keepdim=True)
    log_BS = log_BS.masked_fill(impossible_BS & ~nothing_B1, -torch.inf)
    return log_BS.log_softmax(1)


def modality_weights(log_weights_BS: Tensor, visible_BM: Tensor, members_SM: Tensor) -> Tensor:
    """Returns the share of every modality in the mixture, [B, M].

    The members of a subset share its weight equally. The shares of a record sum to 1.
    """
    members = members_SM.to(log_weights_BS.dtype)
    weights_BM = log_weights_BS.exp() @ (members / members.sum(1, keepdim=True))
    return weights_BM * visible_BM


def mix(logits_BSEC: Tensor, log_weights_BS: Tensor) -> Tensor:
    """Returns the logarithm of the mixture of the subsets' posteriors, [B, E, C]."""
    log_BSEC = at_least_float32(logits_BSEC).log_softmax(-1)
    return (log_BSEC + log_weights_BS[:, :, None, None]).logsumexp(1)
