"""The class prior that each expert's logits stand for, given how it was trained.

Legend: E experts, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distributed.config import Config
from distributed.shards.sampling import class_shares
from distributed.training.checkpoint import Checkpoint
from model.boosted import BoostedTables
from model.classifier import Classifier
from model.config import WITHOUT_EXPERTS
from model.decisions.calibration import mixture_prior
from model.ensemble import Ensemble
from model.learning.expert_losses import class_weights, expert_priors


def expert_class_priors(network: Classifier, config: Config) -> Tensor:
    """[E, C] the class prior that the softmax of each expert's logits estimates.

    It follows from the sampler, the class weights and the logit adjustment of the loss. Margins,
    tau-normalisation and multiplicative scales are not accounted for.
    """
    counts_C, classes = network.counts_C.cpu(), len(network.schema.classes)
    if isinstance(network, Ensemble):
        return network.prior_C.cpu().expand(network.expert_count, classes)
    if isinstance(network, BoostedTables):  # its trees are grown with balanced class weights
        return torch.full((1, classes), 1 / classes)
    if config.fusion.kind in WITHOUT_EXPERTS:
        # The logits come from the auxiliary heads, which learn a uniform prior.
        return torch.full((1, classes), 1 / classes)
    if config.stage.kind in ("crt", "lws"):
        # The classifiers of the second stage learn from class-balanced draws.
        return torch.full((config.experts.count, classes), 1 / classes)
    shares = class_shares(counts_C.clamp_min(1).numpy(), config.data.sampler, 1.0)
    drawn_C = torch.from_numpy(shares).float()
    weights_C = class_weights(counts_C, config.loss, 1.0)
    # How often a class counts, relative to the plain draw under a plain loss.
    emphasis_C = drawn_C * weights_C * counts_C.sum() / counts_C.clamp_min(1)
    priors_EC = expert_priors(counts_C, config.loss, config.experts.count).clamp_min(1e-12)
    return (priors_EC.log() + emphasis_C.log()).softmax(-1)


def mean_class_prior(checkpoint: Checkpoint) -> Tensor:
    """[C] the class prior that the mean of the experts' logits stands for."""
    return mixture_prior(expert_class_priors(checkpoint.network, checkpoint.config))
