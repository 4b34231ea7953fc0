"""Which training rows may have a wrong label, by classifiers that have not learned from them.

The auxiliary heads are cross-fitted: the head of a row's own fold has not learned from the row. The
encoders have, so this is not quite a prediction of a row never seen; it is at no extra training.

Legend: B rows, M modalities, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.fusion.confidence import held_out_logits
from model.learning.expert_losses import log_prior
from model.outputs import Outputs
from model.precision import at_least_float32

# Of LabelNoise: what the sharpness is chosen from; the rate that the search starts from, and the
# smallest and largest that are believed (where no label is wrong, heads still find up to 1 % that
# look wrong, in the first epochs more); and how the search ends.
SHARPNESS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
FIRST_RATE, MIN_RATE, MAX_RATE = 0.05, 0.01, 0.3
MAX_ROUNDS, ENOUGH = 40, 1e-4
FIT_ROWS, FIT_CELLS = 20_000, 4_000_000  # rows, and rows times classes, of the fit at most


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


@dataclass(frozen=True)
class LabelNoise:
    """How the labels of rows come about: most are the class of the row, some are any other class.

    p(class) = softmax(sharpness * log_posterior + log shares), and
    p(label) = (1 - rate) p(class = label) + rate / (C - 1) * (1 - p(class = label)).

    rate: share of wrong labels. sharpness: by how much the heads are too cautious (above 1) or too
    sure (below 1). shares_C: of the classes, as the rows really have them.
    """

    rate: float
    sharpness: float
    shares_C: Tensor

    def class_probabilities(self, log_posterior_BC: Tensor) -> Tensor:
        """Returns the probabilities of the classes of rows, whatever their labels are, [B, C]."""
        return (self.sharpness * log_posterior_BC + self.shares_C.log()).softmax(-1)

    def label_likelihood(self, probabilities_BC: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Returns p(label), and the part of it in which the label is right, [B] each."""
        own_B = probabilities_BC.gather(1, labels_B[:, None])[:, 0]
        right_B = (1 - self.rate) * own_B
        others = max(probabilities_BC.shape[1] - 1, 1)
        return right_B + self.rate / others * (1 - own_B), right_B

    def right_probability(self, log_posterior_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Returns the probability that the label of a row is right, [B]."""
        probabilities_BC = self.class_probabilities(log_posterior_BC)
        likelihood_B, right_B = self.label_likelihood(probabilities_BC, labels_B)
        return torch.where(likelihood_B > 0, right_B / likelihood_B, 1.0)


def fit_label_noise(log_posterior_BC: Tensor, labels_B: Tensor, counts_C: Tensor) -> LabelNoise:
    """Returns the noise under which the labels are most likely.

    The rate is 0, and then all labels are right, where it would be below MIN_RATE, as it mostly is
    where no label is wrong, and above MAX_RATE: such heads have not learned enough to judge labels.

    log_posterior_BC: by heads that have not learned from the row, for classes that are all alike.
    counts_C: rows of each class by their labels.
    """
    most_rows = max(1, min(FIT_ROWS, FIT_CELLS // log_posterior_BC.shape[1]))
    step = -(-len(labels_B) // most_rows)
    log_posterior_BC, labels_B = log_posterior_BC[::step], labels_B[::step]
    shares_C = at_least_float32(counts_C).clamp_min(1)
    best, most = LabelNoise(0.0, 1.0, shares_C / shares_C.sum()), -torch.inf
    for sharpness in SHARPNESS:
        start = LabelNoise(FIRST_RATE, sharpness, shares_C / shares_C.sum())
        noise, likelihood = _fit_rate(start, log_posterior_BC, labels_B)
        if likelihood > most:
            best, most = noise, likelihood
    return best if MIN_RATE <= best.rate <= MAX_RATE else replace(best, rate=0.0)


def _fit_rate(
    noise: LabelNoise, log_posterior_BC: Tensor, labels_B: Tensor
) -> tuple[LabelNoise, float]:
    """Returns the most likely rate and shares for a sharpness, and the mean log likelihood.

    Expectation maximisation: how probably each label is right and which class the row has then give
    the rate and the shares, half a row of each class added.
    """
    rows, classes = log_posterior_BC.shape
    for _ in range(MAX_ROUNDS):
        own_BC = noise.class_probabilities(log_posterior_BC)
        likelihood_B, right_B = noise.label_likelihood(own_BC, labels_B)
        likelihood_B = likelihood_B.clamp_min(1e-30)
        class_BC = noise.rate / max(classes - 1, 1) * own_BC
        class_BC = class_BC.scatter(1, labels_B[:, None], right_B[:, None]) / likelihood_B[:, None]
        rate = float(1 - (right_B / likelihood_B).mean())
        shares_C = (class_BC.sum(0) + 0.5) / (rows + 0.5 * classes)
        change = abs(rate - noise.rate)
        noise = LabelNoise(max(rate, 0.0), noise.sharpness, shares_C)
        if change < ENOUGH:
            break
    likelihood_B, _ = noise.label_likelihood(noise.class_probabilities(log_posterior_BC), labels_B)
    return noise, float(likelihood_B.clamp_min(1e-30).log().mean())
