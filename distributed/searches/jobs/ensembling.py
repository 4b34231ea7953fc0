"""The model that a search ends with: built of its runs, and later scored on the test split.

Both happen in the process of a job, as a training does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributed.config import Config
from distributed.ensembles.building import build_model
from distributed.ensembles.held_out import OpenRows, evaluator_of
from distributed.runtime.errors import Failure, OptionError
from distributed.runtime.storage import DamagedFile, join, write_file
from distributed.searches.state.model_files import DESCRIPTION_FILE
from distributed.shards.batches import BatchSource, open_batches
from distributed.shards.folds import stored_rows
from distributed.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from distributed.training.finish import calibrated_metrics
from distributed.training.frozen_views import with_frozen_views
from distributed.training.results import read_metrics, write_metrics
from distributed.training.run import SharedArrays

Metrics = dict[str, float]
COSTS = ("train_seconds", "cpu_seconds")  # of a run's metrics.json


@dataclass(frozen=True)
class Ingredients:
    """What the model of a search is built of.

    members: names of the runs that it may be made of. leading: the one that the search prefers,
        which is the model where it may have one network only.
    configuration: of the runs that repeat another one on a fold of their own, its name.
    trials: the folder with a folder for each run.
    modalities: those that the model sees, as data.modalities names them.
    balanced: the model is for classes that count alike.
    limit: of the number of configurations.
    """

    members: Sequence[str]
    leading: str
    configuration: Mapping[str, str]
    trials: str
    modalities: str
    balanced: bool
    limit: int


def build(
    ingredients: Ingredients, shards: str, model: str, arrays: SharedArrays | None
) -> Metrics:
    """Builds the model of a search, saves it, and returns its metrics on validation.

    model: the folder that gets it.
    """
    leading = ingredients.leading
    members = ingredients.members
    if ingredients.limit == 1:
        members = [m for m in members if ingredients.configuration.get(m, m) == leading]
    candidates = load_candidates(members, ingredients.trials)
    if not candidates:
        raise Failure(f"no checkpoint of {', '.join(ingredients.members)} can be read")
    built = build_model(
        candidates,
        leading if leading in candidates else next(iter(candidates)),
        open_rows(shards, "val", arrays),
        configuration=ingredients.configuration,
        modalities=ingredients.modalities,
        balanced=ingredients.balanced,
        limit=ingredients.limit,
    )
    save_checkpoint(model, built.checkpoint)
    costs = training_costs([*built.counts], ingredients.trials)
    description = json.dumps(built.description(), indent=1)
    write_file(join(model, DESCRIPTION_FILE), description.encode())
    write_metrics(model, {"val": built.metrics, **costs})
    return built.metrics


def score_test(shards: str, model: str) -> Metrics:
    """Returns the metrics of the saved model on the test split, and notes them beside it."""
    metrics = score_split(load_checkpoint(model), shards, "test")
    write_metrics(model, {**read_metrics(model), "test": metrics})
    return metrics


def score_split(checkpoint: Checkpoint, shards: str, split: str) -> Metrics:
    """Returns the metrics of a checkpoint on a split; frozen parts are read from their files."""
    config, network = checkpoint.config, checkpoint.network
    evaluator = evaluator_of(config)
    source = with_frozen_views(open_rows(shards, split)(config), network, config)
    scores = evaluator.score(network.to(evaluator.device), source)
    return calibrated_metrics(scores, network, config, checkpoint.calibration)


def training_costs(names: Sequence[str], trials: str) -> dict[str, float]:
    """Returns what the training of the runs took together; nothing where one does not say it.

    Runs of earlier versions have no metrics.json.
    """
    costs = {}
    for cost in COSTS:
        values = [_noted(f"{trials}/{name}", cost) for name in names]
        known = [value for value in values if value is not None]
        if len(known) == len(names):
            costs[cost] = sum(known)
    return costs


def _noted(run: str, name: str) -> float | None:
    try:
        value = read_metrics(run).get(name)
    except (OSError, DamagedFile):
        return None
    return value if isinstance(value, float) else None


def load_candidates(names: Sequence[str], trials: str) -> dict[str, Checkpoint]:
    """Returns the checkpoints of the runs that have one, by name; damaged ones are left out."""
    found: dict[str, Checkpoint] = {}
    for name in names:
        try:
            found[name] = load_checkpoint(f"{trials}/{name}/checkpoint")
        except OptionError as error:
            print(f"note: run {name} is not in the ensemble: {error}", file=sys.stderr)
    return found


def open_rows(shards: str, split: str, arrays: SharedArrays | None = None) -> OpenRows:
    """Returns a function that opens a split of the search's data.

    arrays: splits that are decoded already.
    """

    def open_with(config: Config) -> BatchSource:
        decoded = (arrays or {}).get(stored_rows(split, config))
        return open_batches(shards, split, config, train=False, arrays=decoded)

    return open_with
