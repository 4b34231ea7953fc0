"""Builds one model of several trained runs on the same data; decides on validation rows alone.

Legend: K candidates, V validation rows, C classes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distributed.config import Config, changes_from_defaults
from distributed.shards.batches import BatchSource
from distributed.training.checkpoint import Checkpoint
from distributed.training.finish import calibrate, calibrated_metrics
from distributed.training.frozen_views import with_frozen_views
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.priors import mean_class_prior
from distributed.training.run import default_device
from distributed.training.scoring import Evaluator
from model.decisions.calibration import row_weights
from model.decisions.guard import ValidationRows
from model.decisions.selection import Selection, log_losses, select_members
from model.encoders.choice import choose_encoder
from model.ensemble import Ensemble
from model.learning.posthoc import move_prior
from model.member import Member, by_trust, log_posterior
from model.network import Network

# Opens the rows of a split with the modalities of a configuration.
OpenRows = Callable[[Config], BatchSource]


@dataclass(frozen=True)
class BuiltModel:
    """A model of several runs, or of the best one where several are no better.

    counts: how often each run counts, by its name.
    metrics: on the validation rows, on which the runs were chosen too.
    """

    checkpoint: Checkpoint
    selection: Selection
    counts: Mapping[str, int]
    metrics: dict[str, float]

    def description(self) -> dict[str, Any]:
        """What the model is made of and what it costs, as JSON can hold it."""
        network = self.checkpoint.network
        settings = (
            {member.name: dict(member.settings) for member in network.members}
            if isinstance(network, Ensemble)
            else {}
        )
        return {
            "strategy": self.selection.strategy,
            "gain": self.selection.gain,
            "gain_error": self.selection.error,
            "networks": len(self.counts),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "members": [
                {"name": name, "count": count, "settings": settings.get(name, {})}
                for name, count in self.counts.items()
            ],
        }


def build_model(
    candidates: Mapping[str, Checkpoint],
    leading: str,
    open_val: OpenRows,
    *,
    modalities: str = "",
    balanced: bool = True,
    limit: int,
    seed: int = 0,
) -> BuiltModel:
    """Chooses the runs whose answers are averaged, and calibrates their mean.

    candidates: checkpoints of runs on the same data, by name.
    leading: the candidate whose settings of inference the model has.
    balanced: the model is for classes that count alike; else for the class prior of `leading`.
    modalities: those of the data that the model sees, as data.modalities names them; each
        candidate sees these or some of them.
    limit: of the number of networks.
    """
    leader = candidates[leading]
    data = dataclasses.replace(leader.config.data, modalities=modalities)
    config = dataclasses.replace(leader.config, data=data)
    val = open_val(config)
    members = {name: _member(name, checkpoint) for name, checkpoint in candidates.items()}
    prior_C = members[leading].prior_C
    if balanced:
        prior_C = torch.full_like(prior_C, 1 / len(prior_C))
    own_answers, labels_V = _answers(candidates, members, val, prior_C)
    answers = _by_trust(own_answers, candidates, leading, val)
    names = list(candidates)
    selection = select_members(
        torch.stack([answers[name] for name in names]),
        labels_V,
        prior_C,
        limit=limit,
        kinds=[kind_of(candidates[name]) for name in names],
        seed=seed,
    )
    counts = Counter(names[place] for place in selection.picks)
    chosen = [names[place] for place in dict.fromkeys(selection.picks)]
    if len(chosen) == 1 and torch.allclose(members[chosen[0]].prior_C, prior_C):
        return _of_one_run(chosen[0], candidates[chosen[0]], selection, open_val)
    network = Ensemble(
        val.schema,
        [members[name] for name in chosen],
        [chosen.index(names[place]) for place in selection.picks],
        prior_C,
    )
    return _calibrated(network.eval(), config, leader, selection, counts, val)


def kind_of(checkpoint: Checkpoint) -> str:
    """Returns what tells networks that err differently: what they see, and by which encoders."""
    network, config = checkpoint.network, checkpoint.config
    if not isinstance(network, Network):
        return network.made_of
    encoders = {choose_encoder(image, config.image) for image in network.schema.images}
    trained = config.image.trainable if encoders - {"resnet"} else ""
    return " ".join([*network.schema.modalities, *sorted(encoders), trained])


def _member(name: str, checkpoint: Checkpoint) -> Member:
    assert not isinstance(checkpoint.network, Ensemble), "an ensemble has no ensembles as members"
    return Member(
        network=checkpoint.network,
        calibration=checkpoint.calibration,
        prior_C=stated_prior(checkpoint),
        name=name,
        settings=changes_from_defaults(checkpoint.config),
    )


def stated_prior(checkpoint: Checkpoint) -> Tensor:
    """Returns the class prior that a checkpoint's answers stand for, [C].

    It is the one that follows from the settings of the training, or the uniform one where that
    explains the validation rows better: the settings do not tell how much of a re-weighting that
    begins late (loss.drw) the best epoch has seen.
    """
    declared_C = mean_class_prior(checkpoint)
    uniform_C = torch.full_like(declared_C, 1 / len(declared_C))
    rows = checkpoint.validation
    if rows is None or torch.allclose(declared_C, uniform_C):
        return declared_C
    weights_V = row_weights(rows.labels_V, uniform_C).float()
    mixture_VC = checkpoint.calibration.scale(rows.logits_VEC).mean(1)

    def loss(prior_C: Tensor) -> float:
        answers_VC = move_prior(mixture_VC, prior_C, uniform_C).log_softmax(1)
        return float(log_losses(answers_VC, rows.labels_V) @ weights_V)

    return min((declared_C, uniform_C), key=loss)


def _answers(
    candidates: Mapping[str, Checkpoint],
    members: Mapping[str, Member],
    val: BatchSource,
    prior_C: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns each candidate's log probabilities of the validation rows, and their labels.

    Checkpoints hold the logits of validation rows; where they hold fewer rows than there are, the
    networks are run again.
    """
    stored = [checkpoint.validation for checkpoint in candidates.values()]
    whole = [rows for rows in stored if rows is not None and len(rows.labels_V) == val.rows]
    if len(whole) == len(stored):
        return {
            name: log_posterior(members[name], rows.logits_VEC, prior_C)
            for name, rows in zip(candidates, whole, strict=True)
        }, whole[0].labels_V
    answers: dict[str, Tensor] = {}
    labels_V = torch.empty(0)
    for name, checkpoint in candidates.items():
        alone = Ensemble(val.schema, [members[name]], [0], prior_C).eval()
        scores = evaluator_of(checkpoint.config).score(
            alone, with_frozen_views(val, alone, checkpoint.config)
        )
        answers[name], labels_V = scores.logits_NEC[:, 0], scores.labels_N
    return answers, labels_V


