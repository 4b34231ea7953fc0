"""Every setting of the model with its default, its meaning and its valid range. No torch here: `--help` reads this file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

FUSIONS = ("confidence", "uniform", "gate", "late", "evidential")
WITHOUT_EXPERTS = ("late", "evidential")  # these combine the modalities' own heads
SCORES = ("surplus", "share", "level")
CLASSIFIERS = ("linear", "cosine", "etf")
LOSSES = ("prior", "sade", "focal", "class_balanced", "vs", "influence", "smoothing")
MIXES = ("none", "mixup", "remix")
NUMBER_EMBEDDINGS = ("linear", "piecewise", "periodic")


def option(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    metavar: str = "",
    shown: str | None = None,
    otherwise: Any = None,
    repeat: bool = False,
) -> Any:
    """A dataclass field that carries its own help text and its own valid range: a setting, or an option of a verb.

    For options of verbs only: metavar stands for the value in the help; shown replaces the default there (empty: no word of it);
    otherwise is the value where the default is None, "not given"; repeat: a flag a value (the default: several values behind one flag).
    """
    rules = {"help": meaning, "low": low, "high": high, "choices": choices}
    return field(
        default=default,
        metadata={
            **rules,
            "metavar": metavar,
            "shown": shown,
            "otherwise": otherwise,
            "repeat": repeat,
        },
    )


def required(meaning: str, metavar: str = "") -> Any:
    """A dataclass field without a default: an option that must be given."""
    return field(metadata={"help": meaning, "metavar": metavar})


def check(config: Any, prefix: str = "") -> None:
    """Raises ValueError (rule, offending value, valid choices) for the first setting outside its range."""
    for entry in dataclasses.fields(config):
        value, rule = getattr(config, entry.name), entry.metadata
        name = f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(value):
            check(value, f"{name}.")
            continue
        if rule.get("choices") and not any(
            value == c or _leaves_open(value, c) for c in rule["choices"]
        ):
            raise ValueError(f"{name} must be one of {', '.join(rule['choices'])}; got {value!r}")
        if rule.get("low") is not None and not value >= rule["low"]:
            raise ValueError(f"{name} must be at least {rule['low']}; got {value!r}")
        if rule.get("high") is not None and not value <= rule["high"]:
            raise ValueError(f"{name} must be at most {rule['high']}; got {value!r}")


def _leaves_open(value: Any, choice: str) -> bool:
    """Whether a choice such as kind:NAME leaves the name open."""
    kind, separator, _ = choice.partition(":NAME")
    return bool(separator) and str(value).startswith(f"{kind}:")


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    encoder: str = option(
        "resnet", "image encoder; timm:NAME needs the timm extra", choices=("resnet", "timm:NAME")
    )
    width: int = option(
        24,
        "channels of the first resnet stage; each further stage has twice as many",
        low=4,
        high=512,
    )
    blocks: int = option(1, "residual blocks after the last resnet stage", low=0, high=8)
    weights: str = option("", "local file of pretrained weights for a timm encoder")
    frozen: bool = option(False, "keep the timm encoder's weights as loaded")


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    numeric_embedding: str = option(
        "piecewise", "how a numeric column is embedded", choices=NUMBER_EMBEDDINGS
    )
    embedding_size: int = option(16, "size of one column's embedding", low=1, high=256)
    width: int = option(128, "hidden units of the residual table network", low=4, high=4096)
    blocks: int = option(2, "residual blocks of the table network", low=0, high=16)


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    kind: str = option("confidence", "how modalities are combined", choices=FUSIONS)
    score: str = option(
        "surplus",
        "what a confidence counts for: surplus: how far above chance it is, beside the record's best modality, in full beyond fusion.half_weight_at;"
        " share: the confidence in proportion; level: its exponential",
        choices=SCORES,
    )
    half_weight_at: float = option(
        0.2,
        "surplus: the share of the best modality's confidence above chance at which another counts half",
        low=1e-3,
        high=1.0,
    )
    temperature: float = option(
        1.0,
        "fusion temperature tau: large is plain concatenation, small picks the best modality (fusion.score=level: try 0.1)",
        low=1e-3,
    )
    normalise: str = option(
        "sum",
        "weights scaled so that they sum to M, or so that the largest is 1",
        choices=("sum", "max"),
    )
    folds: int = option(
        2,
        "cross-fitting folds F of the auxiliary heads; 1 is the in-sample confidence",
        low=1,
        high=16,
    )
    shrinkage: float = option(
        1000.0,
        "kappa, in training samples: how many a class needs before a sample's own confidence counts half",
        low=0.0,
    )
    correct_on_validation: bool = option(
        True, "correct the confidences by what validation shows after every epoch"
    )
    reject_unfamiliar: bool = option(
        True,
        "a modality of a record that is farther from the training rows than all of validation counts as absent (fusion.kind=confidence)",
    )
    momentum: float = option(
        0.05, "update rate of the running class-balanced confidence means", low=0.0, high=1.0
    )
    modality_dropout: float = option(
        0.1, "probability that a training sample loses each modality (never all)", low=0.0, high=0.9
    )
    auxiliary_weight: float = option(
        0.5, "alpha, weight of the auxiliary classifiers' loss", low=0.0
    )
    confidence_weight: float = option(1.0, "beta, weight of the confidence regression", low=0.0)


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    count: int = option(3, "number of experts E", low=1, high=8)
    hidden: int = option(128, "hidden units of one expert's residual block", low=4, high=4096)
    classifier: str = option(
        "linear",
        "linear, cosine (implied by loss.margin > 0) or etf (fixed neural-collapse directions)",
        choices=CLASSIFIERS,
    )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    name: str = option("prior", "the experts' classification loss", choices=LOSSES)
    average_prior_strength: float = option(
        1.0, "mean prior strength: 0 plain softmax, 1 balanced softmax", low=-4.0, high=4.0
    )
    spread_of_prior_strength: float = option(
        0.5,
        "the experts' prior strengths run from the average less this to the average plus this",
        low=0.0,
        high=4.0,
    )
    margin: float = option(
        0.0,
        "LDAM margin of the rarest class; 0 is off, as it is without experts (fusion.kind=late, evidential)",
        low=0.0,
        high=2.0,
    )
    scale: float = option(16.0, "scale s of the cosine classifier", low=1.0, high=64.0)
    drw: float = option(
        0.0,
        "share of the epochs, at the end, with effective-number class weights (deferred re-weighting); 0 is off",
        low=0.0,
        high=1.0,
    )
    focal_gamma: float = option(
        0.0, "focal exponent gamma, which loss.name=focal needs (2 is usual)", low=0.0, high=10.0
    )
    effective_beta: float = option(
        0.999, "beta of the effective number of samples", low=0.0, high=0.999999
    )
    vs_gamma: float = option(
        0.15, "VS loss: exponent of the multiplicative adjustment", low=0.0, high=1.0
    )
    smoothing_head: float = option(
        0.2, "label-aware smoothing of the largest class", low=0.0, high=0.9
    )
    smoothing_tail: float = option(
        0.0, "label-aware smoothing of the smallest class", low=0.0, high=0.9
    )
    diversity: float = option(
        0.0,
        "weight of RIDE's diversity term between experts; 0 is off, from 1 on it outgrows the cross-entropy",
        low=0.0,
        high=0.99,
    )
    mix: str = option("none", "blend pairs of training samples", choices=MIXES)
    mix_alpha: float = option(0.2, "Beta(alpha, alpha) of the blend", low=0.01, high=10.0)
    remix_kappa: float = option(3.0, "Remix: count ratio from which the rarer label wins", low=1.0)
    remix_tau: float = option(
        0.5, "Remix: blend share below which the rarer label wins", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    dim: int = option(128, "embedding size D of every modality", low=4, high=4096)
    image: ImageConfig = ImageConfig()
    table: TableConfig = TableConfig()
    fusion: FusionConfig = FusionConfig()
    experts: ExpertsConfig = ExpertsConfig()
    loss: LossConfig = LossConfig()


def classifier_kind(experts: ExpertsConfig, loss: LossConfig) -> str:
    """The experts' kind of classifier: a margin needs cosines."""
    return "cosine" if loss.margin > 0 and experts.classifier == "linear" else experts.classifier
