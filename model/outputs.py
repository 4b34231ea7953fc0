"""What the network returns. Legend: B batch, M modalities, D embedding, F folds, E experts, C classes, Z = M * D fused, H expert hidden."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Outputs:
    """One return type always; `late` and `evidential` fusion put their combined logits in as further evidence for every expert."""

    logits_BEC: Tensor  # one row of class logits an expert; softmax of them without any prior shift is the expert's own posterior
    hidden_BEH: Tensor  # input of the experts' classifiers
    fused_BZ: Tensor  # fused representation z
    embeddings_BMD: Tensor  # h_m of every modality
    auxiliary_BMFC: Tensor  # logits of the cross-fitted auxiliary heads
    confidence_BM: (
        Tensor  # c, the head's own estimate of the true-class probability, before shrinkage
    )
    shrunk_BM: Tensor  # c tilde, after shrinkage towards the running class-balanced mean
    weights_BM: Tensor  # fusion weights, 0 where a modality is absent, summing to 1
    present_BM: Tensor  # bool
    unfamiliar_BM: Tensor  # bool: of these, the ones unlike anything in training; they count as absent beside a familiar one
