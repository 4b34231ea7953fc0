"""What the network returns.

Legend: B batch, M modalities, D embedding, F folds, E experts, C classes, Z = M * D fused features,
H hidden units of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Outputs:
    """Everything that the losses, the decisions and the reports need of one forward pass.

    It has the same fields for every kind of fusion. `late` and `evidential` fusion have no experts:
    their combined logits stand as those of a single expert.
    """

    logits_BEC: Tensor  # logits of each expert; their softmax, without a prior, is its posterior
    hidden_BEH: Tensor  # input of the experts' classifiers
    fused_BZ: Tensor  # fused representation z
    embeddings_BMD: Tensor  # embedding h_m of every modality
    auxiliary_BMFC: Tensor  # logits of the cross-fitted auxiliary heads
    confidence_BM: Tensor  # c: the estimated true-class probability, before shrinkage
    shrunk_BM: Tensor  # c tilde: after shrinkage towards the class-balanced running mean
    weights_BM: Tensor  # fusion weights: 0 where a modality is absent, summing to 1
    present_BM: Tensor  # bool: which modalities the record has
    # bool: present modalities that are unlike all training rows. They count as absent wherever the
    # record has another modality that is not.
    unfamiliar_BM: Tensor
