"""Which training rows may have a wrong label, by classifiers that have not learned from them.

The auxiliary heads are cross-fitted: the head of a row's own fold has not learned from the row. The
encoders have, so this is not quite a prediction of a row never seen; it is at no extra training.

Legend: B rows, M modalities, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.fusion.confidence import held_out_logits
from model.learning.expert_losses import log_prior
from model.outputs import Outputs
from model.precision import at_least_float32


def held_out_log_posterior(
    outputs: Outputs, ranks_B: Tensor, counts_C: Tensor | None = None
) -> Tensor:
    """Returns log probabilities of the classes by heads that have not learned from the row, [B, C].

    The modalities' log probabilities are averaged with the fusion weights. The heads are trained
    for classes that are all alike. counts_C: training rows of each class, whose shares then count:
    a rare label is more often a mistake than a frequent one.
    """
    alone_BMC = held_out_logits(at_least_float32(outputs.auxiliary_BMFC.detach()), ranks_B)
    weights_BM1 = at_least_float32(outputs.weights_BM.detach())[..., None]
    mean_BC = (weights_BM1 * alone_BMC.log_softmax(-1)).sum(1)
    if counts_C is not None:
        mean_BC = mean_BC + log_prior(counts_C)
    return mean_BC.log_softmax(-1)


@dataclass
class LabelDoubts:
    """How doubtful the label of each row is.

    doubt_B: log probability of the most probable other class less that of the label; above 0 the
        heads prefer the other class. other_B: that class. label_B: probability of the label.
    """

    doubt_B: Tensor
    other_B: Tensor
    label_B: Tensor
    other_probability_B: Tensor


def label_doubts(log_posterior_BC: Tensor, labels_B: Tensor) -> LabelDoubts:
    """Returns how doubtful the labels of rows are; all rows have one."""
    label_B1 = labels_B[:, None]
    own_B = log_posterior_BC.gather(1, label_B1)[:, 0]
    others_BC = log_posterior_BC.scatter(1, label_B1, -torch.inf)
    best_B, other_B = others_BC.max(1)
    return LabelDoubts(best_B - own_B, other_B, own_B.exp(), best_B.exp())
