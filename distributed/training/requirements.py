"""Refuses settings that cannot be trained, alone or with the data, before anything starts.

No torch is loaded here: searches and studies check their trainings in light processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from distributed.config import Config, split_list
from distributed.shards.sampling import training_counts
from model.config import DEGRADING_KINDS, SPOILING_KINDS, WITHOUT_EXPERTS, classifier_kind
from model.schema import Schema, join_names


@dataclass(frozen=True)
class Conflict:
    """Settings that cannot be trained together. settings: those that could be changed."""

    settings: frozenset[str]
    message: str


def check_training(
    config: Config, schema: Schema, validation_rows: int, undecided: Collection[str] = ()
) -> None:
    """Raises ValueError for what cannot be trained on such data, as far as plain values show it.

    Loading a trained model does not need this check.

    undecided: settings that a search will choose; conflicts that they may solve are no error.
    """
    if not validation_rows:
        raise ValueError(
            "training needs validation rows: they pick the epoch and fit the calibration; "
            "the val split has none"
        )
    check_class("optim.metric", config.optim.metric, schema.classes)
    for conflict in find_conflicts(config, schema):
        if not conflict.settings & set(undecided):
            raise ValueError(conflict.message)


def find_conflicts(config: Config, schema: Schema) -> Iterator[Conflict]:
    """All rules that the settings break."""
    data = config.data
    stage = config.stage.kind
    image = config.image
    loss = config.loss
    workers = config.scaling.workers
    rows = int(training_counts(schema.counts, data.imbalance_ratio, data.max_rows).sum())
    if rows < workers:
        yield Conflict(
            frozenset({"scaling.workers", "data.max_rows", "data.imbalance_ratio"}),
            f"every worker needs a training row; got scaling.workers={workers} "
            f"and {rows} rows in use",
        )
    kinds = SPOILING_KINDS + DEGRADING_KINDS
    for unknown in [kind for kind in split_list(data.spoil_without) if kind not in kinds]:
        yield Conflict(
            frozenset({"data.spoil_without"}),
            f"data.spoil_without must name kinds of {', '.join(kinds)}; got {unknown!r}",
        )
    if data.fold >= data.folds:
        yield Conflict(
            frozenset({"data.fold", "data.folds"}),
            f"data.fold must be below data.folds={data.folds}; got {data.fold}",
        )
    if loss.trust_labels and config.fusion.folds < 2:
        yield Conflict(
            frozenset({"loss.trust_labels", "fusion.folds"}),
            "loss.trust_labels needs classifiers that have not learned from a row, "
            f"fusion.folds of at least 2; got fusion.folds={config.fusion.folds}",
        )
    if stage != "none" and config.fusion.kind in WITHOUT_EXPERTS:
        yield Conflict(
            frozenset({"fusion.kind"}),
            f"stage.kind={stage} needs experts, which fusion.kind={config.fusion.kind} has not",
        )
    kind = classifier_kind(config.experts, loss)
    if stage != "none" and kind != "linear":
        yield Conflict(
            frozenset({"loss.margin", "experts.classifier"}),
            f"stage.kind={stage} needs linear classifiers; loss.margin={loss.margin:g} and "
            f"experts.classifier={config.experts.classifier} make them {kind}",
        )
    if image.weights and not image.encoder.startswith("timm:"):
        yield Conflict(
            frozenset({"image.encoder"}),
            f"image.weights needs a timm encoder; got image.encoder={image.encoder}",
        )
    if loss.name == "focal" and not loss.focal_gamma:
        yield Conflict(
            frozenset({"loss.focal_gamma"}),
            "loss.name=focal needs loss.focal_gamma above 0 (2 is usual); got 0, which is plain "
            "cross-entropy",
        )


def check_class(setting: str, metric: str, classes: Sequence[str]) -> None:
    """Raises ValueError if the metric is of a class that the data does not have."""
    family, separator, name = metric.partition("/")
    if separator and name not in classes:
        raise ValueError(
            f"{setting}={family}/CLASS must name a class of the data: "
            f"{join_names(classes)}; got {name!r}"
        )
