"""What can be trained: settings that must go together, and with the data. No torch here: searches and studies ask before they begin."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from distributed.config import Config
from distributed.shards.sampling import training_counts
from model.config import WITHOUT_EXPERTS, classifier_kind
from model.schema import Schema, join_names


def check_training(
    config: Config, schema: Schema, validation_rows: int, asked: Collection[str] = ()
) -> None:
    """Refuses what cannot be trained on such a data set, as far as that shows without a network; a trained model is loaded all the same.

    asked: settings that a search space has yet to answer.
    """
    if not validation_rows:
        raise ValueError(
            "training needs validation rows: they pick the epoch and fit the calibration; the val split has none"
        )
    rows, workers = (
        int(
            training_counts(schema.counts, config.data.imbalance_ratio, config.data.max_rows).sum()
        ),
        config.scaling.workers,
    )
    check_class("optim.metric", config.optim.metric, schema.classes)
    stage, image, loss = config.stage.kind, config.image, config.loss
    kind = classifier_kind(config.experts, loss)
    rules = [
        (
            {"scaling.workers", "data.max_rows", "data.imbalance_ratio"},
            rows < workers,
            f"every worker needs a training row; got scaling.workers={workers} and {rows} rows in use",
        ),
        (
            {"fusion.kind"},
            stage != "none" and config.fusion.kind in WITHOUT_EXPERTS,
            f"stage.kind={stage} needs experts, which fusion.kind={config.fusion.kind} has not",
        ),
        (
            {"loss.margin", "experts.classifier"},
            stage != "none" and kind != "linear",
            f"stage.kind={stage} needs linear classifiers; loss.margin={loss.margin:g} and "
            f"experts.classifier={config.experts.classifier} make them {kind}",
        ),
        (
            {"image.encoder"},
            image.encoder == "resnet" and bool(image.weights or image.frozen),
            "image.weights and image.frozen need a timm encoder; got image.encoder=resnet",
        ),
        (
            {"image.weights"},
            image.frozen and not image.weights,
            "image.frozen needs image.weights: an encoder that stays as it is must have been trained; got none",
        ),
        (
            {"loss.focal_gamma"},
            loss.name == "focal" and not loss.focal_gamma,
            "loss.name=focal needs loss.focal_gamma above 0 (2 is usual); got 0, which is plain cross-entropy",
        ),
    ]
    for settings, broken, rule in rules:
        if broken and not settings & set(asked):
            raise ValueError(rule)


def check_class(name: str, metric: str, classes: Sequence[str]) -> None:
    """Of a metric of one class, that the data has it."""
    kind, separator, asked = metric.partition("/")
    if separator and asked not in classes:
        raise ValueError(
            f"{name}={kind}/CLASS must name a class of the data: {join_names(classes)}; got {asked!r}"
        )
