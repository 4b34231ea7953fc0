"""Which training rows the next epoch trusts less, by what the network says of all of them.

Legend: N rows, C classes.
"""

from __future__ import annotations

import torch

from distributed.training.optimisation.training_state import TrainingState
from distributed.training.scoring import Batches, Evaluator
from model.decisions.label_noise import held_out_log_posterior
from model.learning.label_trust import TRUST_START, LabelTrust


def judge_labels(run: TrainingState, evaluator: Evaluator, rows: Batches) -> LabelTrust | None:
    """Returns how much each training row counts by loss.trust_labels; None: all rows alike.

    The rows are seen whole and in evaluation mode, by the averaged weights: the augmented batches
    of the training tell wrong labels much less well. Nothing of it has to be saved, because it
    follows from the network. All workers get the trust in all rows.
    """
    strength = run.config.loss.trust_labels
    if not strength or run.step < TRUST_START * run.steps:
        return None
    columns = []
    with torch.no_grad():
        for batch, outputs in evaluator.forward(run.evaluated, rows):
            log_posterior_BC = held_out_log_posterior(outputs, batch.ranks_B)
            columns.append((log_posterior_BC, batch.labels_B, batch.ranks_B))
    log_posterior_NC, labels_N, ranks_N = (
        run.exchange.gather(torch.cat(parts)) for parts in zip(*columns, strict=True)
    )
    return LabelTrust.of_rows(log_posterior_NC, labels_N, ranks_N, strength)
