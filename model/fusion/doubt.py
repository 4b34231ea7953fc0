"""Lowers the trust in modalities that spoil the answers of held-out rows.

The trust is learned on training rows, which a network with more columns than rows, or with an
encoder that memorises, knows by heart: there every modality seems right. Validation rows tell which
are not. Trust is never raised by them: what healthy validation rows say of a modality does not hold
for broken ones.

Legend: N rows, B rows of a batch, M modalities, S subsets of the modalities, E experts, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.fusion.mixture import subset_weights
from model.outputs import SubsetAnswers
from model.precision import at_least_float32

PENALTY = 0.5  # of a squared doubt, in nats of one row's loss
FIRST_ROOT = 0.3  # of the doubts; at 0 the slope would be 0
STEPS = 60


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

    The class-balanced log-loss of the mixture is minimised, with a penalty that is worth less the
    more rows there are.
    """
    counted_N = (labels_N >= 0) & (visible_NM.sum(1) > 1)
    zero_M = torch.zeros(odds_NM.shape[1])
    if not counted_N.any():
        return zero_M
    answers_NS, odds_NM, visible_NM, labels_N = (
        values[counted_N] for values in (answers_NS, odds_NM.float(), visible_NM, labels_N)
    )
    weights_N = 1 / labels_N.bincount()[labels_N].float()
    weights_N /= weights_N.sum()
    with torch.enable_grad():
        root_M = torch.full_like(zero_M, FIRST_ROOT, requires_grad=True)
        optimiser = torch.optim.LBFGS([root_M], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            doubt_M = root_M.square()
            log_NS = subset_weights((odds_NM - doubt_M) / temperature, visible_NM, members_SM)
            of_rows_N = (answers_NS + log_NS).logsumexp(1)
            value = PENALTY * doubt_M.square().sum() / len(labels_N) - weights_N @ of_rows_N
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[no-untyped-call]
    doubt_M = root_M.detach().square()
    return torch.where(doubt_M.isfinite(), doubt_M, 0.0)
