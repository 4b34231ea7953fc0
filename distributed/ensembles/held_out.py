"""The answers of runs for rows that they were not trained on, fold by fold.

Legend: K candidates, V validation rows of all folds together, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distributed.config import Config
from distributed.shards.batches import BatchSource
from distributed.training.checkpoint import Checkpoint
from distributed.training.frozen_views import with_frozen_views
from distributed.training.optimisation.precision import compute_dtype
from distributed.training.run import default_device
from distributed.training.scoring import Evaluator, Scores
from model.ensemble import Ensemble
from model.member import Member, by_trust, log_posterior

# Opens the rows of a split with the modalities and the fold of a configuration.
OpenRows = Callable[[Config], BatchSource]
Runs = Mapping[str, str]  # the run of each configuration that has one, on one fold


@dataclass(frozen=True)
class FoldedRuns:
    """The runs of some configurations on the folds that the leading one has.

    candidates: checkpoints by the name of the run. leading: the leading configuration.
    by_fold: its runs and those of the others, by the number of the fold.
    """

    candidates: Mapping[str, Checkpoint]
    leading: str
    by_fold: Mapping[int, Runs]

    @classmethod
    def group(
        cls, candidates: Mapping[str, Checkpoint], leading: str, configuration: Mapping[str, str]
    ) -> FoldedRuns:
        """Returns the runs by fold.

        configuration: of a run that repeats one on another fold; others are their own.
        """
        by_fold: dict[int, dict[str, str]] = {}
        for name, checkpoint in candidates.items():
            fold = checkpoint.config.data.fold
            by_fold.setdefault(fold, {})[configuration.get(name, name)] = name
        kept = {fold: runs for fold, runs in sorted(by_fold.items()) if leading in runs}
        return cls(candidates, leading, kept)

    @property
    def configurations(self) -> list[str]:
        """Those with a run on a fold that the leading one has, it first."""
        names = [name for runs in self.by_fold.values() for name in runs]
        return list(dict.fromkeys([self.leading, *names]))

    def of(self, configuration: str) -> list[str]:
        """The runs of a configuration, by fold."""
        return [runs[configuration] for runs in self.by_fold.values() if configuration in runs]

    def first(self, configuration: str) -> Checkpoint:
        return self.candidates[self.of(configuration)[0]]

    def answering(self, configuration: str, fold: int) -> str:
        """The run that answers for a configuration on the held-out rows of a fold.

        It is that of the leading configuration where this one was not trained on the fold.
        """
        runs = self.by_fold[fold]
        return runs.get(configuration, runs[self.leading])


@dataclass(frozen=True)
class HeldOutRows:
    """The held-out rows of every fold.

    config: with the modalities of the model. open_val: opens validation rows.
    """

    runs: FoldedRuns
    config: Config
    open_val: OpenRows

    def folds(self) -> Iterator[tuple[int, Config, BatchSource]]:
        """Every fold with its settings and its rows."""
        for fold in self.runs.by_fold:
            data = dataclasses.replace(self.config.data, fold=fold)
            config = dataclasses.replace(self.config, data=data)
            yield fold, config, self.open_val(config)

    def answers(
        self, members: Mapping[str, Member], prior_C: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the log probabilities of each configuration, [V, C], and the labels.

        members: by the name of the run.
        """
        names = self.runs.configurations
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        labels = []
        for fold, _, val in self.folds():
            runs = {name: self.runs.candidates[r] for name, r in self.runs.by_fold[fold].items()}
            own_members = {name: members[run] for name, run in self.runs.by_fold[fold].items()}
            own, labels_V = _answers(runs, own_members, val, prior_C)
            own_answers = _by_trust(own, runs, self.runs.leading, val)
            for name in names:
                parts[name].append(own_answers.get(name, own_answers[self.runs.leading]))
            labels.append(labels_V)
        return {name: torch.cat(part) for name, part in parts.items()}, torch.cat(labels)

    def score(self, ensemble_of: Callable[[int], Ensemble]) -> Scores:
        """Returns what the ensembles of the folds give their held-out rows."""
        parts = []
        for fold, config, val in self.folds():
            network, evaluator = ensemble_of(fold), evaluator_of(config)
            source = with_frozen_views(val, network, config)
            parts.append(evaluator.score(network.to(evaluator.device), source))
        return join_scores(parts)


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Returns the scores of several sources as those of one."""
    if len(parts) == 1:
        return parts[0]
    names = [f.name for f in dataclasses.fields(Scores) if f.name not in ("agreement", "places_N")]
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in names
    }
    return Scores(**joined, places_N=torch.arange(len(joined["labels_N"])))


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
