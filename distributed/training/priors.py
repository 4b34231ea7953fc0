"""TODO"""

from __future__ import annotations

import torch
from torch import Tensor

from distributed.config import Config
from distributed.shards.sampling import class_shares
from distributed.training.checkpoint import Checkpoint
from model.config import WITHOUT_EXPERTS
from model.decisions.calibration import mixture_prior
from model.learning.expert_losses import class_weights, expert_priors
from model.network import Network


def expert_class_priors(network: Network, config: Config) -> Tensor:
    """[E, C] the class prior that each row of logits stands for, whatever it was trained with.

    Not undone: margins, tau-normalisation and multiplicative scales.
    """
    counts_C, classes = network.counts_C.cpu(), len(network.schema.classes)
    if (
        config.fusion.kind in WITHOUT_EXPERTS
    ):  # combined from the auxiliary heads, which learn a uniform prior
        return torch.full((1, classes), 1 / classes)
    if config.stage.kind in ("crt", "lws"):  # their classifiers learned from class-balanced draws
        return torch.full((config.experts.count, classes), 1 / classes)
    drawn_C = torch.from_numpy(
        class_shares(counts_C.clamp_min(1).numpy(), config.data.sampler, 1.0)
    ).float()
    weights_C = class_weights(counts_C, config.loss, 1.0)
    seen_C = (
        drawn_C * weights_C * counts_C.sum() / counts_C.clamp_min(1)
    )  # beside the plain draw of a plain loss
    return (
        expert_priors(counts_C, config.loss, config.experts.count).clamp_min(1e-12).log()
        + seen_C.log()
    ).softmax(-1)


def mean_class_prior(checkpoint: Checkpoint) -> Tensor:
    """The class prior that the mean of the experts speaks for."""
    return mixture_prior(expert_class_priors(checkpoint.network, checkpoint.config))
