"""A member of an ensemble, and what its answer is there.

Legend: B batch, E experts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.classifier import Classifier
from model.decisions.calibration import Calibration
from model.learning.posthoc import move_prior


@dataclass(frozen=True)
class Member:
    """A trained network, or another classifier, of an ensemble.

    prior_C: the class prior that the mean of its experts stands for.
    name: where it comes from, for people.
    settings: of its training, by dotted name, where they differ from the defaults.
    """

    network: Classifier
    calibration: Calibration
    prior_C: Tensor
    name: str
    settings: Mapping[str, object]


def by_trust(own_BC: Tensor, others_BC: Tensor, trust_B: Tensor) -> Tensor:
    """Returns the answer of a member of some modalities, as far as these are trusted, [B, C]."""
    return torch.lerp(others_BC, own_BC, trust_B[:, None].clamp(0, 1))


def log_posterior(member: Member, logits_BEC: Tensor, prior_C: Tensor) -> Tensor:
    """Returns a member's calibrated log probabilities at a class prior, [B, C]."""
    mixture_BC = member.calibration.scale(logits_BEC).mean(1)
    device = mixture_BC.device
    return move_prior(mixture_BC, member.prior_C.to(device), prior_C.to(device)).log_softmax(-1)
