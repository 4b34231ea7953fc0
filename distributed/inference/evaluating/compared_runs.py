"""Scores several checkpoints on the same rows, for a comparison.

Legend: N rows, C classes.
"""

from __future__ import annotations

import dataclasses
import posixpath
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.inference.evaluating.scored_split import score_split
from distributed.inference.options import EvaluateOptions
from distributed.inference.weighing import torch_threads
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import DamagedFile
from distributed.training.checkpoint import find_checkpoint, parse_checkpoint
from distributed.training.results import read_metrics


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One checkpoint with its decisions on the compared rows.

    counts_C: training rows of each class; those of the first run for all of them, so that few-shot
        classes are the same ones.
    on_validation: the compared metric on the validation rows of its run; None where nothing says.
    train_seconds, train_cpu_seconds: of the clock and of the processors, of all networks that it
        is made of. scoring_cpu_seconds: of scoring these rows. size: bytes of model.pt.
    """

    name: str
    location: str
    probabilities_NC: Tensor
    labels_N: Tensor
    decisions_N: Tensor
    classes: tuple[str, ...]
    counts_C: Tensor
    on_validation: float | None
    train_seconds: float | None
    train_cpu_seconds: float | None
    scoring_cpu_seconds: float
    size: int
    parameters: int

    @property
    def scored(self) -> tuple[Tensor, Tensor, Tensor]:
        """What every metric is computed from."""
        return self.probabilities_NC, self.labels_N, self.counts_C


def score_runs(options: EvaluateOptions) -> tuple[dict[str, ComparedRun], list[str]]:
    """Returns the compared runs by location, and notes on those that hold no checkpoint."""
    scored: dict[str, ComparedRun] = {}
    passed_over: list[str] = []
    names = _short_names([*dict.fromkeys(map(run_folder, options.compare))])
    for location in dict.fromkeys(map(run_folder, options.compare)):
        try:
            content = find_checkpoint(location)
        except OptionError as error:
            passed_over.append(f"passed over: {error}")
            continue
        run = _score_one(content, location, names[location], options)
        first = next(iter(scored.values()), run)
        if set(run.classes) != set(first.classes):
            raise OptionError(
                f"compare needs checkpoints of the same classes; {location} has others than "
                f"{first.location}",
                "compare",
            )
        scored[location] = _like(run, first)
    if not scored:
        raise OptionError(
            f"compare must name runs or checkpoints; got none: {'; '.join(passed_over)}", "compare"
        )
    return scored, passed_over


def _score_one(content: bytes, location: str, name: str, options: EvaluateOptions) -> ComparedRun:
    """Scores one checkpoint. content: its model.pt."""
    checkpoint = parse_checkpoint(content, location)
    if options.trust_unfamiliar:
        checkpoint.network.accept_all_modalities()
    single = dataclasses.replace(options, compare=(), checkpoint=location)
    with torch_threads(checkpoint.config.scaling.threads):
        started = time.process_time()
        decided = score_split(checkpoint, single).rows
        cpu_seconds = time.process_time() - started
    metrics = _metrics_of_run(location)
    values = metrics.get("val")
    on_validation = values.get(options.metric) if isinstance(values, dict) else None
    seconds, train_cpu_seconds = metrics.get("train_seconds"), metrics.get("cpu_seconds")
    return ComparedRun(
        name=name,
        location=location,
        probabilities_NC=decided.probabilities_NC,
        labels_N=decided.labels_N,
        decisions_N=decided.decided.decided_N,
        classes=decided.classes,
        counts_C=decided.counts_C,
        on_validation=on_validation,
        train_seconds=seconds if isinstance(seconds, float) else None,
        train_cpu_seconds=train_cpu_seconds if isinstance(train_cpu_seconds, float) else None,
        scoring_cpu_seconds=cpu_seconds,
        size=len(content),
        parameters=sum(tensor.numel() for tensor in checkpoint.network.parameters()),
    )


def _like(run: ComparedRun, first: ComparedRun) -> ComparedRun:
    """Returns the run with the classes numbered, and grouped by training rows, as in the first."""
    places_C = torch.tensor([run.classes.index(name) for name in first.classes])
    # The new number of every old one, and at the end that of a row without a label.
    numbers = torch.cat([torch.argsort(places_C), torch.tensor([-1])])
    return dataclasses.replace(
        run,
        probabilities_NC=run.probabilities_NC[:, places_C],
        labels_N=numbers[run.labels_N],
        decisions_N=numbers[run.decisions_N],
        classes=first.classes,
        counts_C=first.counts_C,
    )


def _metrics_of_run(location: str) -> Mapping[str, object]:
    """Returns what metrics.json of a run holds; nothing where there is none."""
    try:
        return read_metrics(location)
    except (OSError, DamagedFile):
        return {}


def run_folder(location: str) -> str:
    """Returns the folder of a run, also where its checkpoint folder is named."""
    return location.rstrip("/").removesuffix("/checkpoint")


def _short_names(locations: Sequence[str]) -> dict[str, str]:
    """Returns the last parts of the locations, as many as tell them apart."""
    for parts in range(1, max(place.count("/") for place in locations) + 2):
        names = {place: posixpath.join(*place.split("/")[-parts:]) for place in locations}
        if len(set(names.values())) == len(locations):
            return names
    return {place: place for place in locations}
