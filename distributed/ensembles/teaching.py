"""What a model of several networks teaches a single one: its answers for the training rows.

Networks that were trained on a row have learned its label by heart. Where the model's networks were
trained on folds, only those answer for a row that were not trained on it; else the answers are
softened by TEMPERATURE.

Legend: N rows, C classes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from distributed.config import Config
from distributed.ensembles.building import stated_prior
from distributed.ensembles.held_out import OpenRows, evaluator_of
from distributed.shards.batches import BatchSource, MemorySource, StreamSource, in_storage_order
from distributed.training.checkpoint import Checkpoint
from distributed.training.frozen_views import with_frozen_views
from model.classifier import Classifier
from model.ensemble import Ensemble
from model.learning.expert_losses import log_prior
from model.learning.posthoc import move_prior
from model.learning.teacher import Teacher

TEMPERATURE = 2.0  # of answers for rows that the networks were trained on


def make_teacher(
    model: Checkpoint,
    student: Config,
    open_train: OpenRows,
    open_val: OpenRows,
    configuration: Callable[[str], str],
) -> Teacher:
    """Returns the model's answers for the training rows of a student.

    student: its settings, without folds. open_train, open_val: open the rows of the data.
    configuration: of a run, by its name.
    """
    train = in_storage_order(open_train(student), student.inference.batch_size)
    selection = train.plan.selection
    answers_NC = _answers(model.network, train, student) / TEMPERATURE
    if isinstance(model.network, Ensemble) and _folds(model.network) > 1:
        held_out_NC = _held_out_answers(model.network, student, open_val, configuration)
        held_out_NC = held_out_NC[torch.from_numpy(selection.rows_R)]
        # The model may have no network that was not trained on a row.
        answers_NC = torch.where(held_out_NC.isnan(), answers_NC, held_out_NC)
    labels_N = torch.from_numpy(selection.labels_R)
    training_C = log_prior(torch.from_numpy(selection.counts_C)).exp()
    answers_NC = move_prior(answers_NC, _prior(model), training_C).log_softmax(-1)
    return Teacher.of_rows(answers_NC, labels_N, torch.from_numpy(selection.ranks_R))


def _held_out_answers(
    network: Ensemble, student: Config, open_val: OpenRows, configuration: Callable[[str], str]
) -> Tensor:
    """Returns what the networks answer for the training and validation rows of their folds, [N, C].

    By the position of the row, the training rows first; NaN where no network was without the row.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    for fold, of_fold in _by_fold(network, configuration).items():
        data = dataclasses.replace(student.data, folds=_folds(network), fold=fold)
        rows = open_val(dataclasses.replace(student, data=data))
        assert isinstance(rows, (MemorySource, StreamSource))
        places_N = torch.from_numpy(rows.plan.selection.rows_R)
        parts.append((places_N, _answers(of_fold, rows, student)))
    size = max(int(places_N.max()) for places_N, _ in parts) + 1
    answers_NC = torch.full((size, len(network.prior_C)), torch.nan)
    for places_N, of_rows_NC in parts:
        answers_NC[places_N] = of_rows_NC
    return answers_NC


def _prior(model: Checkpoint) -> Tensor:
    """The class prior that the model's answers stand for."""
    network = model.network
    return network.prior_C.cpu() if isinstance(network, Ensemble) else stated_prior(model)


def _folds(network: Ensemble) -> int:
    """How many folds the rows were cut into, of which the networks saw all but one."""
    return max(int(str(member.settings.get("data.folds", 1))) for member in network.members)


def _by_fold(network: Ensemble, configuration: Callable[[str], str]) -> dict[int, Ensemble]:
    """Returns the networks of every fold as a model, in which a configuration counts the same."""
    counts = Counter(configuration(network.members[k].name) for k in network.picks)
    by_fold: dict[int, list[int]] = {}
    for k, member in enumerate(network.members):
        by_fold.setdefault(int(str(member.settings.get("data.fold", 0))), []).append(k)
    found = {}
    for fold, members in by_fold.items():
        own = [network.members[k] for k in members]
        picks = [k for k, m in enumerate(own) for _ in range(counts[configuration(m.name)])]
        found[fold] = Ensemble(network.schema, own, picks, network.prior_C).eval()
    return found


def _answers(network: Classifier, source: BatchSource, config: Config) -> Tensor:
    """The log probabilities that a model gives the rows of a source, [N, C]."""
    evaluator = evaluator_of(config)
    source = with_frozen_views(source, network, config)
    scores = evaluator.score(network.to(evaluator.device), source)
    return scores.logits_NEC.mean(1).log_softmax(-1)
