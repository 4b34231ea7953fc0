"""Lowers the trust in modalities that spoil the answers of held-out rows.

The trust is learned on training rows, which a network with more columns than rows, or with an
encoder that memorises, knows by heart: there every modality seems right. Validation rows tell which
are not. Trust is never raised by them: what healthy validation rows say of a modality does not hold
for broken ones.

Legend: N rows, B rows of a batch, M modalities, S subsets of the modalities, E experts, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.decisions.guard import rank_in_class
from model.fusion.mixture import subset_weights
from model.outputs import SubsetAnswers
from model.precision import at_least_float32

PENALTY = 0.5  # of a squared doubt, in nats of one row's loss
FIRST_ROOT = 0.3  # of the doubts; at 0 the slope would be 0
STEPS = 60
FOLDS = 5  # of the rows, on each of which doubts that were fitted on the others are tried


def true_class_answers(answers: SubsetAnswers, labels_B: Tensor) -> Tensor:
    """Returns the log probability of the true class by every subset's experts together, [B, S].

    Rows without a label have that of class 0; `fit_doubts` leaves them out.
    """
    log_BSEC = at_least_float32(answers.logits_BSEC).log_softmax(-1)
    index_BSE1 = labels_B.clamp_min(0)[:, None, None, None].expand(*log_BSEC.shape[:3], 1)
    mean_BS: Tensor = log_BSEC.gather(-1, index_BSE1)[..., 0].exp().mean(-1)
    return mean_BS.clamp_min(1e-30).log()


def fit_doubts(
    answers_NS: Tensor,
    odds_NM: Tensor,
    visible_NM: Tensor,
    labels_N: Tensor,
    members_SM: Tensor,
    temperature: float,
) -> Tensor:
    """Returns by how much the log-odds of the trust in each modality are to be lowered, [M].

    They must prove themselves: fitted on four fifths of the rows, in turn, they have to lower the
    class-balanced log-loss of the last fifth, or nothing is doubted.
    """
    counted_N = (labels_N >= 0) & (visible_NM.sum(1) > 1)
    zero_M = torch.zeros(odds_NM.shape[1])
    if not counted_N.any():
        return zero_M
    rows = _Rows(
        answers_NS[counted_N],
        odds_NM[counted_N].float(),
        visible_NM[counted_N],
        labels_N[counted_N],
        members_SM,
        temperature,
    )
    fold_N = (rank_in_class(rows.labels_N) + rows.labels_N) % FOLDS
    gain = 0.0
    weights_N = rows.weights_N
    for fold in range(FOLDS):
        held_N = fold_N == fold
        if not held_N.any() or held_N.all():
            continue
        doubt_M, held = rows.select(~held_N).fit(), rows.select(held_N)
        better_N = held.log_probability(doubt_M) - held.log_probability(zero_M)
        gain += float(weights_N[held_N] @ better_N)
    return rows.fit() if gain > 0 else zero_M


@dataclass(frozen=True)
class _Rows:
    """What a mixture says of labelled rows; see `true_class_answers` and `SubsetAnswers`."""

    answers_NS: Tensor
    odds_NM: Tensor
    visible_NM: Tensor
    labels_N: Tensor
    members_SM: Tensor
    temperature: float

    def select(self, chosen_N: Tensor) -> _Rows:
        """Returns some of the rows."""
        return replace(
            self,
            answers_NS=self.answers_NS[chosen_N],
            odds_NM=self.odds_NM[chosen_N],
            visible_NM=self.visible_NM[chosen_N],
            labels_N=self.labels_N[chosen_N],
        )

    @property
    def weights_N(self) -> Tensor:
        """How much each row counts: every class alike, all together 1."""
        weights_N = 1 / self.labels_N.bincount()[self.labels_N].float()
        return weights_N / weights_N.sum()

    def log_probability(self, doubt_M: Tensor) -> Tensor:
        """Returns the log probability of the true classes by the mixture, [N]."""
        odds_NM = (self.odds_NM - doubt_M) / self.temperature
        log_NS = subset_weights(odds_NM, self.visible_NM, self.members_SM)
        return (self.answers_NS + log_NS).logsumexp(1)

    def fit(self) -> Tensor:
        """Returns the doubts that minimise the log-loss, [M].

        A penalty on them is worth less the more rows there are.
        """
        with torch.enable_grad():
            root_M = torch.full((self.odds_NM.shape[1],), FIRST_ROOT, requires_grad=True)
            optimiser = torch.optim.LBFGS([root_M], max_iter=STEPS, line_search_fn="strong_wolfe")
            weights_N = self.weights_N

            def loss() -> Tensor:
                optimiser.zero_grad()
                doubt_M = root_M.square()
                value = PENALTY * doubt_M.square().sum() / len(self.labels_N)
                value = value - weights_N @ self.log_probability(doubt_M)
                value.backward()  # type: ignore[no-untyped-call]
                return value

            optimiser.step(loss)  # type: ignore[no-untyped-call]
        doubt_M = root_M.detach().square()
        return torch.where(doubt_M.isfinite(), doubt_M, 0.0)
