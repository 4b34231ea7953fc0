"""Every setting of a run with its default, its valid range and its meaning."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import (
    DEGRADING_KINDS,
    OFFSET_METRICS,
    SECOND_STAGES,
    SPOILING_KINDS,
    ExpertsConfig,
    FusionConfig,
    ImageConfig,
    LossConfig,
    ModelConfig,
    TableConfig,
)
from model.declarations import option
from model.limits import MAX_SEED

CACHE_MODES = ("auto", "memory", "stream")
STREAM_ENGINES = ("auto", "threads", "ray")
SAMPLERS = ("instance", "balanced", "sqrt", "progressive")
OPTIMISERS = ("adamw", "sgd", "sam", "imbsam")
AGGREGATIONS = ("uniform", "stability", "prior")

# The least rows of a training batch that data.least_batches makes smaller.
LEAST_BATCH = 16

# The smallest share of a batch whose own statistics a worker may normalise by.
MIN_ROWS_PER_OWN_NORM = 16


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which rows a run reads, how they are kept, drawn and augmented."""

    cache: str = option(
        "auto",
        "memory: decode once and share; stream: decode every epoch; auto: by size",
        choices=CACHE_MODES,
    )
    memory_share: float = option(
        0.3,
        "auto: largest share of the object store that the decoded training set may take",
        low=0.0,
        high=1.0,
    )
    engine: str = option(
        "auto",
        "stream: what reads: the worker itself, or Ray Data; threads of the worker decode, or Ray"
        " Data tasks where those are too slow and CPUs are idle; auto: ray where Ray runs",
        choices=STREAM_ENGINES,
    )
    sampler: str = option("instance", "how training rows are drawn", choices=SAMPLERS)
    batch_size: int = option(64, "rows of one global batch, all workers together", low=1)
    least_batches: int = option(
        12,
        "batches of an epoch, at least: with few training rows a batch has fewer rows than"
        " data.batch_size, but not fewer than 16; 0 is off",
        low=0,
    )
    imbalance_ratio: float = option(
        0.0, "cut the training set to an exponential long tail of this ratio; 0 is off", low=0.0
    )
    modalities: str = option("", "comma-separated modalities to use; empty is all")
    max_rows: int = option(0, "use at most this many training rows; 0 is all", low=0)
    folds: int = option(
        1,
        "cut training and validation rows together into so many parts, alike in classes, none of"
        " which shares a group with another; 1 keeps the splits of ingest.py",
        low=1,
        high=20,
    )
    fold: int = option(
        0, "the part that is for validation, from 0; the other data.folds - 1 train", low=0, high=19
    )
    shuffle_buffer: int = option(4096, "stream: rows of the local shuffle buffer", low=1)
    flip: str = option(
        "auto",
        "training images are flipped at random; auto: as far as ingest.py has found that a class"
        " does not depend on it",
        choices=("auto", "none", "horizontal", "vertical", "both"),
    )
    shift: float = option(
        0.08, "training images are shifted by up to this share of their size", low=0.0, high=0.5
    )
    zoom: float = option(0.1, "training images are scaled by up to this share", low=0.0, high=0.9)
    rotate: float = option(
        10.0, "training images are rotated by up to this many degrees", low=0.0, high=180.0
    )
    colour: float = option(
        0.1,
        "brightness and contrast of training images change by up to this share",
        low=0.0,
        high=0.9,
    )
    erase: float = option(
        0.0, "share of a training image's side that a random square covers", low=0.0, high=0.9
    )
    cell_dropout: float = option(
        0.05, "probability that a table cell of a training row is set to missing", low=0.0, high=0.9
    )
    spoil: float = option(
        0.1,
        "share of the training records of which each modality is spoilt on purpose, so that the"
        " fusion learns which modality to trust; 0 is off",
        low=0.0,
        high=0.5,
    )
    degrade: float = option(
        0.15,
        "share of the training records of which each image with a pretrained encoder is made"
        " harder to see: fogged, recoloured, pixelated, compressed, struck out, speckled, partly"
        " hidden or turned; 0 is off",
        low=0.0,
        high=0.9,
    )
    spoil_without: str = option(
        "",
        "kinds that are left out, comma-separated: of data.spoil"
        f" {', '.join(SPOILING_KINDS)} (with another record's content),"
        f" of data.degrade {', '.join(DEGRADING_KINDS)}",
    )
    corrupt: str = option(
        "",
        "sabotage for studies: MODALITY=noise|shuffle|missing[:FRACTION], comma-separated,"
        " applied to every split",
    )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser, its schedule, and which epoch counts as the best."""

    name: str = option("adamw", "optimiser", choices=OPTIMISERS)
    epochs: int = option(20, "passes over the training set", low=1)
    lr: float = option(2e-3, "peak learning rate", low=0.0)
    backbone_lr: float = option(
        2e-4, "peak learning rate of the trained weights of a pretrained image encoder", low=0.0
    )
    probe: float = option(
        0.1,
        "share of the steps, at the beginning, in which a pretrained image encoder is not trained",
        low=0.0,
        high=1.0,
    )
    weight_decay: float = option(0.05, "decoupled weight decay (sgd: L2)", low=0.0)
    momentum: float = option(0.9, "momentum of sgd", low=0.0, high=0.999)
    warmup: float = option(
        0.1, "share of the steps with a rising learning rate, before the cosine", low=0.0, high=0.9
    )
    clip: float = option(5.0, "largest norm of the gradient; 0 is off", low=0.0)
    accumulate: int = option(1, "batches whose gradients are added before one step", low=1)
    ema: float = option(
        0.99,
        "decay of the averaged weights that are evaluated and saved; 0 is off",
        low=0.0,
        high=0.99999,
    )
    sam_rho: float = option(0.05, "radius of SAM and ImbSAM", low=0.0)
    precision: str = option(
        "auto",
        "auto: bfloat16 where the device has it, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = option(False, "torch.compile the network")
    patience: int = option(
        0, "stop after this many epochs without a better validation score; 0 is never", low=0
    )
    best_epoch_after: float = option(
        0.33,
        "share of the epochs that must be over before one can count as the best;"
        " with 0, or with optim.patience, every epoch can",
        low=0.0,
        high=0.99,
    )
    metric: str = option(
        "balanced_accuracy",
        "validation metric that picks the best epoch (also recall/CLASS, precision/CLASS)",
    )
    seed: int = option(0, "seed of weights, order and augmentation", low=0, high=MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """An optional second stage that retrains or rescales the classifiers."""

    kind: str = option(
        "none",
        "second stage on frozen features: crt, lws (learned scales), tau (tau-normalised weights)",
        choices=("none", *SECOND_STAGES),
    )
    epochs: int = option(5, "epochs of crt and lws, class-balanced", low=1)
    tau: float = option(0.7, "exponent of tau-normalisation", low=0.0, high=2.0)


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How a trained model turns its experts' outputs into decisions."""

    aggregation: str = option("uniform", "how experts are weighted at test", choices=AGGREGATIONS)
    calibrate: bool = option(True, "fit temperatures on validation")
    decision_offsets: str = option(
        "none",
        "fit one decision offset per class on validation for this metric",
        choices=("none", *OFFSET_METRICS),
    )
    mirror: bool = option(
        True,
        "see every image together with its mirror images, as data.flip allows them: their features"
        " are averaged",
    )
    batch_size: int = option(512, "rows of an evaluation batch", low=1)


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Number of training processes, their resources, and how failures are handled."""

    workers: int = option(1, "training processes", low=1)
    min_workers: int = option(
        0, "elastic training may shrink to this many workers; 0 is a fixed number", low=0
    )
    gpus_per_worker: float = option(0.0, "GPUs per worker, fractions allowed; 0 is CPU", low=0.0)
    cpus_per_worker: float = option(1.0, "CPUs per worker", low=0.0)
    threads: int = option(1, "torch threads per worker; 0 leaves torch's default", low=0)
    sync_batch_norm: bool = option(
        True,
        "batch statistics of all workers' rows, so that N workers train as one;"
        " false: of each worker's own rows, which saves two exchanges per layer",
    )
    max_failures: int = option(
        3, "restarts of the worker group before the run fails; -1 is no limit", low=-1
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one run. model/config.py declares the sections that belong to the model."""

    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    table: TableConfig = TableConfig()
    fusion: FusionConfig = FusionConfig()
    experts: ExpertsConfig = ExpertsConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    stage: StageConfig = StageConfig()
    inference: InferenceConfig = InferenceConfig()
    scaling: ScalingConfig = ScalingConfig()
    dim: int = option(128, "embedding size D of every modality", low=4, high=4096)

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            dim=self.dim,
            mirror=self.data.flip if self.inference.mirror else "none",
            image=self.image,
            table=self.table,
            fusion=self.fusion,
            experts=self.experts,
            loss=self.loss,
        )


def split_list(value: str) -> tuple[str, ...]:
    """Returns the parts of a comma-separated setting, without blanks and empty parts.

    Raises ValueError for a text without any part, such as a comma: only "" stands for none.
    """
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if value and not parts:
        raise ValueError(f"a list of names must hold a name; got {value!r}")
    return parts
