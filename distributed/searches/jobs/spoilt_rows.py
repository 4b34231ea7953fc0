"""What the search found, on test rows of which one modality is spoilt: scores and two examples.

It is computed after everything has been decided, in the process of a job.

Legend: N rows, M modalities, C classes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.config import Config
from distributed.ensembles.held_out import evaluator_of
from distributed.raw.rows import ID
from distributed.runtime.storage import join, write_file
from distributed.searches.jobs.ensembling import open_rows
from distributed.searches.state.model_files import (
    SPOILT_FILE,
    Answer,
    ExampleRow,
    Lead,
    RunScores,
    SpoiltContent,
    Voice,
)
from distributed.shards.batches import BatchSource, MemorySource, StreamSource
from distributed.shards.corruption import parse_corruption
from distributed.shards.index import read_index
from distributed.shards.single_rows import read_columns, storage_rows
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.finish import calibrated_metrics
from distributed.training.frozen_views import with_frozen_views
from distributed.training.scoring import Scores, modality_posteriors
from model.schema import Schema

METRICS = ("balanced_accuracy", "balanced_nll", "few_shot_accuracy")
MODEL = "the model"


@dataclass(frozen=True)
class Answers:
    """What a checkpoint answers on the rows: calibrated probabilities, and how it came to them."""

    scores: Scores
    probabilities_NC: Tensor


@dataclass(frozen=True)
class SpoiltTest:
    """What is scored on which rows.

    runs: folders of checkpoints by their names, MODEL among them.
    plain: name of the run of plain concatenation; empty where there is none.
    corrupt: what spoils the rows, as data.corrupt has it. seed: of that.
    """

    runs: Mapping[str, str]
    plain: str
    shards: str
    corrupt: str
    seed: int


def score_spoilt(test: SpoiltTest) -> dict[str, float]:
    """Scores checkpoints on test rows as they are and spoilt, and writes it beside the model.

    Returns the model's metrics on the spoilt rows.
    """
    shards, corrupt, seed = test.shards, test.corrupt, test.seed
    found: list[RunScores] = []
    answers: dict[str, Answers] = {}
    of_model: dict[str, float] = {}
    for title, folder in test.runs.items():
        checkpoint = load_checkpoint(folder)
        metrics: dict[str, dict[str, float]] = {}
        for condition, spoilt_by in (("untouched", ""), ("spoilt", corrupt)):
            config = _config(checkpoint, spoilt_by, seed)
            scores = _scores(checkpoint, config, shards)
            metrics[condition] = calibrated_metrics(
                scores, checkpoint.network, config, checkpoint.calibration
            )
        logits_NEC = checkpoint.calibration.scale(scores.logits_NEC)
        answers[title] = Answers(scores, logits_NEC.mean(1).softmax(-1))
        of_model = metrics["spoilt"] if title == MODEL else of_model
        chosen = {
            condition: {name: values[name] for name in METRICS}
            for condition, values in metrics.items()
        }
        found.append({"title": title, "scores": chosen})
    content: SpoiltContent = {
        "corrupt": corrupt,
        "rows": len(next(iter(answers.values())).probabilities_NC),
        "runs": found,
        "lead": _lead(test, answers),
        "examples": _examples(test, answers),
    }
    write_file(join(test.runs[MODEL], SPOILT_FILE), json.dumps(content, indent=1).encode())
    return of_model


def _lead(test: SpoiltTest, answers: Mapping[str, Answers]) -> Lead | None:
    """By how much the model's balanced accuracy on the spoilt rows is above plain concatenation's.

    error: the standard error of the paired difference. None without plain concatenation.
    """
    if test.plain not in answers:
        return None
    ours, theirs = answers[MODEL], answers[test.plain]
    labels_N = ours.scores.labels_N
    ours_N, theirs_N = (
        (one.probabilities_NC.argmax(1) == labels_N).double() for one in (ours, theirs)
    )
    classes = ours.probabilities_NC.shape[1]
    gains = [(ours_N - theirs_N)[labels_N == c] for c in range(classes)]
    gains = [gain_K for gain_K in gains if len(gain_K)]
    variance = sum(float(gain_K.var(correction=0)) / len(gain_K) for gain_K in gains)
    return {
        "difference": sum(float(gain_K.mean()) for gain_K in gains) / len(gains),
        "error": math.sqrt(variance) / len(gains),
    }


def _config(checkpoint: Checkpoint, corrupt: str, seed: int) -> Config:
    """The settings under which a checkpoint is scored.

    What spoils modalities that it lacks is left out; what spoils its own data stays.
    """
    config = checkpoint.config
    terms = [
        term
        for term in corrupt.split(",")
        if term.partition("=")[0].strip() in checkpoint.network.schema.modalities
    ]
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, corrupt=",".join(filter(None, [config.data.corrupt, *terms]))
        ),
        optim=dataclasses.replace(config.optim, seed=seed),
    )


def _source(checkpoint: Checkpoint, config: Config, shards: str) -> BatchSource:
    source = open_rows(shards, "test")(config)
    return with_frozen_views(source, checkpoint.network, config)


def _scores(checkpoint: Checkpoint, config: Config, shards: str) -> Scores:
    evaluator, source = evaluator_of(config), _source(checkpoint, config, shards)
    return evaluator.score(checkpoint.network.to(evaluator.device), source)


def _examples(test: SpoiltTest, answers: Mapping[str, Answers]) -> list[ExampleRow]:
    """A spoilt row and an untouched one that the model decides rightly, in detail.

    They are of the rarest classes for which there are any; the spoilt one is rather one that plain
    concatenation decides wrongly.
    """
    checkpoint = load_checkpoint(test.runs[MODEL])
    schema, config = checkpoint.network.schema, _config(checkpoint, test.corrupt, test.seed)
    source = _source(checkpoint, config, test.shards)
    posterior_NMC = _alone(checkpoint, config, source)
    spoilt_N = _is_spoilt(test, checkpoint)
    ours, theirs = answers[MODEL], answers.get(test.plain)
    labels_N = ours.scores.labels_N
    right_N = ours.probabilities_NC.argmax(1) == labels_N
    fooled_N = torch.zeros_like(right_N)
    if theirs is not None:
        fooled_N = theirs.probabilities_NC.argmax(1) != labels_N
    rarity_N = -checkpoint.network.counts_C.cpu()[labels_N.clamp_min(0)]
    sure_N = ours.probabilities_NC.amax(1)
    found: list[ExampleRow] = []
    for wanted_N in (spoilt_N & right_N, ~spoilt_N & right_N):
        if not wanted_N.any():
            continue
        # The order of importance: fooled, then rare, then sure.
        rank_N = fooled_N * 1e12 + rarity_N.double() * 10 + sure_N
        place = int(rank_N.masked_fill(~wanted_N, -torch.inf).argmax())
        found.append(
            {
                "id": _row_id(source, test.shards, place),
                "spoilt": bool(spoilt_N[place]),
                "truth": schema.classes[int(labels_N[place])],
                "modalities": _voices(schema, posterior_NMC[place], ours.scores, place),
                "model": _top(schema, ours.probabilities_NC[place]),
                "plain": None if theirs is None else _top(schema, theirs.probabilities_NC[place]),
            }
        )
    return found


@torch.inference_mode()
def _alone(checkpoint: Checkpoint, config: Config, source: BatchSource) -> Tensor:
    """What each modality says alone, [N, M, C]."""
    pairs = evaluator_of(config).forward(checkpoint.network, source)
    return torch.cat([modality_posteriors(outputs)[0] for _, outputs in pairs])


def _is_spoilt(test: SpoiltTest, checkpoint: Checkpoint) -> Tensor:
    """Which rows have a spoilt modality: those whose content the corruption changes."""
    untouched, spoilt = (_config(checkpoint, corrupt, test.seed) for corrupt in ("", test.corrupt))
    names = {
        term.modality for term in parse_corruption(spoilt.data.corrupt, checkpoint.network.schema)
    }
    changed: list[Tensor] = []
    pairs = zip(
        open_rows(test.shards, "test")(untouched).batches(0),
        open_rows(test.shards, "test")(spoilt).batches(0),
        strict=True,
    )
    for before, after in pairs:
        differs_B = torch.zeros(len(before), dtype=torch.bool)
        for kind in ("images", "numbers", "categories"):
            own, other = getattr(before, kind), getattr(after, kind)
            for name in names & own.keys():
                same = torch.isclose(own[name].float(), other[name].float(), equal_nan=True)
                differs_B |= ~same.flatten(1).all(1)
        differs_B |= (before.present_BM != after.present_BM).any(1)
        changed.append(differs_B)
    return torch.cat(changed)


def _row_id(source: BatchSource, shards: str, place: int) -> str:
    assert isinstance(source, (MemorySource, StreamSource))
    rows = storage_rows(source, torch.tensor([place]).numpy())
    return str(read_columns(read_index(shards, "test"), rows, [ID])[ID][0].as_py())


def _voices(schema: Schema, posterior_MC: Tensor, scores: Scores, place: int) -> list[Voice]:
    """What each modality of a row says alone, and how much the answer goes by it."""
    return [
        {
            "name": name,
            "present": bool(scores.present_NM[place, m]),
            **_top(schema, posterior_MC[m]),
            "weight": float(scores.weights_NM[place, m]),
        }
        for m, name in enumerate(schema.modalities)
    ]


def _top(schema: Schema, probabilities_C: Tensor) -> Answer:
    best = int(probabilities_C.argmax())
    return {"says": schema.classes[best], "probability": float(probabilities_C[best])}
