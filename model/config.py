"""Every setting of the model, with its default, its meaning and its valid range.

This file imports no torch, because every command reads it to print `--help`.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.declarations import option

IMAGE_ENCODERS = ("auto", "resnet", "efficientnet_lite0", "timm:NAME")
TRAINABLE = ("head", "top", "all", "bias")
FUSIONS = ("mixture", "confidence", "uniform", "gate", "late", "evidential")
WITHOUT_EXPERTS = ("late", "evidential")  # these combine the modalities' auxiliary heads instead
WITH_NOVELTY_GATE = ("mixture", "confidence")
SCORES = ("surplus", "share", "level")
CLASSIFIERS = ("linear", "cosine", "etf")
LOSSES = ("prior", "sade", "focal", "class_balanced", "vs", "influence", "smoothing")
SECOND_STAGES = ("crt", "lws", "tau")
OFFSET_METRICS = ("balanced_accuracy", "macro_f1", "worst_recall")
MIRRORS = ("auto", "none", "horizontal", "vertical", "both")
# Kinds of records that training spoils, and of images that it degrades; see model/learning.
SPOILING_KINDS = ("noise", "blank", "blur", "cover", "exchange")
DEGRADING_KINDS = (
    "tone",
    "recolour",
    "coarsen",
    "compress",
    "strike_out",
    "speckle",
    "hide",
    "turn",
)
MIXES = ("none", "mixup", "remix")
TABLE_ENCODERS = ("mlp", "tabm")
NUMBER_EMBEDDINGS = ("linear", "piecewise", "periodic")


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Settings of the image encoders."""

    encoder: str = option(
        "auto",
        "image encoder: resnet is trained from scratch; efficientnet_lite0 has ImageNet weights;"
        " timm:NAME is a model of timm (extra `timm`); auto: efficientnet_lite0 for colour images"
        " with sides of at least 32 pixels, else resnet",
        choices=IMAGE_ENCODERS,
    )
    width: int = option(
        24,
        "channels of the first resnet stage; each further stage has twice as many",
        low=4,
        high=512,
    )
    blocks: int = option(1, "residual blocks after the last resnet stage", low=0, high=8)
    weights: str = option(
        "", "pretrained weights of a timm encoder: a local file, or hub to download them once"
    )
    trainable: str = option(
        "head",
        "which weights of a pretrained encoder are trained: head: none, only what follows it; top:"
        " its last layers; all; bias: its biases",
        choices=TRAINABLE,
    )
    views: int = option(
        8,
        "augmented views of every training image for which the frozen part of a pretrained encoder"
        " is computed once; 0: anew for every batch",
        low=0,
        high=1000,
    )


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Settings of the table encoders."""

    encoder: str = option(
        "mlp",
        "table encoder: mlp is a residual network; tabm is TabM's ensemble of 16 networks that"
        " share most of their weights, whose mean output is the embedding",
        choices=TABLE_ENCODERS,
    )
    numeric_embedding: str = option(
        "piecewise", "how a numeric column is embedded", choices=NUMBER_EMBEDDINGS
    )
    embedding_size: int = option(16, "size of one column's embedding", low=1, high=256)
    width: int = option(128, "hidden units of the table network", low=4, high=4096)
    blocks: int = option(
        2, "residual blocks of the table network; of tabm its layers, at least 1", low=0, high=16
    )
    screen: float = option(
        0.2, "false discovery rate of the columns that wide tables use; 0: all", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Settings of how the modalities are combined."""

    kind: str = option(
        "mixture",
        "how modalities are combined: mixture: answers from every subset of them, weighted by the"
        " trust in each; confidence: embeddings weighted by confidences; uniform: plain"
        " concatenation; gate: embeddings weighted by a learned gate; late: mean of the modalities'"
        " own answers; evidential: Dempster and Shafer's rule",
        choices=FUSIONS,
    )
    score: str = option(
        "surplus",
        "how a confidence becomes a weight: surplus: by how far it is above chance, relative to the"
        " record's best modality (see fusion.half_weight_at); share: in proportion; level: by its"
        " exponential",
        choices=SCORES,
    )
    half_weight_at: float = option(
        0.2,
        "fusion.score=surplus: a modality gets half its full weight where its confidence above"
        " chance is this share of the best modality's",
        low=1e-3,
        high=1.0,
    )
    temperature: float = option(
        1.0,
        "fusion temperature tau: large lets all modalities, or subsets of them, count alike, small"
        " picks the best (fusion.score=level: try 0.1)",
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
        "kappa: number of training samples of a class at which a sample's own confidence counts"
        " half and the mean over all classes the other half",
        low=0.0,
    )
    correct_on_validation: bool = option(
        True, "correct the confidences by their error on the validation rows after every epoch"
    )
    doubt: bool = option(
        True,
        "lower the trust in a modality as far as validation rows are then classified better"
        " (fusion.kind=mixture)",
    )
    reject_unfamiliar: bool = option(
        True,
        "treat a modality of a record as absent if it is farther from the training rows than every"
        " validation row and degraded training image (fusion.kind=mixture, confidence)",
    )
    joint_confidence: bool = option(
        False, "a modality's confidence is estimated from all modalities, not from itself alone"
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
    subset_weight: float = option(
        0.5,
        "fusion.kind=mixture: weight of the loss of the answers from every subset of a record's"
        " modalities",
        low=0.0,
    )
    trust_weight: float = option(
        0.3,
        "fusion.kind=mixture: weight of the loss by which the trust learns which modalities were"
        " spoilt on purpose (data.spoil)",
        low=0.0,
    )


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Settings of the experts."""

    count: int = option(3, "number of experts E", low=1, high=8)
    hidden: int = option(128, "hidden units of one expert's residual block", low=4, high=4096)
    classifier: str = option(
        "linear",
        "linear, cosine (implied by loss.margin > 0) or etf (fixed neural-collapse directions)",
        choices=CLASSIFIERS,
    )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Settings of the training loss and of the blending of samples."""

    name: str = option("prior", "the experts' classification loss", choices=LOSSES)
    average_prior_strength: float = option(
        1.0,
        "average over the experts of the prior strength: 0 plain softmax, 1 balanced softmax",
        low=-4.0,
        high=4.0,
    )
    spread_of_prior_strength: float = option(
        0.5,
        "the experts' prior strengths run from the average less this to the average plus this",
        low=0.0,
        high=4.0,
    )
    margin: float = option(
        0.0,
        "LDAM margin of the rarest class; 0 is off; without experts (fusion.kind=late, evidential)"
        " it has no effect",
        low=0.0,
        high=2.0,
    )
    scale: float = option(16.0, "scale s of the cosine classifier", low=1.0, high=64.0)
    drw: float = option(
        0.0,
        "deferred re-weighting: share of the epochs, at the end, with effective-number class"
        " weights; 0 is off",
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
        "weight of RIDE's diversity term between experts; 0 is off, from 1 on it outgrows the"
        " cross-entropy",
        low=0.0,
        high=0.99,
    )
    trust_labels: float = option(
        0.0,
        "how much less a training row counts whose label the classifiers that have not learned from"
        " it doubt: 0 is off, 1 lets it count by the probability that its label is right, and more"
        " where less than half of its class would count; needs fusion.folds of at least 2",
        low=0.0,
        high=1.0,
    )
    teacher_weight: float = option(
        0.7,
        "where a network learns from a teacher's answers: their share of the classification loss;"
        " the labels have the rest",
        low=0.0,
        high=1.0,
    )
    mix: str = option("none", "blend pairs of training samples", choices=MIXES)
    mix_alpha: float = option(0.2, "Beta(alpha, alpha) of the blend", low=0.01, high=10.0)
    remix_kappa: float = option(3.0, "Remix: count ratio from which the rarer label wins", low=1.0)
    remix_tau: float = option(
        0.5, "Remix: blend share below which the rarer label wins", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All settings of the network and of its loss."""

    dim: int = option(128, "embedding size D of every modality", low=4, high=4096)
    mirror: str = option(
        "none",
        "at test, an image is seen together with these mirror images of it; the settings of a run"
        " name it by data.flip and inference.mirror",
        choices=MIRRORS,
    )
    image: ImageConfig = ImageConfig()
    table: TableConfig = TableConfig()
    fusion: FusionConfig = FusionConfig()
    experts: ExpertsConfig = ExpertsConfig()
    loss: LossConfig = LossConfig()


def classifier_kind(experts: ExpertsConfig, loss: LossConfig) -> str:
    """Returns the kind of the experts' classifiers: a margin turns linear ones into cosine ones."""
    return "cosine" if loss.margin > 0 and experts.classifier == "linear" else experts.classifier