def _by_trust(
    answers: Mapping[str, Tensor],
    candidates: Mapping[str, Checkpoint],
    leading: str,
    val: BatchSource,
) -> Mapping[str, Tensor]:
    """Returns the answers as they will count: those of a candidate that sees some modalities only
    as far as the first candidate that sees all of them trusts these.
    """
    modalities = val.schema.modalities
    order = [leading, *(name for name in candidates if name != leading)]
    whole = [name for name in order if candidates[name].network.schema.modalities == modalities]
    if not whole or len(whole) == len(candidates):
        return answers
    judge = candidates[whole[0]]
    source = with_frozen_views(val, judge.network, judge.config)
    evaluator = evaluator_of(judge.config)
    trust_VM = evaluator.score(judge.network.to(evaluator.device), source).weights_NM
    found = dict(answers)
    for name in candidates.keys() - set(whole):
        seen = candidates[name].network.schema.modalities
        trust_V = trust_VM[:, [modalities.index(m) for m in seen]].sum(1)
        found[name] = by_trust(answers[name], answers[whole[0]], trust_V)
    return found


def evaluator_of(config: Config) -> Evaluator:
    """Returns what scores checkpoints with these settings, on their device."""
    device = torch.device(default_device(config))
    return Evaluator(device, compute_dtype(config, device))


def _calibrated(
    network: Ensemble,
    config: Config,
    leader: Checkpoint,
    selection: Selection,
    counts: Mapping[str, int],
    val: BatchSource,
) -> BuiltModel:
    """Returns the ensemble with its calibration and its metrics on validation."""
    evaluator, source = evaluator_of(config), with_frozen_views(val, network, config)
    network.to(evaluator.device)
    scores = evaluator.score(network, source)
    fitted = calibrate(scores, network, config)
    checkpoint = Checkpoint(
        network=network,
        config=config,
        manifest=leader.manifest,
        calibration=fitted,
        validation=ValidationRows.select(scores.logits_NEC, scores.labels_N),
        cross_modal=evaluator.learn_cross_modal_model(network, source),
    )
    metrics = calibrated_metrics(scores, network, config, fitted)
    return BuiltModel(checkpoint, selection, counts, metrics)


def _of_one_run(
    name: str, checkpoint: Checkpoint, selection: Selection, open_val: OpenRows
) -> BuiltModel:
    """Returns the model of the best run alone, as that run has left it."""
    network, config = checkpoint.network, checkpoint.config
    evaluator = evaluator_of(config)
    source = with_frozen_views(open_val(config), network, config)
    scores = evaluator.score(network.to(evaluator.device), source)
    metrics = calibrated_metrics(scores, network, config, checkpoint.calibration)
    if checkpoint.cross_modal is None:
        cross_modal = evaluator.learn_cross_modal_model(network, source)
        checkpoint = dataclasses.replace(checkpoint, cross_modal=cross_modal)
    return BuiltModel(checkpoint, selection, {name: 1}, metrics)
