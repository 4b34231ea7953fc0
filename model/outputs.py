"""What the network returns.

Legend: B batch, M modalities, D embedding, F folds, E experts, C classes, Z = M * D fused features,
H hidden units of an expert, S subsets of the modalities, T tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class SubsetAnswers:
    """What the experts answer from every subset of the modalities (fusion.kind=mixture)."""

    logits_BSEC: Tensor
    hidden_BSEH: Tensor
    trust_BM: Tensor  # log-odds that a modality can be trusted
    odds_BM: Tensor  # the same with the held-out confidences; the doubts are not taken off yet
    # bool: the modalities of every subset, the same for every record; the whole set comes first
    members_BSM: Tensor
    plausible_BT: Tensor  # log-odds that the cells of each table belong together
    unrelated_BT: Tensor | None  # in training: the same of cells that do not belong together


@dataclass
class Fused:
    """What the fusion and the experts give."""

    logits_BEC: Tensor  # logits of each expert; their softmax, without a prior, is its posterior
    hidden_BEH: Tensor  # input of the experts' classifiers
    fused_BZ: Tensor  # fused representation z; of fusion.kind=mixture, that of the whole set
    weights_BM: Tensor  # fusion weights: 0 where a modality is absent, summing to 1
    subsets: SubsetAnswers | None  # None unless fusion.kind=mixture


@dataclass
class Outputs(Fused):
    """Everything that the losses, the decisions and the reports need of one forward pass.

    `late` and `evidential` fusion have no experts: their combined logits stand as those of a single
    expert.
    """

    embeddings_BMD: Tensor  # embedding h_m of every modality
    auxiliary_BMFC: Tensor  # logits of the cross-fitted auxiliary heads
    confidence_BM: Tensor  # c: the estimated true-class probability, before shrinkage
    shrunk_BM: Tensor  # c tilde: after shrinkage towards the class-balanced running mean
    present_BM: Tensor  # bool: which modalities the record has
    # bool: present modalities that are unlike all training rows. They count as absent wherever the
    # record has another modality that is not.
    unfamiliar_BM: Tensor
