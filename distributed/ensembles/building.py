"""Builds one model of several trained runs on the same data; decides on validation rows alone.

Legend: C classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distributed.config import changes_from_defaults
from distributed.ensembles.held_out import FoldedRuns, HeldOutRows, OpenRows, evaluator_of
from distributed.training.checkpoint import Checkpoint
from distributed.training.finish import calibrate, calibrated_metrics
from distributed.training.frozen_views import with_frozen_views
from distributed.training.priors import mean_class_prior
from model.decisions.calibration import row_weights
from model.decisions.guard import ValidationRows
from model.decisions.selection import Selection, log_losses, select_members
from model.encoders.choice import choose_encoder
from model.ensemble import Ensemble
from model.learning.posthoc import move_prior
from model.member import Member
from model.network import Network


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
    configuration: Mapping[str, str] | None = None,
    modalities: str = "",
    balanced: bool = True,
    limit: int,
    seed: int = 0,
) -> BuiltModel:
    """Chooses the configurations whose answers are averaged, and calibrates their mean.

    A configuration with runs on several folds answers with all of them, each held-out row with that
    of its fold; one that lacks some folds is judged on those that it has.

    candidates: checkpoints of runs on the same data, by name.
    leading: the candidate whose settings of inference the model has.
    configuration: of the runs that repeat another candidate on a fold of their own, its name.
    balanced: the model is for classes that count alike; else for the class prior of `leading`.
    modalities: those of the data that the model sees, as data.modalities names them; each
        candidate sees these or some of them.
    limit: of the number of configurations.
    """
    leader = candidates[leading]
    data = dataclasses.replace(leader.config.data, modalities=modalities)
    config = dataclasses.replace(leader.config, data=data)
    runs = FoldedRuns.group(candidates, leading, configuration or {})
    held_out = HeldOutRows(runs, config, open_val)
    members = {name: _member(name, checkpoint) for name, checkpoint in candidates.items()}
    prior_C = members[leading].prior_C
    if balanced:
        prior_C = torch.full_like(prior_C, 1 / len(prior_C))
    answers, labels_V = held_out.answers(members, prior_C)
    names = list(answers)
    selection = select_members(
        torch.stack([answers[name] for name in names]),
        labels_V,
        prior_C,
        limit=limit,
        kinds=[kind_of(runs.first(name)) for name in names],
        seed=seed,
    )
    picked = [names[place] for place in selection.picks]
    if len(set(picked)) == 1 and len(runs.of(picked[0])) < len(runs.by_fold):
        picked = [leading]  # alone, what lacks folds would answer the other rows by the leading one
    alone = runs.of(picked[0])
    is_one_run = len(set(picked)) == len(runs.by_fold) == 1
    if is_one_run and torch.allclose(members[alone[0]].prior_C, prior_C):
        return _of_one_run(alone[0], candidates[alone[0]], selection, open_val)
    return _together(picked, held_out, members, prior_C, selection)


def _together(
    picked: Sequence[str],
    held_out: HeldOutRows,
    members: Mapping[str, Member],
    prior_C: Tensor,
    selection: Selection,
) -> BuiltModel:
    """Returns the ensemble of the picked configurations, each as often as it is picked."""
    runs = held_out.runs
    # A configuration counts the same whatever the number of its folds.
    repeats = math.lcm(*(len(runs.of(name)) for name in picked))
    picks = [
        (name, run)
        for name in picked
        for run in runs.of(name)
        for _ in range(repeats // len(runs.of(name)))
    ]

    def ensemble(names: Sequence[str]) -> Ensemble:
        chosen = list(dict.fromkeys(names))
        network = Ensemble(
            schema, [members[name] for name in chosen], [chosen.index(n) for n in names], prior_C
        )
        return network.eval()

    _, first_config, first_val = next(held_out.folds())
    schema = first_val.schema
    network = ensemble([run for _, run in picks])
    if len(runs.by_fold) == 1:
        answering = {fold: network for fold in runs.by_fold}
    else:
        answering = {
            fold: ensemble([runs.answering(name, fold) for name, _ in picks])
            for fold in runs.by_fold
        }
    scores = held_out.score(answering.__getitem__)
    data = dataclasses.replace(held_out.config.data, folds=1, fold=0)
    config = dataclasses.replace(held_out.config, data=data)
    evaluator, first = evaluator_of(config), answering[min(answering)]
    source = with_frozen_views(first_val, first, first_config)
    cross_modal = evaluator.learn_cross_modal_model(first.to(evaluator.device), source)
    fitted = calibrate(scores, network, config)
    checkpoint = Checkpoint(
        network=network.to(evaluator.device),
        config=config,
        manifest=runs.first(runs.leading).manifest,
        calibration=fitted,
        validation=ValidationRows.select(scores.logits_NEC, scores.labels_N),
        cross_modal=cross_modal,
    )
    metrics = calibrated_metrics(scores, network, config, fitted)
    return BuiltModel(checkpoint, selection, Counter(run for _, run in picks), metrics)


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
