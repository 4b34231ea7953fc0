"""One checkpoint at several class priors: what it scores when classes are expected to be otherwise.

Legend: N rows, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distributed.config import Config
from distributed.training.priors import expert_class_priors
from model.by_rows import by_rows
from model.classifier import Classifier
from model.decisions.calibration import Calibration, mixture_prior
from model.learning.posthoc import move_prior
from model.metrics import metrics
from model.metrics.names import OPERATING_METRICS, at_prior


def prior_shares(network: Classifier) -> dict[str, Tensor]:
    """Returns the priors that have a name, each as shares [C] that sum to 1.

    uniform: all classes alike. training: as among the training rows.
    """
    counts_C = network.counts_C.cpu().double()
    shares_C = (counts_C / counts_C.sum()).float()
    return {"training": shares_C, "uniform": torch.full_like(shares_C, 1 / len(shares_C))}


def operating_probabilities(
    logits_NEC: Tensor, network: Classifier, config: Config, fitted: Calibration
) -> Iterator[tuple[str, Tensor]]:
    """Yields every prior that has a name, and the probabilities [N, C] of the experts' mean there.

    One at a time, because with thousands of classes they take gigabytes.
    """
    trained_C = mixture_prior(expert_class_priors(network, config))
    for name, shares_C in prior_shares(network).items():

        def moved(rows_nEC: Tensor, shares_C: Tensor = shares_C) -> Tensor:
            logits_nC = fitted.mix(rows_nEC)
            shares = trained_C.to(logits_nC), shares_C.to(logits_nC)
            return move_prior(logits_nC, *shares).softmax(-1)

        yield name, by_rows(moved, logits_NEC)


def operating_metrics(
    logits_NEC: Tensor,
    labels_N: Tensor,
    network: Classifier,
    config: Config,
    fitted: Calibration,
) -> dict[str, float]:
    """Returns OPERATING_METRICS at every prior that has a name, as training_prior/accuracy."""
    values: dict[str, float] = {}
    for prior, probabilities_NC in operating_probabilities(logits_NEC, network, config, fitted):
        decisions_N = fitted.decide(probabilities_NC)
        scored = metrics.compute_metrics(
            probabilities_NC,
            labels_N,
            network.counts_C.cpu(),
            network.schema.classes,
            decisions_N,
            names=OPERATING_METRICS,
        )
        values |= {at_prior(name, prior): value for name, value in scored.items()}
        del probabilities_NC  # before the next ones are computed
    return values


def trained_at(network: Classifier, config: Config) -> str:
    """Returns the name of the prior that the network's own probabilities stand for; "" for none."""
    trained_C = mixture_prior(expert_class_priors(network, config))
    for name, shares_C in prior_shares(network).items():
        if torch.allclose(trained_C.float(), shares_C, atol=1e-3):
            return name
    return ""
